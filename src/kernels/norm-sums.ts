import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';
import { activationOf } from './activation.ts';
import type { FusedActivation } from './activation.ts';
import { canRun, kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid, Kernel } from './kernel.ts';
import { bytesOf, precisionOf, storedOf } from './precision.ts';
import type { Ladder, Rung } from './rung.ts';
import { powerOfTwoAbove, splitTerms } from './split.ts';
import type { Split } from './split.ts';

export interface NormSizes {
  readonly N: number;
  readonly C: number;
  /** Positions: H·W, or 1. */
  readonly L: number;
  /** What x and dy are made of; statistics, sums and parameters are f32. */
  readonly stored?: Stored | undefined;
}

/** Tensors with a number a channel, as every kernel of the norm binds them. */
export const perChannel = ['mean', 'invStd', 'gamma', 'beta'] as const;

// ---- kernels --------------------------------------------------------------------------------------------------------

const sizeDims = ['N', 'C', 'L'] as const;
const partDims = [...sizeDims, 'C0', 'C1', 'P1', 'parts'] as const;
type PartDims = Dims<(typeof partDims)[number]>;
type Tile = (name: string) => number;

const byChannel = ({ C }: Dims<'C'>, tile: Tile): Grid => linearGrid(C, tile('WG'));
const byThread = ({ parts, C }: PartDims, tile: Tile): Grid => linearGrid(parts * C, tile('WG'));
const byGroup = ({ parts, C }: PartDims): Grid => linearGrid(parts * C, 1);
const cost = (tensors: number) => ({
  flops: ({ N, C, L }: Dims<'N' | 'C' | 'L'>) => 4 * N * C * L,
  bytes: ({ N, C, L }: Dims<'N' | 'C' | 'L'>, each = 4) => each * tensors * N * C * L,
});
const ladderCost = (tensors: number) => {
  const { flops, bytes } = cost(tensors);
  return {
    flops: ({ N, C, L }: NormSizes) => flops({ N, C, L }),
    bytes: ({ N, C, L, stored }: NormSizes) => bytes({ N, C, L }, bytesOf({ stored })),
  };
};

const statsOut = ['partMean', 'partM2'] as const;
const statsNaive = kernel({
  file: 'norm/stats_1_naive.wgsl',
  tensors: ['x', ...statsOut],
  dims: sizeDims,
  grid: byChannel,
  ...cost(1),
});
const statsParts = {
  file: 'norm/stats_2_parts.wgsl',
  dims: partDims,
  grid: byThread,
  ...cost(1),
} as const;
const statsScalar = kernel({ ...statsParts, entry: 'scalar', tensors: ['x', ...statsOut] });
const statsQuads = kernel({ ...statsParts, entry: 'quads', tensors: ['xQuads', ...statsOut] });
const statsGroup = {
  tensors: ['x', ...statsOut],
  dims: [...partDims, 'W'],
  grid: byGroup,
  ...cost(1),
} as const;
const statsTree = kernel({
  ...statsGroup,
  file: 'norm/stats_3_tree.wgsl',
  needs: { workgroupBytes: 1024 },
});
const statsSubgroups = kernel({
  ...statsGroup,
  file: 'norm/stats_4_subgroups.wgsl',
  needs: { workgroupBytes: 256, features: ['subgroups'] },
});

const joinRecord = {
  file: 'norm/stats_join.wgsl',
  dims: [...partDims, 'eps', 'momentum', 'unbias'],
  grid: ({ C }: Dims<'C'>, tile: Tile): Grid => [ceilDiv(C, tile('WG')), 1, 1],
  flops: ({ C, parts }: Dims<'C' | 'parts'>) => 8 * parts * C,
  bytes: ({ C, parts }: Dims<'C' | 'parts'>) => 4 * C * (2 * parts + 3),
} as const;
const joined = ['partMean', 'partM2', 'mean', 'invStd', 'variance'] as const;
const statsJoin = kernel({ ...joinRecord, entry: 'plain', tensors: joined });
const statsJoinMoving = kernel({
  ...joinRecord,
  entry: 'moving',
  tensors: [...joined, 'runningMean', 'runningVar'],
});

