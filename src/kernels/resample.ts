import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';

type Tile = (name: string) => number;
const poolDims = ['N', 'H', 'W', 'OH', 'OW', 'padding'] as const;
type PlaneDims = Dims<'N' | 'H' | 'W' | 'OH' | 'OW'>;

const overOut = ({ N, OH, OW }: PlaneDims, tile: Tile): Grid => linearGrid(N * OH * OW, tile('WG'));
const overIn = ({ N, H, W }: PlaneDims, tile: Tile): Grid => linearGrid(N * H * W, tile('WG'));
/** Bytes of so many numbers a pixel and a result, and of so many indices a result. */
const bytesOf =
  (inputs: number, outputs: number, indices = 0) =>
  ({ N, H, W, OH, OW }: PlaneDims, each = 4) =>
    N * (each * (inputs * H * W + outputs * OH * OW) + 4 * indices * OH * OW);

const poolRecord = {
  file: 'resample/pool.wgsl',
  dims: poolDims,
  tile: { KERNEL: 2, STRIDE: 2, COUNT_PAD: 'true' },
  flops: ({ N, H, W }: PlaneDims) => N * H * W,
} as const;
export const maxPool = kernel({
  ...poolRecord,
  entry: 'maxPool',
  tensors: ['x', 'out', 'indexOut'],
  grid: overOut,
  bytes: bytesOf(1, 1, 1),
});
export const maxPoolBackward = kernel({
  ...poolRecord,
  entry: 'maxPoolBackward',
  tensors: ['dOut', 'index', 'dx'],
  grid: overIn,
  bytes: bytesOf(1, 1, 1),
});
export const maxPoolGather = kernel({
  ...poolRecord,
  entry: 'maxPoolGather',
  tensors: ['x', 'index', 'gathered'],
  grid: overOut,
  bytes: bytesOf(0, 2, 1),
});
export const avgPool = kernel({
  ...poolRecord,
  entry: 'avgPool',
  tensors: ['x', 'out'],
  grid: overOut,
  bytes: bytesOf(1, 1),
});
export const avgPoolBackward = kernel({
  ...poolRecord,
  entry: 'avgPoolBackward',
  tensors: ['dOut', 'dxMean'],
  grid: overIn,
  bytes: bytesOf(1, 1),
});

const nearestRecord = {
  file: 'resample/nearest.wgsl',
  dims: ['N', 'H', 'W'],
  grid: ({ N, H, W }: Dims<'N' | 'H' | 'W'>, tile: Tile): Grid => linearGrid(N * H * W, tile('WG')),
  bytes: ({ N, H, W }: Dims<'N' | 'H' | 'W'>, each = 4) => 5 * each * N * H * W,
} as const;
export const upsample = kernel({
  ...nearestRecord,
  entry: 'upsample',
  tensors: ['x', 'outPairs'],
  flops: () => 0,
});
export const upsampleBackward = kernel({
  ...nearestRecord,
  entry: 'upsampleBackward',
  tensors: ['dOutPairs', 'dx'],
  flops: ({ N, H, W }) => 3 * N * H * W,
});

const bilinearRecord = {
  file: 'resample/bilinear.wgsl',
  dims: ['N', 'H', 'W', 'OH', 'OW', 'scaleH', 'scaleW'],
  tile: { CORNERS: 'false' },
  flops: ({ N, OH, OW }: PlaneDims) => 6 * N * OH * OW,
  bytes: bytesOf(1, 1),
} as const;
export const bilinear = kernel({
  ...bilinearRecord,
  entry: 'resize',
  tensors: ['x', 'out'],
  grid: overOut,
});
export const bilinearBackward = kernel({
  ...bilinearRecord,
  entry: 'resizeBackward',
  tensors: ['dOut', 'dx'],
  grid: overIn,
});

/** Pooling of N planes (images × channels) with a square window; padding is at most half of it. */
export interface PoolSizes {
  readonly N: number;
  readonly H: number;
  readonly W: number;
  readonly OH: number;
  readonly OW: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  /** Of means: is the padding counted, as zeros? Default true. */
  readonly countIncludePad?: boolean | undefined;
  /** What the numbers are made of. */
  readonly stored?: Stored;
}

function poolArgs(sizes: PoolSizes) {
  const { N, H, W, OH, OW, kernel: KERNEL, stride: STRIDE, padding, stored = 'f32' } = sizes;
  const tile = { KERNEL, STRIDE, COUNT_PAD: String(sizes.countIncludePad ?? true) };
  return { dims: { N, H, W, OH, OW, padding }, tile, stored };
}

