import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';

const dims = ['n', 'stream', 'bound', 'a', 'b'] as const;
const record = {
  file: 'random/philox.wgsl',
  dims,
  grid: ({ n }: Dims<'n'>, tile: (name: string) => number): Grid =>
    linearGrid(ceilDiv(n, 4), tile('WG')),
  flops: () => 0,
  bytes: ({ n }: Dims<'n'>) => 4 * n,
} as const;

export const bits = kernel({ ...record, entry: 'bits', tensors: ['state', 'outWords'] });
export const integers = kernel({ ...record, entry: 'integers', tensors: ['state', 'outWords'] });
export const uniforms = kernel({ ...record, entry: 'uniforms', tensors: ['state', 'out'] });
export const normals = kernel({ ...record, entry: 'normals', tensors: ['state', 'out'] });
export const dropouts = kernel({
  ...record,
  entry: 'dropouts',
  tensors: ['state', 'x', 'kept'],
  bytes: ({ n }) => 8 * n,
});
export const step = kernel({
  ...record,
  entry: 'advance',
  tensors: ['next'],
  grid: () => [1, 1, 1],
  bytes: () => 16,
});

export interface RandomArgs {
  /** u32[4]: {seedLo, seedHi, counterLo, counterHi}. */
  readonly state: Storage;
  readonly out: Storage;
  readonly n: number;
  /** Draws of one step differ in it; 32 bits. */
  readonly stream: number;
}

const none = { bound: 0, a: 0, b: 0 };

/** n words of Philox 4x32-10: word i is lane i mod 4 of counter (i/4, stream, counterLo, counterHi). */
export function randomBits(gpu: Gpu, { state, out, n, stream }: RandomArgs): void {
  bits.run(gpu, { tensors: { state, outWords: out }, dims: { ...none, n, stream } });
}

/** n floats in [low, high), in steps of (high − low)·2⁻²⁴; what would round to high is low. */
export function uniform(gpu: Gpu, args: RandomArgs & { low: number; high: number }): void {
  const { state, out, n, stream, low, high } = args;
  uniforms.run(gpu, { tensors: { state, out }, dims: { ...none, n, stream, a: low, b: high } });
}

/** n normal floats: words 2k and 2k + 1 make numbers 2k and 2k + 1 (Box–Muller, cosine first). */
export function normal(gpu: Gpu, args: RandomArgs & { mean: number; std: number }): void {
  const { state, out, n, stream, mean, std } = args;
  normals.run(gpu, { tensors: { state, out }, dims: { ...none, n, stream, a: mean, b: std } });
}

/** n words in [0, bound), the high half of word·bound: off from uniform by at most bound·2⁻³². */
export function randomInt(gpu: Gpu, args: RandomArgs & { bound: number }): void {
  const { state, out, n, stream, bound } = args;
  integers.run(gpu, { tensors: { state, outWords: out }, dims: { ...none, n, stream, bound } });
}

/**
 * out = x / (1 − p), or 0 where word i of the stream is below p·2³²: the same state and stream drop the same elements.
 */
export function dropout(
  gpu: Gpu,
  { state, x, out, n, stream, p }: RandomArgs & { x: Storage; p: number },
): void {
  const bound = Math.min(Math.round(p * 2 ** 32), 2 ** 32 - 1);
  const dims = { ...none, n, stream, bound, b: 1 / (1 - p) };
  dropouts.run(gpu, { tensors: { state, x, kept: out }, dims });
}

/** Adds 1 to the 64-bit counter: the same streams give new numbers from here on. */
export function advance(gpu: Gpu, { state }: { state: Storage }): void {
  step.run(gpu, { tensors: { next: state }, dims: { ...none, n: 1, stream: 0 } });
}