const gradsIn = ['x', 'dy', ...perChannel] as const;
const gradsNaive = kernel({
  file: 'norm/grads_1_naive.wgsl',
  tensors: [...gradsIn, 'sums'],
  dims: [...sizeDims, 'slope'],
  grid: byChannel,
  ...cost(2),
});
const gradsParts = {
  file: 'norm/grads_2_parts.wgsl',
  dims: [...partDims, 'slope'],
  grid: byThread,
  ...cost(2),
} as const;
const gradsScalar = kernel({ ...gradsParts, entry: 'scalar', tensors: [...gradsIn, 'sums'] });
const gradsQuads = kernel({
  ...gradsParts,
  entry: 'quads',
  tensors: ['xQuads', 'dyQuads', ...perChannel, 'sums'],
});
const gradsGroup = {
  tensors: [...gradsIn, 'sums'],
  dims: [...partDims, 'W', 'slope'],
  grid: byGroup,
  ...cost(2),
} as const;
const gradsTree = kernel({
  ...gradsGroup,
  file: 'norm/grads_3_tree.wgsl',
  needs: { workgroupBytes: 2048 },
});
const gradsSubgroups = kernel({
  ...gradsGroup,
  file: 'norm/grads_4_subgroups.wgsl',
  needs: { workgroupBytes: 512, features: ['subgroups'] },
});
const gradsJoin = kernel({
  file: 'norm/grads_join.wgsl',
  tensors: ['sums', 'dgamma', 'dbeta', 'means'],
  dims: ['C', 'parts', 'share'],
  grid: ({ C }, tile) => [ceilDiv(C, tile('WG')), 1, 1],
  flops: ({ C, parts }) => 2 * parts * C,
  bytes: ({ C, parts }) => 8 * C * (parts + 1),
});

// ---- how a channel is cut -------------------------------------------------------------------------------------------

const whole = ({ N, L }: NormSizes): Split => ({ parts: 1, P1: 1, C0: N, C1: L });
const parted = (fewestTerms: number) => (sizes: NormSizes) =>
  splitTerms({ units: sizes.C, R0: sizes.N, R1: sizes.L, wanted: 512, fewestTerms });
const byThreads = parted(256);
const byGroups = parted(2048);

/** True where a thread may read vec4s: every row and every part begins at a multiple of 4. */
const fitsQuads = (L: number, { C1 }: Split) => L % 4 === 0 && C1 % 4 === 0;
/** Threads of a workgroup along L. */
const widthOf = ({ C1 }: Split) => Math.min(256, powerOfTwoAbove(C1));

function preferred(family: string) {
  return (gpu: Gpu): readonly string[] =>
    gpu.adapter.kind === 'software'
      ? [`norm/${family}_2_parts`]
      : [`norm/${family}_3_tree`, `norm/${family}_2_parts`];
}

// ---- statistics -----------------------------------------------------------------------------------------------------

export interface NormStatsArgs extends NormSizes {
  /** [N, C, L] */
  readonly x: Storage;
  /** Results, each [C]. The variance is the biased one; invStd = 1/√(variance + eps). */
  readonly mean: Storage;
  readonly invStd: Storage;
  readonly variance: Storage;
  readonly eps: number;
  /** Running statistics [C] to move in place; `momentum` is the share of the new value. */
  readonly running?: {
    readonly mean: Storage;
    readonly variance: Storage;
    readonly momentum: number;
  };
}

interface StatsLaunch {
  readonly x: Storage;
  readonly partMean: Storage;
  readonly partM2: Storage;
  readonly dims: PartDims;
  readonly split: Split;
  readonly stored: Stored;
}

function statsRung(
  kernels: readonly [Kernel, ...Kernel[]],
  splitOf: (sizes: NormSizes) => Split,
  launch: (gpu: Gpu, args: StatsLaunch) => void,
): Rung<NormSizes, NormStatsArgs> {
  const [first] = kernels;
  return {
    name: first.file.replace('.wgsl', ''),
    kernels: [...kernels, statsJoin, statsJoinMoving],
    fits: (gpu) => canRun(gpu, first),
    tiles: () => [{}],
    run: (gpu, args) => {
      const { x, mean, invStd, variance, N, C, L, eps, running } = args;
      const split = splitOf(args);
      const dims = { N, C, L, ...split };
      const partMean = gpu.alloc(4 * split.parts * C, 'batchNorm part means');
      const partM2 = gpu.alloc(4 * split.parts * C, 'batchNorm part deviations');
      launch(gpu, { x, partMean, partM2, dims, split, stored: storedOf(args) });
      const tensors = { partMean, partM2, mean, invStd, variance };
      if (running === undefined) {
        statsJoin.run(gpu, { tensors, dims: { ...dims, eps, momentum: 0, unbias: 1 } });
        return;
      }
      const unbias = (N * L) / Math.max(1, N * L - 1);
      statsJoinMoving.run(gpu, {
        tensors: { ...tensors, runningMean: running.mean, runningVar: running.variance },
        dims: { ...dims, eps, momentum: running.momentum, unbias },
      });
    },
  };
}

/** Mean and variance of every channel, simplest rung first. */
export const normStatsLadder: Ladder<
  NormSizes,
  NormStatsArgs,
  'x' | 'mean' | 'invStd' | 'variance'
