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
const joinRecord = {
  file: 'norm/stats_join.wgsl',
  dims: [...partDims, 'eps', 'momentum', 'unbias'],
  grid: ({ C }: Dims<'C'>, tile: Tile): Grid => [ceilDiv(C, tile('WG')), 1, 1],
  flops: ({ C, parts }: Dims<'C' | 'parts'>) => 8 * parts * C,
  bytes: ({ C, parts }: Dims<'C' | 'parts'>) => 4 * C * (2 * parts + 3),
} as const;
const joined = ['partMean', 'partM2', 'mean', 'invStd', 'variance'] as const;
export const statsJoin = kernel({ ...joinRecord, entry: 'plain', tensors: joined });
export const statsJoinMoving = kernel({
  ...joinRecord,
  entry: 'moving',
  tensors: [...joined, 'runningMean', 'runningVar'],
});

const gradsThread = {
  file: 'norm/grads_thread.wgsl',
  dims: [...partDims, 'slope'],
  grid: byThread,
} as const;
const perChannel = ['mean', 'invStd', 'gamma', 'beta'] as const;
export const gradsThreadScalar = kernel({
  ...gradsThread,
  entry: 'scalar',
  tensors: ['x', 'dy', ...perChannel, 'sums'],
  ...sumsCost(2),
});
export const gradsThreadQuads = kernel({
  ...gradsThread,
  entry: 'quads',
  tensors: ['xQuads', 'dyQuads', ...perChannel, 'sums'],
  ...sumsCost(2),
});
export const gradsTree = kernel({
  file: 'norm/grads_tree.wgsl',
  tensors: ['x', 'dy', ...perChannel, 'sums'],
  dims: [...partDims, 'W', 'slope'],
  grid: byGroup,
  ...sumsCost(2),
  needs: { workgroupBytes: 2048 },
});
export const gradsJoin = kernel({
  file: 'norm/grads_join.wgsl',
  tensors: ['sums', 'dgamma', 'dbeta', 'means'],
  dims: ['C', 'parts', 'share'],
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
  dims: ['N', 'C', 'L', 'slope'],
  tile: { ACT: 'NONE', SCALE: 'true', SHIFT: 'true', ROWS: 1, WG: 64 },
  flops: ({ N, C, L }: Planes) => 4 * N * C * L,
  bytes: ({ N, C, L }: Planes) => 8 * N * C * L,
} as const;
export const applyScalar = kernel({
  ...applyRecord,
  entry: 'scalar',
  tensors: ['x', ...perChannel, 'out'],
  grid: elementwise(1),
});
export const applyQuads = kernel({
  ...applyRecord,
  entry: 'quads',
  tensors: ['xQuads', ...perChannel, 'outQuads'],
  grid: elementwise(4),
});

const dxRecord = {
  file: 'norm/dx.wgsl',
  dims: ['N', 'C', 'L', 'slope'],
  tile: { ACT: 'NONE', SCALE: 'true', SHIFT: 'true', ROWS: 1, WG: 64 },
  flops: ({ N, C, L }: Planes) => 6 * N * C * L,
  bytes: ({ N, C, L }: Planes) => 12 * N * C * L,
} as const;
export const dxScalar = kernel({
  ...dxRecord,
  entry: 'scalar',
  tensors: ['x', 'dy', ...perChannel, 'means', 'dx'],
  grid: elementwise(1),
});
export const dxQuads = kernel({
  ...dxRecord,
  entry: 'quads',
  tensors: ['xQuads', 'dyQuads', ...perChannel, 'means', 'dxQuads'],
  grid: elementwise(4),
});

export const invert = kernel({
  file: 'norm/invert.wgsl',
  tensors: ['spread', 'invStd'],
  dims: ['C', 'eps'],
  grid: ({ C }, tile) => [ceilDiv(C, tile('WG')), 1, 1],
  flops: ({ C }) => 3 * C,
  bytes: ({ C }) => 8 * C,
});

/** What comes after the norm in the same launch: ReLU, or LeakyReLU with a slope above 0. */
export interface NormActivation {
  /** 0: ReLU. */
  readonly slope: number;
}

/** The constants and the slope of an activation. */
function activationOf(activation: NormActivation | undefined) {
  const slope = activation?.slope ?? 0;
  const ACT = activation === undefined ? 'NONE' : slope === 0 ? 'RELU' : 'LEAKY_RELU';
  return { ACT, slope };
}

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
  /** Running statistics [C] to move in place; `momentum` is the share of the new value. */
  readonly running?: {
    readonly mean: Storage;
    readonly variance: Storage;
    readonly momentum: number;
  };
  /** Default: chosen for the adapter. */
  readonly rung?: NormRung;
}

/**
 * Mean and variance of every channel over N and L, by deviations from part means: accurate at any mean. The running
 * variance takes the unbiased one, as PyTorch's does.
 */
