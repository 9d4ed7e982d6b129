import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';
import { rowsForm, rowsGrid } from './rows.ts';
import { powerOfTwoAbove, splitTerms } from './split.ts';
import type { Split } from './split.ts';

/** How a channel's sums are made: a part a thread (software adapters), or a part a workgroup. */
export type NormRung = 'thread' | 'tree';

const partDims = ['N', 'C', 'L', 'C0', 'C1', 'P1', 'parts'] as const;
type PartDims = Dims<(typeof partDims)[number]>;
type Tile = (name: string) => number;

const byThread = ({ parts, C }: PartDims, tile: Tile): Grid => linearGrid(parts * C, tile('WG'));
const byGroup = ({ parts, C }: PartDims): Grid => linearGrid(parts * C, 1);
const sumsCost = (tensors: number) => ({
  flops: ({ N, C, L }: Dims<'N' | 'C' | 'L'>) => 4 * N * C * L,
  bytes: ({ N, C, L, parts }: PartDims) => 4 * tensors * N * C * L + 8 * parts * C,
});

const statsThread = { file: 'norm/stats_thread.wgsl', dims: partDims, grid: byThread } as const;
export const statsThreadScalar = kernel({
  ...statsThread,
  entry: 'scalar',
  tensors: ['x', 'partMean', 'partM2'],
  ...sumsCost(1),
});
export const statsThreadQuads = kernel({
  ...statsThread,
  entry: 'quads',
  tensors: ['xQuads', 'partMean', 'partM2'],
  ...sumsCost(1),
});
export const statsTree = kernel({
  file: 'norm/stats_tree.wgsl',
  tensors: ['x', 'partMean', 'partM2'],
  dims: [...partDims, 'W'],
  grid: byGroup,
  ...sumsCost(1),
  needs: { workgroupBytes: 1024 },
});
export const statsJoin = kernel({
  file: 'norm/stats_join.wgsl',
  tensors: ['partMean', 'partM2', 'mean', 'invStd', 'variance'],
  dims: [...partDims, 'eps'],
  grid: ({ C }, tile) => [ceilDiv(C, tile('WG')), 1, 1],
  flops: ({ C, parts }) => 8 * parts * C,
  bytes: ({ C, parts }) => 4 * C * (2 * parts + 3),
});

const gradsThread = { file: 'norm/grads_thread.wgsl', dims: partDims, grid: byThread } as const;
export const gradsThreadScalar = kernel({
  ...gradsThread,
  entry: 'scalar',
  tensors: ['x', 'dy', 'mean', 'invStd', 'sums'],
  ...sumsCost(2),
});
export const gradsThreadQuads = kernel({
  ...gradsThread,
  entry: 'quads',
  tensors: ['xQuads', 'dyQuads', 'mean', 'invStd', 'sums'],
  ...sumsCost(2),
});
export const gradsTree = kernel({
  file: 'norm/grads_tree.wgsl',
  tensors: ['x', 'dy', 'mean', 'invStd', 'sums'],
  dims: [...partDims, 'W'],
  grid: byGroup,
  ...sumsCost(2),
  needs: { workgroupBytes: 2048 },
});
export const gradsJoin = kernel({
  file: 'norm/grads_join.wgsl',
  tensors: ['sums', 'dgamma', 'dbeta'],
  dims: ['C', 'parts'],
  grid: ({ C }, tile) => [ceilDiv(C, tile('WG')), 1, 1],
  flops: ({ C, parts }) => 2 * parts * C,
  bytes: ({ C, parts }) => 8 * C * (parts + 1),
});

type Planes = Dims<'N' | 'C' | 'L'>;
const elementwise = (perUnit: number) => (dims: Planes, tile: Tile) =>
  rowsGrid(dims.N * dims.C, {
    units: dims.L / perUnit,
    each: tile('WG'),
    rows: tile('ROWS'),
  });

const applyRecord = {
  file: 'norm/apply.wgsl',
  dims: ['N', 'C', 'L'],
  tile: { SCALE: 'true', SHIFT: 'true', ROWS: 1, WG: 64 },
  flops: ({ N, C, L }: Planes) => 4 * N * C * L,
  bytes: ({ N, C, L }: Planes) => 8 * N * C * L,
} as const;
export const applyScalar = kernel({
  ...applyRecord,
  entry: 'scalar',
  tensors: ['x', 'mean', 'invStd', 'gamma', 'beta', 'out'],
  grid: elementwise(1),
});
export const applyQuads = kernel({
  ...applyRecord,
  entry: 'quads',
  tensors: ['xQuads', 'mean', 'invStd', 'gamma', 'beta', 'outQuads'],
  grid: elementwise(4),
});

