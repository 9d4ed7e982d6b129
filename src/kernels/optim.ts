import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';

/**
 * Words of the f32 buffer that a parameter group's numbers live in, so that a captured step can be replayed with other
 * ones. The host owns the words up to `momentum`; `beta1Power` and `beta2Power` begin at 1 and `step` at 0, and the
 * `advance` kernels move them. `step` counts exactly up to 2²⁴.
 */
export const hyperIndex = {
  lr: 0,
  beta1: 1,
  beta2: 2,
  eps: 3,
  weightDecay: 4,
  emaDecay: 5,
  momentum: 6,
  beta1Power: 7,
  beta2Power: 8,
  step: 9,
} as const;

/** Length of the hyper buffer in f32 words; the rest is spare. */
export const hyperWords = 12;

/** Words of the f32 buffer that a loss scale lives in; `found` is a u32, 0 between steps. The host owns the last three. */
export const scalerIndex = {
  scale: 0,
  good: 1,
  found: 2,
  skipped: 3,
  growth: 4,
  backoff: 5,
  interval: 6,
} as const;

/** Length of the buffer of a loss scale in f32 words. */
export const scalerWords = 8;

const perQuad = ({ n }: Dims<'n'>, tile: (name: string) => number): Grid =>
  linearGrid(ceilDiv(n, 4), tile('WG'));

const adamRecord = {
  file: 'optim/adam.wgsl',
  dims: ['n'],
  tile: { SCALED: 'false' },
  grid: perQuad,
} as const;
export const adamPlain = kernel({
  ...adamRecord,
  entry: 'adam',
  tensors: ['g', 'hyper', 'scaler', 'w', 'm', 'v'],
  flops: ({ n }) => 15 * n,
  bytes: ({ n }) => 28 * n,
});
export const adamEma = kernel({
  ...adamRecord,
  entry: 'adamEma',
  tensors: ['g', 'hyper', 'scaler', 'w', 'm', 'v', 'ema'],
  flops: ({ n }) => 18 * n,
  bytes: ({ n }) => 36 * n,
});
const adamStepRecord = {
  ...adamRecord,
  grid: (): Grid => [1, 1, 1],
  flops: () => 3,
  bytes: () => 24,
};
export const adamStep = kernel({ ...adamStepRecord, entry: 'advance', tensors: ['hyperNext'] });
export const adamStepScaled = kernel({
  ...adamStepRecord,
  entry: 'advanceScaled',
  tensors: ['hyperNext', 'scalerNow'],
});

const scalerRecord = { file: 'optim/scaler.wgsl', dims: ['n'] } as const;
export const scalerInspect = kernel({
  ...scalerRecord,
  entry: 'inspect',
  tensors: ['g', 'valid', 'flags'],
  grid: perQuad,
  flops: () => 0,
  bytes: ({ n }) => 4 * n,
});
export const scalerStep = kernel({
  ...scalerRecord,
  entry: 'update',
  tensors: ['state'],
  grid: () => [1, 1, 1],
  flops: () => 2,
  bytes: () => 4 * scalerWords,
});

const sgdRecord = { file: 'optim/sgd.wgsl', dims: ['n'], grid: perQuad } as const;
export const sgdPlain = kernel({
  ...sgdRecord,
  entry: 'plain',
  tensors: ['g', 'hyper', 'w'],
  flops: ({ n }) => 4 * n,
  bytes: ({ n }) => 12 * n,
});
export const sgdHeavy = kernel({
  ...sgdRecord,
  entry: 'heavy',
  tensors: ['g', 'hyper', 'w', 'momentum'],
  tile: { NESTEROV: 'false' },
  flops: ({ n }) => 8 * n,
  bytes: ({ n }) => 20 * n,
});

export const sgdAverage = kernel({
  ...sgdRecord,
  entry: 'average',
  tensors: ['weights', 'hyper', 'ema'],
  flops: ({ n }) => 3 * n,
  bytes: ({ n }) => 12 * n,
});

export const sgdStep = kernel({
  ...sgdRecord,
  entry: 'advance',
  tensors: ['hyperNext'],
  grid: () => [1, 1, 1],
  flops: () => 1,
  bytes: () => 8,
});

/**
 * Once a step and group, before `adam`: step += 1, beta1Power *= beta1, beta2Power *= beta2; nothing where the scaler's
 * state says that a gradient overflowed.
 */