export function batchNormStats(gpu: Gpu, args: BatchNormStatsArgs): void {
  const { x, mean, invStd, variance, N, C, L, eps, running, rung = chooseNorm(gpu) } = args;
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
  if (running === undefined) {
    statsJoin.run(gpu, { tensors, dims: { ...dims, eps, momentum: 0, unbias: 1 } });
    return;
  }
  const unbias = (N * L) / Math.max(1, N * L - 1);
  statsJoinMoving.run(gpu, {
    tensors: { ...tensors, runningMean: running.mean, runningVar: running.variance },
    dims: { ...dims, eps, momentum: running.momentum, unbias },
  });
}

export interface BatchNormApplyArgs extends Sizes {
  readonly x: Storage;
  readonly mean: Storage;
  readonly invStd: Storage;
  /** [C]; left out: 1. */
  readonly gamma?: Storage;
  /** [C]; left out: 0. */
  readonly beta?: Storage;
  readonly activation?: NormActivation | undefined;
  readonly out: Storage;
}

/** out = act((x − mean)·invStd·gamma + beta), by channel. */
export function batchNormApply(gpu: Gpu, args: BatchNormApplyArgs): void {
  const { x, mean, invStd, gamma, beta, out, N, C, L } = args;
  const rest = { mean, invStd, gamma: gamma ?? mean, beta: beta ?? mean };
  const quads = L % 4 === 0;
  const { ACT, slope } = activationOf(args.activation);
  const tile = {
    ACT,
    SCALE: String(gamma !== undefined),
    SHIFT: String(beta !== undefined),
    ROWS: rowsForm(quads ? L / 4 : L, applyRecord.tile.WG),
  };
  const dims = { N, C, L, slope };
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
  /** Needed with an activation, and not without: it decides which branch was taken. */
  readonly beta?: Storage;
  readonly activation?: NormActivation | undefined;
  /** Results; what is left out is not computed, or only in scratch. */
  readonly dx?: Storage;
  readonly dgamma?: Storage;
  readonly dbeta?: Storage;
  /** Default: chosen for the adapter. */
  readonly rung?: NormRung;
}

/** Gradients of batch norm (and the activation) in training: mean and invStd are functions of x. */
export function batchNormBackward(gpu: Gpu, args: BatchNormBackwardArgs): void {
  const { x, dy, mean, invStd, gamma, beta, dx, N, C, L, rung = chooseNorm(gpu) } = args;
  const split = partsOf(args, rung);
  const { ACT, slope } = activationOf(args.activation);
  const dims = { N, C, L, ...split, slope };
  const flags = { ACT, SCALE: String(gamma !== undefined), SHIFT: String(beta !== undefined) };
  const rest = { mean, invStd, gamma: gamma ?? mean, beta: beta ?? mean };
  const sums = gpu.alloc(8 * split.parts * C, 'batchNorm gradient parts');
  const dgamma = args.dgamma ?? gpu.alloc(4 * C, 'batchNorm dgamma');
  const dbeta = args.dbeta ?? gpu.alloc(4 * C, 'batchNorm dbeta');
  const means = gpu.alloc(8 * C, 'batchNorm gradient means');
  if (rung === 'tree') {
    const W = Math.min(256, powerOfTwoAbove(split.C1));
    gradsTree.run(gpu, { tensors: { x, dy, ...rest, sums }, dims: { ...dims, W }, tile: flags });
  } else if (fitsQuads(L, split)) {
    const tensors = { xQuads: x, dyQuads: dy, ...rest, sums };
    gradsThreadQuads.run(gpu, { tensors, dims, tile: flags });
  } else gradsThreadScalar.run(gpu, { tensors: { x, dy, ...rest, sums }, dims, tile: flags });
  const parts = { C, parts: split.parts, share: 1 / (N * L) };
  gradsJoin.run(gpu, { tensors: { sums, dgamma, dbeta, means }, dims: parts });
  if (dx === undefined) return;

  const quads = L % 4 === 0;
  const tile = { ...flags, ROWS: rowsForm(quads ? L / 4 : L, dxRecord.tile.WG) };
  const sizes = { N, C, L, slope };
  if (quads) {
    const tensors = { xQuads: x, dyQuads: dy, ...rest, means, dxQuads: dx };
    dxQuads.run(gpu, { tensors, dims: sizes, tile });
  } else dxScalar.run(gpu, { tensors: { x, dy, ...rest, means, dx }, dims: sizes, tile });
}

/** invStd = 1/√(variance + eps), C elements; for evaluation. */
export function invStdOf(
  gpu: Gpu,
  args: { variance: Storage; invStd: Storage; C: number; eps: number },
): void {
  const { variance, invStd, C, eps } = args;
  invert.run(gpu, { tensors: { spread: variance, invStd }, dims: { C, eps } });
}
