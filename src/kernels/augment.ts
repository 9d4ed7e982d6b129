import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { kernel, linearGrid } from './kernel.ts';
import { reduce } from './reduce.ts';

export const augmentColor = kernel({
  file: 'augment/color.wgsl',
  tensors: ['x', 'u', 'mean', 'out'],
  dims: ['N', 'C', 'P'],
  tile: { LINEAR: 'false' },
  grid: ({ N, P }, tile) => linearGrid(N * P, tile('WG')),
  flops: ({ N, C, P }) => 6 * N * C * P,
  bytes: ({ N, C, P }, each = 4) => 2 * each * N * C * P,
});
export const augmentPlace = kernel({
  file: 'augment/place.wgsl',
  tensors: ['x', 'u', 'out'],
  dims: ['N', 'K', 'H', 'W'],
  tile: { TRANSLATE: 'true', CUTOUT: 'true', ADJOINT: 'false' },
  grid: ({ N, K, H, W }, tile) => linearGrid(N * K * H * W, tile('WG')),
  flops: () => 0,
  bytes: ({ N, K, H, W }, each = 4) => 2 * each * N * K * H * W,
});

/** Random numbers of an image: what each is for stands in kernels/augment. */
export const augmentDraws = 8;

/** Images, and the numbers u [N, 8] in [0, 1) that decide what becomes of each. */
interface AugmentArgs {
  readonly x: Storage;
  readonly u: Storage;
  readonly out: Storage;
  readonly N: number;
  /** What x and out are made of; u is f32. */
  readonly stored?: Stored;
}

/** Brightness, saturation and contrast of images [N, C, P]; `linear`: without the brightness, which is the gradient's way back. */
export function color(
  gpu: Gpu,
  args: AugmentArgs & { readonly C: number; readonly P: number; readonly linear: boolean },
): void {
  const { x, u, out, N, C, P, linear, stored = 'f32' } = args;
  const mean = gpu.alloc(4 * N, 'means of images');
  reduce(gpu, 'sum', { x, out: mean, shape: [N, C * P], axes: [1], scale: 1 / (C * P), stored });
  const tile = { LINEAR: String(linear) };
  augmentColor.run(gpu, { tensors: { x, u, mean, out }, dims: { N, C, P }, tile, stored });
}

/** Shifts images [N, K, H, W], or hides a square of each, or both; `adjoint`: the gradient's way back. */
export function place(
  gpu: Gpu,
  args: AugmentArgs & {
    readonly K: number;
    readonly H: number;
    readonly W: number;
    readonly translation: boolean;
    readonly cutout: boolean;
    readonly adjoint: boolean;
  },
): void {
  const { x, u, out, N, K, H, W, translation, cutout, adjoint, stored = 'f32' } = args;
  const flags = { TRANSLATE: translation, CUTOUT: cutout, ADJOINT: adjoint };
  const tile = Object.fromEntries(Object.entries(flags).map(([name, on]) => [name, String(on)]));
  augmentPlace.run(gpu, { tensors: { x, u, out }, dims: { N, K, H, W }, tile, stored });
}