const dxRecord = {
  file: 'norm/dx.wgsl',
  dims: ['N', 'C', 'L', 'share'],
  tile: { SCALE: 'true', ROWS: 1, WG: 64 },
  flops: ({ N, C, L }: Planes) => 6 * N * C * L,
  bytes: ({ N, C, L }: Planes) => 12 * N * C * L,
} as const;
export const dxScalar = kernel({
  ...dxRecord,
  entry: 'scalar',
  tensors: ['x', 'dy', 'mean', 'invStd', 'gamma', 'dgamma', 'dbeta', 'dx'],
  grid: elementwise(1),
});
export const dxQuads = kernel({
  ...dxRecord,
  entry: 'quads',
  tensors: ['xQuads', 'dyQuads', 'mean', 'invStd', 'gamma', 'dgamma', 'dbeta', 'dxQuads'],
  grid: elementwise(4),
});

const runningRecord = {
  file: 'norm/running.wgsl',
  dims: ['C', 'momentum', 'unbias', 'eps'],
  grid: ({ C }: Dims<'C'>, tile: Tile): Grid => [ceilDiv(C, tile('WG')), 1, 1],
} as const;
export const running = kernel({
  ...runningRecord,
  entry: 'running',
  tensors: ['mean', 'variance', 'runningMean', 'runningVar'],
  flops: ({ C }) => 7 * C,
  bytes: ({ C }) => 24 * C,
});
export const invert = kernel({
  ...runningRecord,
  entry: 'invert',
  tensors: ['spread', 'invStd'],
  flops: ({ C }) => 3 * C,
  bytes: ({ C }) => 8 * C,
});

interface Sizes {
  readonly N: number;
  readonly C: number;
  /** Positions: H·W, or 1. */
  readonly L: number;
}

/** Trees on GPUs, threads on software adapters. */
export function chooseNorm(gpu: Gpu): NormRung {
  return gpu.adapter.kind === 'software' ? 'thread' : 'tree';
}

function partsOf({ N, C, L }: Sizes, rung: NormRung): Split {
  const [wanted, fewestTerms] = rung === 'thread' ? [512, 256] : [512, 2048];
  return splitTerms({ units: C, R0: N, R1: L, wanted, fewestTerms });
}

/** True where a thread may read vec4s: every row and every part begins at a multiple of 4. */
const fitsQuads = (L: number, { C1 }: Split) => L % 4 === 0 && C1 % 4 === 0;

export interface BatchNormStatsArgs extends Sizes {
  /** [N, C, L] */
  readonly x: Storage;
  /** Results, each [C]. The variance is the biased one; invStd = 1/√(variance + eps). */
  readonly mean: Storage;
  readonly invStd: Storage;
  readonly variance: Storage;
  readonly eps: number;
  /** Default: chosen for the adapter. */
  readonly rung?: NormRung;
}

/** Mean and variance of every channel over N and L, by deviations from part means: accurate at any mean. */
export function batchNormStats(gpu: Gpu, args: BatchNormStatsArgs): void {
  const { x, mean, invStd, variance, N, C, L, eps, rung = chooseNorm(gpu) } = args;
  const split = partsOf(args, rung);
  const dims = { N, C, L, ...split };
  const partMean = gpu.alloc(4 * split.parts * C, 'batchNorm part means');
  const partM2 = gpu.alloc(4 * split.parts * C, 'batchNorm part deviations');
  if (rung === 'tree') {
    const W = Math.min(256, powerOfTwoAbove(split.C1));
    statsTree.run(gpu, { tensors: { x, partMean, partM2 }, dims: { ...dims, W } });
  } else if (fitsQuads(L, split)) {
    statsThreadQuads.run(gpu, { tensors: { xQuads: x, partMean, partM2 }, dims });
  } else statsThreadScalar.run(gpu, { tensors: { x, partMean, partM2 }, dims });
  const tensors = { partMean, partM2, mean, invStd, variance };
  statsJoin.run(gpu, { tensors, dims: { ...dims, eps } });
}

export interface BatchNormApplyArgs extends Sizes {
  readonly x: Storage;
  readonly mean: Storage;
  readonly invStd: Storage;
  /** [C]; left out: 1. */
  readonly gamma?: Storage;
  /** [C]; left out: 0. */
  readonly beta?: Storage;
  readonly out: Storage;
}