export function adamAdvance(
  gpu: Gpu,
  { hyper, scaler }: { hyper: Storage; scaler?: Storage | undefined },
): void {
  const dims = { n: 1 };
  if (scaler === undefined) adamStep.run(gpu, { tensors: { hyperNext: hyper }, dims });
  else adamStepScaled.run(gpu, { tensors: { hyperNext: hyper, scalerNow: scaler }, dims });
}

export interface AdamArgs {
  /** Weights, first and second moments, [n], all changed in place. */
  readonly w: Storage;
  readonly m: Storage;
  readonly v: Storage;
  /** Gradient [n]. */
  readonly g: Storage;
  readonly hyper: Storage;
  /** State of a loss scale: the gradient is divided by it, and after an overflow nothing is changed. */
  readonly scaler?: Storage | undefined;
  /** Moving average of the weights [n], changed in place: emaDecay·ema + (1 − emaDecay)·w. */
  readonly ema?: Storage | undefined;
  readonly n: number;
}

/** A step of torch.optim.Adam, with the average of the weights in the same pass. 1 − β is taken of the f32 β. */
export function adam(gpu: Gpu, { w, g, m, v, hyper, scaler, ema, n }: AdamArgs): void {
  const tensors = { g, hyper, scaler: scaler ?? hyper, w, m, v };
  const launch = { dims: { n }, tile: { SCALED: String(scaler !== undefined) } };
  if (ema === undefined) adamPlain.run(gpu, { tensors, ...launch });
  else adamEma.run(gpu, { tensors: { ...tensors, ema }, ...launch });
}

/** Elements that one number of `validOf` speaks of. */
const validBlock = 128;

/**
 * Tells `inspectGradients` which elements of a row belong to a tensor: `from` and `n` in elements of each of them, `from` a
 * multiple of 128.
 */
export function validOf(tensors: readonly { from: number; n: number }[]): Uint32Array {
  const end = tensors.reduce((most, { from, n }) => Math.max(most, from + n), 0);
  const valid = new Uint32Array(Math.max(1, ceilDiv(end, validBlock)));
  for (const { from, n } of tensors) {
    if (from % validBlock !== 0) throw new Error(`a tensor begins at ${from} of its row`);
    for (let i = 0; i < n; i += validBlock) {
      valid[(from + i) / validBlock] = Math.min(validBlock, n - i);
    }
  }
  return valid;
}

/** Sets the scaler's flag if a gradient of the row g [n] is infinite or NaN; `valid` as `validOf` makes it. */
export function inspectGradients(
  gpu: Gpu,
  { g, valid, scaler, n }: { g: Storage; valid: Storage; scaler: Storage; n: number },
): void {
  scalerInspect.run(gpu, { tensors: { g, valid, flags: scaler }, dims: { n } });
}

/** Once a step, behind the optimiser: the scale for the next one. */
export function scalerUpdate(gpu: Gpu, { scaler }: { scaler: Storage }): void {
  scalerStep.run(gpu, { tensors: { state: scaler }, dims: { n: 1 } });
}

/** Once a step and group, before `sgd`: step += 1. */
export function sgdAdvance(gpu: Gpu, { hyper }: { hyper: Storage }): void {
  sgdStep.run(gpu, { tensors: { hyperNext: hyper }, dims: { n: 1 } });
}

export interface SgdArgs {
  /** Weights [n], changed in place. */
  readonly w: Storage;
  readonly g: Storage;
  /** Momentum buffer [n], zeros before the first step, changed in place. Left out: no momentum. */
  readonly momentum?: Storage;
  readonly hyper: Storage;
  /** Moving average of the weights [n], changed in place: emaDecay·ema + (1 − emaDecay)·w. */
  readonly ema?: Storage;
  readonly n: number;
  readonly nesterov: boolean;
}

/** A step of torch.optim.SGD (no dampening), then the average of the weights. */
export function sgd(gpu: Gpu, { w, g, momentum, hyper, ema, n, nesterov }: SgdArgs): void {
  const dims = { n };
  if (momentum === undefined) sgdPlain.run(gpu, { tensors: { g, hyper, w }, dims });
  else {
    const tile = { NESTEROV: String(nesterov) };
    sgdHeavy.run(gpu, { tensors: { g, hyper, w, momentum }, dims, tile });
  }
  if (ema !== undefined) sgdAverage.run(gpu, { tensors: { weights: w, hyper, ema }, dims });
}
