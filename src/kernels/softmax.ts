import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Kernel, Tile } from './kernel.ts';

export interface SoftmaxDims {
  readonly rows: number;
  readonly cols: number;
}

export interface SoftmaxArgs extends SoftmaxDims {
  readonly x: Storage;
  readonly out: Storage;
}

export interface SoftmaxBackwardArgs extends SoftmaxDims {
  /** What the forward pass gave. */
  readonly y: Storage;
  readonly dy: Storage;
  readonly dx: Storage;
}

/** One step of the ladder. `serves` says which row lengths it takes. */
export interface SoftmaxRung {
  readonly forward: Kernel<'x' | 'out', 'rows' | 'cols'>;
  readonly backward: Kernel<'y' | 'dy' | 'dx', 'rows' | 'cols'>;
  readonly tile: Tile;
  readonly serves: (dims: SoftmaxDims) => boolean;
}

type Dim = Dims<'rows' | 'cols'>;

function rung(options: {
  file: string;
  /** Threads of a workgroup. */
  WG: number;
  /** Rows that a workgroup takes. */
  each: number;
  flops: number;
  workgroupBytes: number;
  serves: (dims: SoftmaxDims) => boolean;
}): SoftmaxRung {
  const { file, WG, each, flops, workgroupBytes, serves } = options;
  const tile = { WG };
  const shared = {
    file,
    dims: ['rows', 'cols'] as const,
    tile,
    grid: ({ rows }: Dim) => linearGrid(rows, each),
    needs: { invocations: WG, workgroupBytes },
  };
  return {
    forward: kernel({
      ...shared,
      entry: 'forward',
      tensors: ['x', 'out'],
      flops: ({ rows, cols }) => flops * rows * cols,
      bytes: ({ rows, cols }) => 8 * rows * cols,
    }),
    backward: kernel({
      ...shared,
      entry: 'backward',
      tensors: ['y', 'dy', 'dx'],
      flops: ({ rows, cols }) => 4 * rows * cols,
      bytes: ({ rows, cols }) => 12 * rows * cols,
    }),
    tile,
    serves,
  };
}

const whole = () => true;
const naive = rung({
  file: 'softmax/1_naive.wgsl',
  WG: 16,
  each: 16,
  flops: 5,
  workgroupBytes: 0,
  serves: whole,
});
const vec4 = rung({
  file: 'softmax/2_vec4.wgsl',
  WG: 8,
  each: 8,
  flops: 5,
  workgroupBytes: 0,
  serves: ({ cols }) => cols % 4 === 0,
});
const online = rung({
  file: 'softmax/3_online.wgsl',
  WG: 128,
  each: 1,
  flops: 8,
  workgroupBytes: 1024,
  serves: whole,
});

/** The rungs, simplest first. */
export const softmaxLadder: readonly SoftmaxRung[] = [naive, vec4, online];

/** A thread a row for a CPU driver, a workgroup a row for a GPU. */
export function chooseSoftmax(gpu: Gpu, dims: SoftmaxDims): SoftmaxRung {
  if (gpu.adapter.kind !== 'software') return online;
  return vec4.serves(dims) ? vec4 : naive;
}

/** out[rows, cols] = softmax of every row of x; rows of any length, finite logits of any size. */
export function softmax(gpu: Gpu, args: SoftmaxArgs): void {
  const { x, out, rows, cols } = args;
  const { forward } = chooseSoftmax(gpu, { rows, cols });
  forward.run(gpu, { tensors: { x, out }, dims: { rows, cols } });
}

/** dx[rows, cols] = y · (dy − Σ y·dy) over each row, from the forward pass's y. */
export function softmaxBackward(gpu: Gpu, args: SoftmaxBackwardArgs): void {
  const { y, dy, dx, rows, cols } = args;
  const { backward } = chooseSoftmax(gpu, { rows, cols });
  backward.run(gpu, { tensors: { y, dy, dx }, dims: { rows, cols } });
}