/** out = largest of each window, index (u32) = its place h·W + w in the plane; of equal values the first. */
export function maxPool2d(
  gpu: Gpu,
  args: PoolSizes & { x: Storage; out: Storage; index: Storage },
): void {
  const { x, out, index } = args;
  maxPool.run(gpu, { tensors: { x, out, indexOut: index }, ...poolArgs(args) });
}

/** dx = Σ of dOut over the windows whose maximum the pixel was. */
export function maxPool2dBackward(
  gpu: Gpu,
  args: PoolSizes & { dOut: Storage; index: Storage; dx: Storage },
): void {
  const { dOut, index, dx } = args;
  maxPoolBackward.run(gpu, { tensors: { dOut, index, dx }, ...poolArgs(args) });
}

/** out = x at index: the adjoint of maxPool2dBackward. */
export function maxPool2dGather(
  gpu: Gpu,
  args: PoolSizes & { x: Storage; index: Storage; out: Storage },
): void {
  const { x, index, out } = args;
  maxPoolGather.run(gpu, { tensors: { x, index, gathered: out }, ...poolArgs(args) });
}

/** out = mean of each window, the padding counted as zeros unless it is not to be. */
export function avgPool2d(gpu: Gpu, args: PoolSizes & { x: Storage; out: Storage }): void {
  const { x, out } = args;
  avgPool.run(gpu, { tensors: { x, out }, ...poolArgs(args) });
}

/** dx = Σ of dOut/(what its window's mean divides by) over the windows that hold the pixel. */
export function avgPool2dBackward(
  gpu: Gpu,
  args: PoolSizes & { dOut: Storage; dx: Storage },
): void {
  const { dOut, dx } = args;
  avgPoolBackward.run(gpu, { tensors: { dOut, dxMean: dx }, ...poolArgs(args) });
}

interface NearestSizes {
  readonly N: number;
  readonly H: number;
  readonly W: number;
  /** What the numbers are made of. */
  readonly stored?: Stored;
}

/** x [N, H, W] → out [N, 2H, 2W], every pixel four times. */
export function upsampleNearest2x(
  gpu: Gpu,
  { x, out, N, H, W, stored = 'f32' }: NearestSizes & { x: Storage; out: Storage },
): void {
  upsample.run(gpu, { tensors: { x, outPairs: out }, dims: { N, H, W }, stored });
}

/** dOut [N, 2H, 2W] → dx [N, H, W], the sum of each pixel's four; H and W are x's. */
export function upsampleNearest2xBackward(
  gpu: Gpu,
  { dOut, dx, N, H, W, stored = 'f32' }: NearestSizes & { dOut: Storage; dx: Storage },
): void {
  upsampleBackward.run(gpu, { tensors: { dOutPairs: dOut, dx }, dims: { N, H, W }, stored });
}

export interface ResizeSizes {
  readonly planes: number;
  readonly H: number;
  readonly W: number;
  readonly OH: number;
  readonly OW: number;
  readonly alignCorners: boolean;
  /** What the numbers are made of. */
  readonly stored?: Stored;
}

function resizeArgs(sizes: ResizeSizes) {
  const { planes, H, W, OH, OW, alignCorners, stored = 'f32' } = sizes;
  const ratio = (from: number, to: number) => {
    if (!alignCorners) return from / to;
    return to > 1 ? (from - 1) / (to - 1) : 0;
  };
  const scales = { scaleH: ratio(H, OH), scaleW: ratio(W, OW) };
  const tile = { CORNERS: String(alignCorners) };
  return { dims: { N: planes, H, W, OH, OW, ...scales }, tile, stored };
}

/** x [planes, H, W] → out [planes, OH, OW], torch's interpolate(mode='bilinear', align_corners). */
export function resizeBilinear(gpu: Gpu, args: ResizeSizes & { x: Storage; out: Storage }): void {
  const { x, out } = args;
  bilinear.run(gpu, { tensors: { x, out }, ...resizeArgs(args) });
}

/** Adjoint of resizeBilinear: dOut [planes, OH, OW] → dx [planes, H, W]. */
export function resizeBilinearBackward(
  gpu: Gpu,
  args: ResizeSizes & { dOut: Storage; dx: Storage },
): void {
  const { dOut, dx } = args;
  bilinearBackward.run(gpu, { tensors: { dOut, dx }, ...resizeArgs(args) });
}
