/** What every peer is given: shapes, work, seeded inputs. All numbers that a result depends on begin here. */
import { saganPresets } from '../../src/models/sagan.ts';
import type { SaganPreset } from '../../src/models/sagan.ts';
import { kaimingUniform } from '../../src/nn/init.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { fail } from '../../src/util/errors.ts';
import { unknownWord } from '../../src/util/nearest.ts';
import { HostRng } from '../../src/util/philox.ts';
import { sizeOf } from '../../src/util/shape.ts';
import type { Shape } from '../../src/util/shape.ts';
import {
  attentionConvs,
  attentionFlops,
  ganSpec,
  lossSteps,
  stateShapes,
  stepFlops,
} from './gan.ts';
import type { GanSpec } from './gan.ts';

/** One operation or one training step. Tensors are NCHW at this interface; a peer may keep them as it likes. */
export type Work =
  /** a [batch?, M, K] · b [batch?, K, N] → y */
  | { readonly op: 'matmul' }
  /** rows of x → y */
  | { readonly op: 'softmax' }
  /** x, w → y */
  | { readonly op: 'conv2d' | 'convTranspose2d'; readonly stride: number; readonly padding: number }
  /** x and the block's parameters → y = gamma·attention(x) + x */
  | { readonly op: 'attention' }
  /** net parameters, real, zD, zG → lossD, lossG of each step */
  | { readonly op: 'gan'; readonly spec: GanSpec; readonly preset: SaganPreset | null };

export interface PeerCase {
  readonly name: string;
  readonly title: string;
  readonly work: Work;
  /** Forward, and the gradients of every input for a given dy, named `d.<input>`. Means nothing for a training step. */
  readonly backward: boolean;
  readonly inputs: readonly (readonly [name: string, shape: Shape])[];
  /** Multiplications and additions, a backward pass counted as two forward ones. */
  readonly flops: number;
}

export type Values = ReadonlyMap<string, Float32Array>;

const N = 16;

function matmulCase(size: number): PeerCase {
  return {
    name: `matmul-${size}`,
    title: `matmul ${size}³`,
    work: { op: 'matmul' },
    backward: false,
    inputs: [
      ['a', [size, size]],
      ['b', [size, size]],
    ],
    flops: 2 * size ** 3,
  };
}

const bmm: PeerCase = {
  name: 'bmm',
  title: 'bmm 16×[256×64]·[64×256]',
  work: { op: 'matmul' },
  backward: false,
  inputs: [
    ['a', [N, 256, 64]],
    ['b', [N, 64, 256]],
  ],
  flops: 2 * N * 256 * 64 * 256,
};

const softmax: PeerCase = {
  name: 'softmax',
  title: 'softmax 16×256 rows of 256',
  work: { op: 'softmax' },
  backward: false,
  inputs: [['x', [N, 256, 256]]],
  flops: 5 * N * 256 * 256,
};

function bothWays(base: Omit<PeerCase, 'backward'>, y: Shape): PeerCase[] {
  return [
    { ...base, name: `${base.name}-fwd`, title: `${base.title}, fwd`, backward: false },
    {
      ...base,
      title: `${base.title}, fwd+bwd`,
      backward: true,
      inputs: [...base.inputs, ['dy', y]],
      flops: 3 * base.flops,
    },
  ];
}

function convCases(name: string, kernel: number, stride: number): PeerCase[] {
  const out = 32 / stride;
  return bothWays(
    {
      name,
      title: `conv ${kernel}×${kernel}${stride === 1 ? '' : ` s${stride}`}`,
      work: { op: 'conv2d', stride, padding: 1 },
      inputs: [
        ['x', [N, 64, 32, 32]],
        ['w', [128, 64, kernel, kernel]],
      ],
      flops: 2 * N * out * out * 64 * 128 * kernel ** 2,
    },
    [N, 128, out, out],
  );
}

const convTransposeCases = bothWays(
  {
    name: 'convT4s2',
    title: 'convT 4×4 s2',
    work: { op: 'convTranspose2d', stride: 2, padding: 1 },
    inputs: [
      ['x', [N, 128, 16, 16]],
      ['w', [128, 64, 4, 4]],
    ],
    flops: 2 * N * 16 * 16 * 128 * 64 * 16,
  },
  [N, 64, 32, 32],
);

function attentionCases(side: number): PeerCase[] {
  const channels = 64;
  const x = [N, channels, side, side];
  const convs = attentionConvs({ name: '', channels, spectral: false });
  return bothWays(
    {
      name: `attention-${side}`,
      title: `attention ${side}×${side}`,
      work: { op: 'attention' },
      inputs: [
        ['x', x],
        ['gamma', [1]],
        ...convs.flatMap(({ name, from, to }): [string, Shape][] => [
          [`${name.slice(1)}.weight`, [to, from, 1, 1]],
          [`${name.slice(1)}.bias`, [to]],
        ]),
      ],
      flops: attentionFlops(N, channels, side ** 2),
    },
    x,
  );
}

/** A step of sagan-32 without spectral norms: what the other libraries have all the layers for. */
const ganStep = ganCase('gan-step', 'GAN step', ganSpec(saganPresets['sagan-32'], N, false), null);

