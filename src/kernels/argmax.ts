import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { kernel, linearGrid } from './kernel.ts';

export const argmaxKernel = kernel({
  file: 'reduce/argmax.wgsl',
  tensors: ['x', 'out'],
  dims: ['rows', 'cols'],
  grid: ({ rows }, tile) => linearGrid(rows, tile('WG')),
  flops: ({ rows, cols }) => rows * cols,
  bytes: ({ rows, cols }) => 4 * rows * (cols + 1),
});

export interface ArgmaxArgs {
  /** [rows, cols] */
  readonly x: Storage;
  /** Result, u32 [rows]. */
  readonly out: Storage;
  readonly rows: number;
  readonly cols: number;
}

/** out[row] = the place of the row's largest number, the first of equal ones. */
export function argmax(gpu: Gpu, { x, out, rows, cols }: ArgmaxArgs): void {
  argmaxKernel.run(gpu, { tensors: { x, out }, dims: { rows, cols } });
}
