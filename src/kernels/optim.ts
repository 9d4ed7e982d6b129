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

const perQuad = ({ n }: Dims<'n'>, tile: (name: string) => number): Grid =>
  linearGrid(ceilDiv(n, 4), tile('WG'));

const adamRecord = { file: 'optim/adam.wgsl', dims: ['n'], grid: perQuad } as const;
export const adamPlain = kernel({
  ...adamRecord,
  entry: 'adam',
  tensors: ['g', 'hyper', 'w', 'm', 'v'],
  flops: ({ n }) => 15 * n,
  bytes: ({ n }) => 28 * n,
});
export const adamEma = kernel({
  ...adamRecord,
  entry: 'adamEma',
  tensors: ['g', 'hyper', 'w', 'm', 'v', 'ema'],
  flops: ({ n }) => 18 * n,
  bytes: ({ n }) => 36 * n,
});
export const adamStep = kernel({
  ...adamRecord,
  entry: 'advance',
  tensors: ['hyperNext'],
  grid: () => [1, 1, 1],
  flops: () => 3,
  bytes: () => 24,
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

/** Once a step and group, before `adam`: step += 1, beta1Power *= beta1, beta2Power *= beta2. */
export function adamAdvance(gpu: Gpu, { hyper }: { hyper: Storage }): void {
  adamStep.run(gpu, { tensors: { hyperNext: hyper }, dims: { n: 1 } });
}

export interface AdamArgs {
  /** Weights, first and second moments, [n], all changed in place. */
  readonly w: Storage;
  readonly m: Storage;
  readonly v: Storage;
  /** Gradient [n]. */
  readonly g: Storage;
  readonly hyper: Storage;
  /** Moving average of the weights [n], changed in place: emaDecay·ema + (1 − emaDecay)·w. */
  readonly ema?: Storage;
  readonly n: number;
}

/** A step of torch.optim.Adam, with the average of the weights in the same pass. 1 − β is taken of the f32 β. */
export function adam(gpu: Gpu, { w, g, m, v, hyper, ema, n }: AdamArgs): void {
  if (ema === undefined) adamPlain.run(gpu, { tensors: { g, hyper, w, m, v }, dims: { n } });
  else adamEma.run(gpu, { tensors: { g, hyper, w, m, v, ema }, dims: { n } });
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