/** A step of a preset as it is trained; of the batch given, else the preset's own. */
function presetCase(preset: SaganPreset, batch: number | undefined): PeerCase {
  const own = batch ?? resolveConfig({ data: 'none', preset }).batch;
  return ganCase(preset, `${preset} step`, ganSpec(saganPresets[preset], own, true), preset);
}

function ganCase(name: string, title: string, spec: GanSpec, preset: SaganPreset | null): PeerCase {
  const { imageSize, channels, latentSize } = spec;
  const state = (net: string, shapes: [string, Shape][]) =>
    shapes.map(([key, shape]) => [`${net}.${key}`, shape] as const);
  return {
    name,
    title: `${title}, batch ${spec.batch}`,
    work: { op: 'gan', spec, preset },
    backward: true,
    inputs: [
      ...state('g', stateShapes(spec.generator)),
      ...state('d', stateShapes(spec.discriminator)),
      ['real', [lossSteps, spec.batch, channels, imageSize, imageSize]],
      ['zD', [lossSteps, spec.batch, latentSize]],
      ['zG', [lossSteps, spec.batch, latentSize]],
    ],
    flops: stepFlops(spec),
  };
}

/** What a sitting can choose among its cases. */
export interface CaseOptions {
  /** Sides of the square matmul. Default 256, 512, 1024. */
  readonly sizes?: readonly number[] | undefined;
  /** Images of a preset's step. Default: the preset's own; what a CPU does in seconds on a software driver. */
  readonly batch?: number | undefined;
  readonly software?: boolean;
}

const defaultSizes = [256, 512, 1024];

/** At its own batch a step of the larger ones would take the slowest peer minutes on a software driver. */
const softwareBatches: Readonly<Record<SaganPreset, number>> = {
  'sagan-32-tiny': 16,
  'sagan-32': 16,
  'sagan-64': 4,
  'sagan-128': 1,
  'sagan-256': 1,
};

/** What runs only where it is asked for: golden.json has no losses of it, and PyTorch's float64 takes long to make them. */
const leftOut: ReadonlySet<string> = new Set(['sagan-128', 'sagan-256']);
/** On a software driver this takes long by itself. */
const leftOutOfSoftware = 'sagan-64';

/** Every case, in the order in which they run. */
export function allCases({ sizes, batch, software = false }: CaseOptions = {}): PeerCase[] {
  const batchOf = (preset: SaganPreset) =>
    batch ?? (software ? softwareBatches[preset] : undefined);
  return [
    ...(sizes ?? defaultSizes).map(matmulCase),
    bmm,
    softmax,
    ...convCases('conv3', 3, 1),
    ...convCases('conv4s2', 4, 2),
    ...convTransposeCases,
    ...attentionCases(16),
    ...attentionCases(32),
    ganStep,
    ...keysOf(saganPresets).map((preset) => presetCase(preset, batchOf(preset))),
  ];
}

/** The cases of these names, or of names that begin so. Throws a `UserError` for a name that fits none. */
export function chooseCases(
  names: readonly string[] | undefined,
  options: CaseOptions = {},
): PeerCase[] {
  const all = allCases(options);
  if (names === undefined) {
    const isOut = ({ name }: PeerCase) =>
      leftOut.has(name) || (options.software === true && name === leftOutOfSoftware);
    return all.filter((c) => !isOut(c));
  }
  const exact = new Set(all.map((c) => c.name));
  const fits = (c: PeerCase, name: string) =>
    exact.has(name) ? c.name === name : c.name.startsWith(name);
  for (const name of names) {
    if (all.some((c) => fits(c, name))) continue;
    failUnknown('--cases', name, [...exact]);
  }
  return all.filter((c) => names.some((name) => fits(c, name)));
}

/** The keys of a table whose type names them. */
export function keysOf<K extends string>(record: Readonly<Record<K, unknown>>): K[] {
  return Object.keys(record) as K[];
}

/** Throws a `UserError` that names the one that was perhaps meant, and all that there are. */
export function failUnknown(flag: string, name: string, known: readonly string[]): never {
  return fail(`${flag} ${unknownWord(name, known)}`);
}

/**
 * The inputs: uniform in ±1, weights in PyTorch's ±1/√fan_in, normalisation at 1 and 0, gamma ½ so that attention
 * carries gradient. No function but √ is used, so that every machine gets the same bits.
 */
export function inputsOf(c: PeerCase): Map<string, Float32Array> {
  return new Map(
    c.inputs.map(([name, shape], i) => {
      const rng = new HostRng(1, { stream: [i, 0] });
      return [name, fill(name, shape, rng)];
    }),
  );
}

function fill(name: string, shape: Shape, rng: HostRng): Float32Array {
  const even = (bound: number) =>
    Float32Array.from({ length: sizeOf(shape) }, () => (2 * rng.uniform() - 1) * bound);
  if (name.endsWith('gamma')) return Float32Array.of(0.5);
  if (shape.length === 4 && /(^w|weight|weight_orig)$/.test(name))
    return kaimingUniform(shape, rng);
  // Batch norm's weight is the only one with a single axis.
  if (name.endsWith('.weight')) return new Float32Array(sizeOf(shape)).fill(1);
  if (name.endsWith('.bias')) return even(0.1);
  if (name.endsWith('_u')) {
    const u = even(1);
    const norm = Math.sqrt(u.reduce((s, x) => s + x * x, 0));
    return u.map((x) => x / norm);
  }
  return even(1);
}
