// Convolutions for the tests: their sizes, and every rung of the three ladders beside the float64 loops.
import type { Gpu } from '../../src/gpu/device.ts';
import type { Storage } from '../../src/gpu/storage.ts';
import {
  convDataGradLadder,
  convForwardLadder,
  convWeightGradLadder,
} from '../../src/kernels/conv.ts';
import type { ConvDims, ConvSizes } from '../../src/kernels/conv.ts';
import type { Tile } from '../../src/kernels/kernel.ts';
import { runPicked, servedSizes } from '../../src/kernels/rung.ts';
import type { Ladder, Rung } from '../../src/kernels/rung.ts';
import { conv2d, conv2dBackward } from '../reference/conv.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { expectClose } from './close.ts';
import { execute } from './execute.ts';
import type { Content } from './execute.ts';
import { packHalves, randomHalves, storedAsHalf, unpackHalves } from './half.ts';
import { randomFloats } from './random.ts';

export type Pair = readonly [number, number];
type Round = (value: number) => number;

/** Sizes of a forward convolution; a lone number serves both axes. */
export function convDims(o: {
  N: number;
  C: number;
  K: number;
  size: number | Pair;
  window: number | Pair;
  stride?: number | Pair;
  pad?: number | Pair;
}): ConvDims {
  const pair = (v: number | Pair): Pair => (typeof v === 'number' ? [v, v] : v);
  const [size, window] = [pair(o.size), pair(o.window)];
  const [stride, pad] = [pair(o.stride ?? 1), pair(o.pad ?? 0)];
  const out = (i: 0 | 1) => Math.floor((size[i] + 2 * pad[i] - window[i]) / stride[i]) + 1;
  return {
    ...{ N: o.N, C: o.C, H: size[0], W: size[1], K: o.K, R: window[0], S: window[1] },
    ...{ OH: out(0), OW: out(1), strideH: stride[0], strideW: stride[1] },
    ...{ padH: pad[0], padW: pad[1] },
  };
}

export const convTitle = (d: ConvSizes) =>
  `N${d.N} ${d.C}→${d.K} ${d.H}×${d.W}→${d.OH}×${d.OW} window ${d.R}×${d.S}` +
  ` stride ${d.strideH},${d.strideW} pad ${d.padH},${d.padW}${d.stored === 'f16' ? ' f16' : ''}`;

export const convLengths = (d: ConvDims) => ({
  x: d.N * d.C * d.H * d.W,
  w: d.K * d.C * d.R * d.S,
  dy: d.N * d.K * d.OH * d.OW,
});

/** One rung of one of the three convolutions, for given sizes. */
export interface ConvCheck {
  readonly kind: 'forward' | 'data gradient' | 'weight gradient';
  /** The rung's name. */
  readonly name: string;
  readonly tiles: readonly Tile[];
  /** Runs it on poisoned storages, compares the result with the loops, and returns it. An empty result has nothing to compare. */
  readonly check: (device: Gpu, tile?: Tile) => Promise<Float32Array<ArrayBuffer>>;
}

/**
 * Every rung that serves these sizes on this device. Where they say that tensors are f16, the values are such as f16 holds,
 * and the rungs of f32 run between copies. A slope is that of an activation, of the forward convolution alone.
 */
export function convChecks(
  gpu: Gpu,
  dims: ConvSizes,
  { bias = false, slope }: { bias?: boolean; slope?: number } = {},
): ConvCheck[] {
  const size = convLengths(dims);
  const random = dims.stored === 'f16' ? randomHalves : randomFloats;
  const inputs = { x: random(size.x, 1), w: random(size.w, 2), dy: random(size.dy, 3) };
  const biasOf = { K: randomFloats(dims.K, 4), C: randomFloats(dims.C, 5) };
  const { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW } = dims;
  const reference = {
    ...{ x: Float64Array.from(inputs.x), w: Float64Array.from(inputs.w), N, C, H, W, K, R, S },
    ...{ stride: [strideH, strideW] as const, pad: [padH, padW] as const },
  };
  const dy = Float64Array.from(inputs.dy);
  const backward = {
    f64: once(() => conv2dBackward(reference, dy, f64)),
    f32: once(() => conv2dBackward(reference, dy, f32)),
  };
  const plus = (y: Float64Array, b: Float32Array, area: number, round: Round) =>
    bias ? y.map((v, i) => round(v + b[Math.floor(i / area) % b.length]!)) : y;
  const activated = (y: Float64Array, round: Round) =>
    slope === undefined ? y : y.map((v) => (v > 0 ? v : round(slope * v)));
  const back = (round: Round) => (round === f64 ? backward.f64() : backward.f32());

  const checksOf = <Args extends { readonly dims: ConvSizes }, O extends string>(
    kind: ConvCheck['kind'],
    ladder: Ladder<ConvSizes, Args, O>,
    loops: (round: Round) => Float64Array,
    b?: Float32Array,
  ): ConvCheck[] => {
    const ofHalves: readonly string[] = dims.stored === 'f16' ? (ladder.halves ?? []) : [];
    const outHalves = ofHalves.includes('out');
    const wanted = once(() => {
      const expected = loops(f64);
      const allowed = budget(expected, loops(f32));
      return { expected, allowed: outHalves ? storedAsHalf(allowed) : allowed };
    });
    const given = Object.entries(inputs).map(
      ([name, data]) => [name, ofHalves.includes(name) ? packHalves(data) : data] as const,
    );
    const one = (rung: Rung<ConvSizes, Args>): ConvCheck[] => {
      const served = servedSizes(gpu, { ladder, rung, dims });
      if (served === undefined) return [];
      const tiles = rung.tiles(gpu, served);
      const check = async (device: Gpu, tile?: Tile) => {
        const { expected, allowed } = wanted();
        const n = expected.length;
        const contents: Record<string, Content> = Object.fromEntries(given);
        contents['out'] = outHalves ? Math.ceil(n / 2) : n;
        if (bias && b !== undefined) contents['bias'] = b;
        const { out } = await execute(
          device,
          contents,
          (s) => {
            // argsOf hands on whatever it is given: a bias too.
            const plain = ladder.argsOf(dims, s as Record<O, Storage>);
            const args = slope === undefined ? plain : { ...plain, activation: { slope } };
            if (served === dims) rung.run(device, args, tile);
            else {
              const picked = { rung, tile: tile ?? tiles[0] ?? {}, widened: true };
              runPicked(device, { ladder, args, picked });
            }
          },
          ['out'],
        );
        const result = outHalves ? Float32Array.from(unpackHalves(out!, n)) : out!;
        const what = `${kind} on ${rung.name} ${JSON.stringify(tile ?? {})} of ${convTitle(dims)}`;
        if (n > 0) expectClose(result, expected, allowed, what);
        return result;
      };
      return [{ kind, name: rung.name, tiles, check }];
    };
    return ladder.rungs.flatMap(one);
  };

  const forward = checksOf(
    'forward',
    convForwardLadder,
    (round) => activated(plus(conv2d(reference, round), biasOf.K, OH * OW, round), round),
    biasOf.K,
  );
  if (slope !== undefined) return forward;
  return [
    ...forward,
    ...checksOf(
      'data gradient',
      convDataGradLadder,
      (round) => plus(back(round).dx, biasOf.C, H * W, round),
      biasOf.C,
    ),
    ...checksOf('weight gradient', convWeightGradLadder, (round) => back(round).dw),
  ];
}

function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}