/** out = (x − mean)·invStd·gamma + beta, by channel. */
export function batchNormApply(gpu: Gpu, args: BatchNormApplyArgs): void {
  const { x, mean, invStd, gamma, beta, out, N, C, L } = args;
  const rest = { mean, invStd, gamma: gamma ?? mean, beta: beta ?? mean };
  const quads = L % 4 === 0;
  const tile = {
    SCALE: String(gamma !== undefined),
    SHIFT: String(beta !== undefined),
    ROWS: rowsForm(quads ? L / 4 : L, applyRecord.tile.WG),
  };
  const dims = { N, C, L };
  if (quads) applyQuads.run(gpu, { tensors: { xQuads: x, ...rest, outQuads: out }, dims, tile });
  else applyScalar.run(gpu, { tensors: { x, ...rest, out }, dims, tile });
}

export interface BatchNormBackwardArgs extends Sizes {
  readonly x: Storage;
  /** Gradient of the output, [N, C, L]. */
  readonly dy: Storage;
  readonly mean: Storage;
  readonly invStd: Storage;
  readonly gamma?: Storage;
  /** Results; what is left out is not computed, or only in scratch. */
  readonly dx?: Storage;
  readonly dgamma?: Storage;
  readonly dbeta?: Storage;
  /** Default: chosen for the adapter. */
  readonly rung?: NormRung;
}

/** Gradients of batch norm in training: mean and invStd are functions of x. */
export function batchNormBackward(gpu: Gpu, args: BatchNormBackwardArgs): void {
  const { x, dy, mean, invStd, gamma, dx, N, C, L, rung = chooseNorm(gpu) } = args;
  const split = partsOf(args, rung);
  const dims = { N, C, L, ...split };
  const sums = gpu.alloc(8 * split.parts * C, 'batchNorm gradient parts');
  const dgamma = args.dgamma ?? gpu.alloc(4 * C, 'batchNorm dgamma');
  const dbeta = args.dbeta ?? gpu.alloc(4 * C, 'batchNorm dbeta');
  if (rung === 'tree') {
    const W = Math.min(256, powerOfTwoAbove(split.C1));
    gradsTree.run(gpu, { tensors: { x, dy, mean, invStd, sums }, dims: { ...dims, W } });
  } else if (fitsQuads(L, split)) {
    const tensors = { xQuads: x, dyQuads: dy, mean, invStd, sums };
    gradsThreadQuads.run(gpu, { tensors, dims });
  } else gradsThreadScalar.run(gpu, { tensors: { x, dy, mean, invStd, sums }, dims });
  gradsJoin.run(gpu, { tensors: { sums, dgamma, dbeta }, dims: { C, parts: split.parts } });
  if (dx === undefined) return;

  const rest = { mean, invStd, gamma: gamma ?? mean, dgamma, dbeta };
  const quads = L % 4 === 0;
  const tile = {
    SCALE: String(gamma !== undefined),
    ROWS: rowsForm(quads ? L / 4 : L, dxRecord.tile.WG),
  };
  const sizes = { N, C, L, share: 1 / (N * L) };
  if (quads) {
    const tensors = { xQuads: x, dyQuads: dy, ...rest, dxQuads: dx };
    dxQuads.run(gpu, { tensors, dims: sizes, tile });
  } else dxScalar.run(gpu, { tensors: { x, dy, ...rest, dx }, dims: sizes, tile });
}

/** Moves the running statistics [C] in place; `count` = N·L makes the variance unbiased, as PyTorch does. */
export function batchNormRunning(
  gpu: Gpu,
  args: {
    mean: Storage;
    variance: Storage;
    runningMean: Storage;
    runningVar: Storage;
    C: number;
    momentum: number;
    count: number;
  },
): void {
  const { mean, variance, runningMean, runningVar, C, momentum, count } = args;
  const tensors = { mean, variance, runningMean, runningVar };
  const unbias = count / Math.max(1, count - 1);
  running.run(gpu, { tensors, dims: { C, momentum, unbias, eps: 0 } });
}

/** invStd = 1/√(variance + eps), C elements; for evaluation. */
export function invStdOf(
  gpu: Gpu,
  args: { variance: Storage; invStd: Storage; C: number; eps: number },
): void {
  const { variance, invStd, C, eps } = args;
  const dims = { C, momentum: 0, unbias: 1, eps };
  invert.run(gpu, { tensors: { spread: variance, invStd }, dims });
}
