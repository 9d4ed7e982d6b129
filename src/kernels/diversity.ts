import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { constOf } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid, sourceOf } from './kernel.ts';

const record = {
  file: 'reduce/diversity.wgsl',
  dims: ['N', 'M'],
  needs: { workgroupBytes: 512 },
} as const;
const groupsOf = (M: number) => ceilDiv(M, constOf(sourceOf(record.file), 'WG'));

export const diversitySpread = kernel({
  ...record,
  entry: 'spread',
  tensors: ['real', 'fake', 'part'],
  grid: ({ M }) => linearGrid(groupsOf(M), 1),
  flops: ({ N, M }) => 6 * N * M,
  bytes: ({ N, M }, each = 4) => 2 * each * N * M,
});
export const diversityRatio = kernel({
  ...record,
  entry: 'ratio',
  tensors: ['spreads', 'out'],
  grid: () => [1, 1, 1],
  flops: ({ M }) => 2 * groupsOf(M),
  bytes: ({ M }) => 8 * groupsOf(M),
});

/** Batches of N images of M numbers each. */
export interface DiversityArgs {
  readonly real: Storage;
  readonly fake: Storage;
  readonly out: Storage;
  readonly N: number;
  readonly M: number;
  /** What the images are made of; the result is f32. */
  readonly stored?: Stored;
}

/** out [1] = √(Σ var(fake) / Σ var(real)), the variances over the images at each pixel; 1 where the real ones do not differ. */
export function diversity(gpu: Gpu, args: DiversityArgs): void {
  const { real, fake, out, N, M, stored = 'f32' } = args;
  const part = gpu.alloc(8 * groupsOf(M), 'spreads of images');
  diversitySpread.run(gpu, { tensors: { real, fake, part }, dims: { N, M }, stored });
  diversityRatio.run(gpu, { tensors: { spreads: part, out }, dims: { N, M } });
}
