import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { activationOf } from './activation.ts';
import type { FusedActivation } from './activation.ts';
import { kernel } from './kernel.ts';
import type { Dims } from './kernel.ts';
import { normGradsLadder, normStatsLadder, perChannel } from './norm-sums.ts';
import type { NormGradsArgs, NormSizes, NormStatsArgs } from './norm-sums.ts';
import { storedOf } from './precision.ts';
import { rowsForm, rowsGrid } from './rows.ts';
import { climb } from './rung.ts';
import type { Rung } from './rung.ts';

type Tile = (name: string) => number;
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
  bytes: ({ N, C, L }: Planes, each = 4) => 2 * each * N * C * L,
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
  tile: { ACT: 'NONE', SCALE: 'true', SHIFT: 'true', JOINT: 'false', ROWS: 1, WG: 64 },
  flops: ({ N, C, L }: Planes) => 6 * N * C * L,
  bytes: ({ N, C, L }: Planes, each = 4) => 3 * each * N * C * L,
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

/**
 * Mean and variance of every channel over N and L, by deviations from part means: accurate at any mean. The running
 * variance takes the unbiased one, as PyTorch's does.
 */
export function batchNormStats(gpu: Gpu, args: NormStatsArgs): void {
  climb(gpu, normStatsLadder, args);
}

export interface BatchNormApplyArgs extends NormSizes {
  readonly x: Storage;
  readonly mean: Storage;
  readonly invStd: Storage;
  /** [C]; left out: 1. */
  readonly gamma?: Storage;
  /** [C]; left out: 0. */
  readonly beta?: Storage;
  readonly activation?: FusedActivation | undefined;
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
  const launch = { dims, tile, stored: storedOf(args) };
  if (quads) applyQuads.run(gpu, { tensors: { xQuads: x, ...rest, outQuads: out }, ...launch });
  else applyScalar.run(gpu, { tensors: { x, ...rest, out }, ...launch });
}

export interface BatchNormBackwardArgs extends NormSizes {
  readonly x: Storage;
  /** Gradient of the output, [N, C, L]. */
  readonly dy: Storage;
  readonly mean: Storage;
  readonly invStd: Storage;
  readonly gamma?: Storage;
  /** Needed with an activation, and not without: it decides which branch was taken. */
  readonly beta?: Storage;
  readonly activation?: FusedActivation | undefined;
  /** Results; what is left out is not computed, or only in scratch. */
  readonly dx?: Storage;
  readonly dgamma?: Storage;
  readonly dbeta?: Storage;
  /** What makes the sums. Default: chosen for the adapter. */
  readonly rung?: Rung<NormSizes, NormGradsArgs>;
}

/** Gradients of batch norm (and the activation) in training: mean and invStd are functions of x. */
export function batchNormBackward(gpu: Gpu, args: BatchNormBackwardArgs): void {
  const { x, dy, mean, invStd, gamma, beta, activation, dx, N, C, L, stored } = args;
  const dgamma = args.dgamma ?? gpu.alloc(4 * C, 'batchNorm dgamma');
  const dbeta = args.dbeta ?? gpu.alloc(4 * C, 'batchNorm dbeta');
  const means = gpu.alloc(8 * C, 'batchNorm gradient means');
  const given = { gamma, beta, activation };
  const sums: NormGradsArgs = {
    ...{ x, dy, mean, invStd, ...given, dgamma, dbeta, means, N, C, L, stored },
  };
  if (args.rung === undefined) climb(gpu, normGradsLadder, sums);
  else args.rung.run(gpu, sums);
  if (dx !== undefined) normDx(gpu, { ...args, dx, means, joint: false });
}

/** The last pass of the backward one: `means` are those that norm/dx wants, `joint` or not. */
export function normDx(
  gpu: Gpu,
  args: Omit<BatchNormBackwardArgs, 'dgamma' | 'dbeta' | 'rung'> & {
    readonly dx: Storage;
    readonly means: Storage;
    readonly joint: boolean;
  },
): void {
  const { x, dy, mean, invStd, gamma, beta, activation, means, dx, joint, N, C, L } = args;
  const { ACT, slope } = activationOf(activation);
  const flags = {
    ...{ ACT, JOINT: String(joint) },
    ...{ SCALE: String(gamma !== undefined), SHIFT: String(beta !== undefined) },
  };
  const rest = { mean, invStd, gamma: gamma ?? mean, beta: beta ?? mean };
  const quads = L % 4 === 0;
  const tile = { ...flags, ROWS: rowsForm(quads ? L / 4 : L, dxRecord.tile.WG) };
  const launch = { dims: { N, C, L, slope }, tile, stored: storedOf(args) };
  if (quads) {
    const tensors = { xQuads: x, dyQuads: dy, ...rest, means, dxQuads: dx };
    dxQuads.run(gpu, { tensors, ...launch });
  } else dxScalar.run(gpu, { tensors: { x, dy, ...rest, means, dx }, ...launch });
}

/** invStd = 1/√(variance + eps), C elements; for evaluation. */
export function invStdOf(
  gpu: Gpu,
  args: { variance: Storage; invStd: Storage; C: number; eps: number },
): void {
  const { variance, invStd, C, eps } = args;
  invert.run(gpu, { tensors: { spread: variance, invStd }, dims: { C, eps } });
}
