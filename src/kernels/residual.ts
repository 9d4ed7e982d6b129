import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import { reduce } from './reduce.ts';

const record = { file: 'pointwise/residual.wgsl', dims: ['n', 'each', 'parts'] } as const;

export const residualForward = kernel({
  ...record,
  entry: 'forward',
  tensors: ['o', 'gamma', 'x', 'out'],
  grid: ({ n }, tile) => linearGrid(ceilDiv(n, 4), tile('WG')),
  flops: ({ n }) => 2 * n,
  bytes: ({ n }, each = 4) => 3 * each * n,
});
export const residualGrads = kernel({
  ...record,
  entry: 'backward',
  tensors: ['o', 'gamma', 'dy', 'dO', 'part'],
  tile: { WG: 64 },
  grid: ({ parts }, tile) => linearGrid(parts, tile('WG')),
  flops: ({ n }) => 3 * n,
  bytes: ({ n }, each = 4) => 3 * each * n,
});

export interface ResidualArgs {
  /** [n] */
  readonly o: Storage;
  /** [1] */
  readonly gamma: Storage;
  readonly x: Storage;
  readonly out: Storage;
  readonly n: number;
  /** What o, x and out are made of; gamma is f32. */
  readonly stored?: Stored;
}

/** out = gamma·o + x. */
export function residual(gpu: Gpu, args: ResidualArgs): void {
  const { o, gamma, x, out, n, stored = 'f32' } = args;
  const dims = { n, each: 0, parts: 0 };
  residualForward.run(gpu, { tensors: { o, gamma, x, out }, dims, stored });
}

export interface ResidualBackwardArgs {
  readonly o: Storage;
  readonly gamma: Storage;
  readonly dy: Storage;
  /** Results: gamma·dy [n] and Σ dy·o [1]. */
  readonly dO: Storage;
  readonly dgamma: Storage;
  readonly n: number;
  /** What o, dy and dO are made of; gamma and dgamma are f32. */
  readonly stored?: Stored;
}

/** The gradients of `residual` by o and by gamma, from one look at dy. Two launches. */
export function residualBackward(gpu: Gpu, args: ResidualBackwardArgs): void {
  const { o, gamma, dy, dO, dgamma, n, stored = 'f32' } = args;
  const software = gpu.adapter.kind === 'software';
  const quads = ceilDiv(n, 4);
  // As many parts as the reduction still takes in one launch.
  const parts = Math.min(quads, software ? 256 : 4032);
  const part = gpu.alloc(4 * parts, 'residual parts');
  const dims = { n, each: ceilDiv(quads, parts), parts };
  const tile = { WG: software ? 16 : 64 };
  residualGrads.run(gpu, { tensors: { o, gamma, dy, dO, part }, dims, tile, stored });
  reduce(gpu, 'sum', { x: part, out: dgamma, shape: [parts], axes: [0] });
}
