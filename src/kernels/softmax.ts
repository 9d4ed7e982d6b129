import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { canRun, kernel, linearGrid } from './kernel.ts';
import type { Dims, Kernel, Needs, Tile } from './kernel.ts';
import { bytesOf, precisionOf, storedOf } from './precision.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

export interface SoftmaxDims {
  readonly rows: number;
  readonly cols: number;
  /** What the tensors are made of. */
  readonly stored?: Stored | undefined;
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

type Dim = Dims<'rows' | 'cols'>;

interface Options {
  /** Threads of a workgroup, the default first. */
  readonly threads: readonly [number, ...number[]];
  /** Rows that a workgroup takes: its threads' number, or one. */
  readonly rowEach: 'thread' | 'workgroup';
  readonly flops: number;
  /** Bytes of workgroup memory a thread. */
  readonly threadBytes: number;
  readonly features?: readonly string[];
  readonly fits?: (gpu: Gpu, dims: SoftmaxDims) => boolean;
}

interface Rungs {
  readonly forward: Rung<SoftmaxDims, SoftmaxArgs>;
  readonly backward: Rung<SoftmaxDims, SoftmaxBackwardArgs>;
}

const launchOf = ({ rows, cols, ...precision }: SoftmaxDims) => ({
  dims: { rows, cols },
  stored: storedOf(precision),
});

/** Both directions of one file. */
function rungs(name: string, o: Options): Rungs {
  const most = Math.max(...o.threads);
  const needs: Needs = {
    invocations: most,
    workgroupBytes: o.threadBytes * most,
    ...(o.features && { features: o.features }),
  };
  const shared = {
    file: `${name}.wgsl`,
    dims: ['rows', 'cols'] as const,
    grid: ({ rows }: Dim, tile: (constant: string) => number) =>
      linearGrid(rows, o.rowEach === 'thread' ? tile('WG') : 1),
    needs,
  };
  const forward = kernel({
    ...shared,
    entry: 'forward',
    tensors: ['x', 'out'],
    flops: ({ rows, cols }) => o.flops * rows * cols,
    bytes: ({ rows, cols }, each = 4) => 2 * each * rows * cols,
  });
  const backward = kernel({
    ...shared,
    entry: 'backward',
    tensors: ['y', 'dy', 'dx'],
    flops: ({ rows, cols }) => 4 * rows * cols,
    bytes: ({ rows, cols }, each = 4) => 3 * each * rows * cols,
  });
  const [first, ...others] = o.threads.map((WG): Tile => ({ WG }));
  const tiles = [first ?? {}, ...others] as const;
  const of = (made: Kernel) => ({
    name,
    kernels: [made],
    fits: (gpu: Gpu, dims: SoftmaxDims) => canRun(gpu, made) && (o.fits?.(gpu, dims) ?? true),
    tiles: () => tiles,
  });
  return {
    forward: {
      ...of(forward),
      run: (gpu, { x, out, ...sizes }, tile = tiles[0]) => {
        forward.run(gpu, { tensors: { x, out }, ...launchOf(sizes), tile });
      },
    },
    backward: {
      ...of(backward),
      run: (gpu, { y, dy, dx, ...sizes }, tile = tiles[0]) => {
        backward.run(gpu, { tensors: { y, dy, dx }, ...launchOf(sizes), tile });
      },
    },
  };
}

const naive = rungs('softmax/1_naive', {
  threads: [16, 64],
  rowEach: 'thread',
  flops: 5,
  threadBytes: 0,
});
const vec4 = rungs('softmax/2_vec4', {
  threads: [8, 64],
  rowEach: 'thread',
  flops: 5,
  threadBytes: 0,
  fits: (_gpu, { cols }) => cols % 4 === 0,
});
const online = rungs('softmax/3_online', {
  threads: [128, 64, 256],
  rowEach: 'workgroup',
  flops: 8,
  threadBytes: 8,
});
const subgroups = rungs('softmax/4_subgroups', {
  threads: [128, 64, 256],
  rowEach: 'workgroup',
  flops: 8,
  threadBytes: 2,
  features: ['subgroups'],
  // Whole subgroups, whatever their size is.
  fits: ({ adapter }) => adapter.subgroupSizes[0] >= 4 && adapter.subgroupSizes[1] <= 64,
});

const all = [naive, vec4, online, subgroups] as const;
const flops = { forward: 5, backward: 4 };

/** A thread a row for a CPU driver, a workgroup a row for a GPU. */
const preferred = ({ adapter }: Gpu): readonly string[] =>
  (adapter.kind === 'software' ? [vec4, naive] : [subgroups, online]).map((r) => r.forward.name);
const dimsOf = ({ rows, cols, stored }: SoftmaxDims): SoftmaxDims => ({
  rows,
  cols,
  ...precisionOf({ stored }),
});

/** out[rows, cols] = softmax of every row of x, simplest rung first. */
export const softmaxForwardLadder: Ladder<SoftmaxDims, SoftmaxArgs, 'x' | 'out'> = {
  name: 'softmax-forward',
  rungs: all.map((r) => r.forward),
  preferred,
  dimsOf,
  operands: ({ rows, cols }) => ({ x: rows * cols, out: rows * cols }),
  outputs: ['out'],
  halves: ['x', 'out'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: ({ rows, cols }) => flops.forward * rows * cols,
  bytes: ({ rows, cols, stored }) => 2 * bytesOf({ stored }) * rows * cols,
};

/** dx[rows, cols] = y · (dy − Σ y·dy) over each row, simplest rung first. */
export const softmaxBackwardLadder: Ladder<SoftmaxDims, SoftmaxBackwardArgs, 'y' | 'dy' | 'dx'> = {
  name: 'softmax-backward',
  rungs: all.map((r) => r.backward),
  preferred,
  dimsOf,
  operands: ({ rows, cols }) => ({ y: rows * cols, dy: rows * cols, dx: rows * cols }),
  outputs: ['dx'],
  halves: ['y', 'dy', 'dx'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: ({ rows, cols }) => flops.backward * rows * cols,
  bytes: ({ rows, cols, stored }) => 3 * bytesOf({ stored }) * rows * cols,
};

/** out[rows, cols] = softmax of every row of x; rows of any length, finite logits of any size. */
export function softmax(gpu: Gpu, args: SoftmaxArgs): void {
  climb(gpu, softmaxForwardLadder, args);
}

/** dx[rows, cols] = y · (dy − Σ y·dy) over each row, from the forward pass's y. */
export function softmaxBackward(gpu: Gpu, args: SoftmaxBackwardArgs): void {
  climb(gpu, softmaxBackwardLadder, args);
}