> = {
  name: 'norm-stats',
  rungs: [
    statsRung([statsNaive], whole, (gpu, { x, partMean, partM2, dims: { N, C, L }, stored }) => {
      statsNaive.run(gpu, { tensors: { x, partMean, partM2 }, dims: { N, C, L }, stored });
    }),
    statsRung([statsScalar, statsQuads], byThreads, (gpu, { x, dims, split, stored, ...out }) => {
      if (fitsQuads(dims.L, split)) {
        statsQuads.run(gpu, { tensors: { xQuads: x, ...out }, dims, stored });
      } else statsScalar.run(gpu, { tensors: { x, ...out }, dims, stored });
    }),
    ...[statsTree, statsSubgroups].map((made) =>
      statsRung([made], byGroups, (gpu, { x, dims, split, stored, ...out }) => {
        made.run(gpu, { tensors: { x, ...out }, dims: { ...dims, W: widthOf(split) }, stored });
      }),
    ),
  ],
  preferred: preferred('stats'),
  dimsOf: ({ N, C, L, stored }) => ({ N, C, L, ...precisionOf({ stored }) }),
  operands: ({ N, C, L }) => ({ x: N * C * L, mean: C, invStd: C, variance: C }),
  outputs: ['mean', 'invStd', 'variance'],
  halves: ['x'],
  argsOf: (dims, storages) => ({ ...dims, ...storages, eps: 1e-5 }),
  ...ladderCost(1),
};

// ---- sums of the gradients ------------------------------------------------------------------------------------------

export interface NormGradsArgs extends NormSizes {
  readonly x: Storage;
  /** Gradient of the output, [N, C, L]. */
  readonly dy: Storage;
  readonly mean: Storage;
  readonly invStd: Storage;
  readonly gamma?: Storage | undefined;
  readonly beta?: Storage | undefined;
  readonly activation?: FusedActivation | undefined;
  /** Results: Σ g·x̂ and Σ g [C], and both over N·L in turn [C, 2]. */
  readonly dgamma: Storage;
  readonly dbeta: Storage;
  readonly means: Storage;
}

interface GradsLaunch {
  readonly tensors: Record<(typeof gradsIn)[number] | 'sums', Storage>;
  readonly dims: PartDims & { readonly slope: number };
  readonly tile: Readonly<Record<string, string>>;
  readonly split: Split;
  readonly stored: Stored;
}

function gradsRung(
  kernels: readonly [Kernel, ...Kernel[]],
  splitOf: (sizes: NormSizes) => Split,
  launch: (gpu: Gpu, args: GradsLaunch) => void,
): Rung<NormSizes, NormGradsArgs> {
  const [first] = kernels;
  return {
    name: first.file.replace('.wgsl', ''),
    kernels: [...kernels, gradsJoin],
    fits: (gpu) => canRun(gpu, first),
    tiles: () => [{}],
    run: (gpu, args) => {
      const { x, dy, mean, invStd, gamma, beta, dgamma, dbeta, means, N, C, L } = args;
      const split = splitOf(args);
      const { ACT, slope } = activationOf(args.activation);
      const sums = gpu.alloc(8 * split.parts * C, 'batchNorm gradient parts');
      launch(gpu, {
        tensors: { x, dy, mean, invStd, gamma: gamma ?? mean, beta: beta ?? mean, sums },
        dims: { N, C, L, ...split, slope },
        tile: { ACT, SCALE: String(gamma !== undefined), SHIFT: String(beta !== undefined) },
        split,
        stored: storedOf(args),
      });
      const dims = { C, parts: split.parts, share: 1 / (N * L) };
      gradsJoin.run(gpu, { tensors: { sums, dgamma, dbeta, means }, dims });
    },
  };
}

/** The sums over a channel that all gradients of batch norm need, simplest rung first. */
export const normGradsLadder: Ladder<
  NormSizes,
  NormGradsArgs,
  'x' | 'dy' | 'mean' | 'invStd' | 'dgamma' | 'dbeta' | 'means'
> = {
  name: 'norm-grads',
  rungs: [
    gradsRung([gradsNaive], whole, (gpu, { tensors, dims: { N, C, L, slope }, tile, stored }) => {
      gradsNaive.run(gpu, { tensors, dims: { N, C, L, slope }, tile, stored });
    }),
    gradsRung([gradsScalar, gradsQuads], byThreads, (gpu, { tensors, split, ...rest }) => {
      const { x, dy, ...others } = tensors;
      if (fitsQuads(rest.dims.L, split)) {
        gradsQuads.run(gpu, { tensors: { xQuads: x, dyQuads: dy, ...others }, ...rest });
      } else gradsScalar.run(gpu, { tensors, ...rest });
    }),
    ...[gradsTree, gradsSubgroups].map((made) =>
      gradsRung([made], byGroups, (gpu, { tensors, dims, tile, split, stored }) => {
        made.run(gpu, { tensors, dims: { ...dims, W: widthOf(split) }, tile, stored });
      }),
    ),
  ],
  preferred: preferred('grads'),
  dimsOf: ({ N, C, L, stored }) => ({ N, C, L, ...precisionOf({ stored }) }),
  operands: ({ N, C, L }) => ({
    ...{ x: N * C * L, dy: N * C * L, mean: C, invStd: C },
    ...{ dgamma: C, dbeta: C, means: 2 * C },
  }),
  outputs: ['dgamma', 'dbeta', 'means'],
  halves: ['x', 'dy'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  ...ladderCost(2),
};
