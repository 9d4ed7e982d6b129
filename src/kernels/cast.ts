import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';

const record = {
  file: 'pointwise/cast.wgsl',
  dims: ['n'],
  grid: ({ n }: Dims<'n'>, tile: (name: string) => number): Grid =>
    linearGrid(ceilDiv(n, 4), tile('WG')),
  flops: () => 0,
  bytes: ({ n }: Dims<'n'>) => 6 * n,
  needs: { features: ['shader-f16'] },
} as const;
export const widenKernel = kernel({ ...record, entry: 'widen', tensors: ['halves', 'floats'] });
export const narrowKernel = kernel({ ...record, entry: 'narrow', tensors: ['wide', 'narrowed'] });

export interface CastArgs {
  readonly x: Storage;
  readonly out: Storage;
  readonly n: number;
}

/** out f32 [n] = x f16 [n]: exact. */
export function widen(gpu: Gpu, { x, out, n }: CastArgs): void {
  widenKernel.run(gpu, { tensors: { halves: x, floats: out }, dims: { n } });
}

/** out f16 [n] = x f32 [n], rounded; infinite where x rounds past ±65504. */
export function narrow(gpu: Gpu, { x, out, n }: CastArgs): void {
  narrowKernel.run(gpu, { tensors: { wide: x, narrowed: out }, dims: { n } });
}
