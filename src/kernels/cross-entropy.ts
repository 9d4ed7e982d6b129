import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { canRun, kernel, linearGrid } from './kernel.ts';
import type { Dims, Needs, Tile, TileOf } from './kernel.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

/** A label that no class has: with it, no class is ignored. */
export const none = 0xffff_ffff;

export interface CrossEntropyDims {
  readonly rows: number;
  readonly classes: number;
}

/** What is asked beside the sizes. */
export interface CrossEntropyRule {
  /** Rows with this label are left out, as are those whose label is no class. */
  readonly ignore: number;
  /** Share of the target that goes to all classes alike, 0 to 1. */
  readonly smoothing: number;
}

export interface CrossEntropyRowsArgs extends CrossEntropyDims, CrossEntropyRule {
  /** [rows, classes] */
  readonly logits: Storage;
  /** u32 [rows] */
  readonly labels: Storage;
  /** Results, [rows] each: ln Σ exp(logits), and the loss of the row; 0 where it is left out. */
  readonly lse: Storage;
  readonly loss: Storage;
}

const dims = ['rows', 'classes', 'ignore', 'smoothing'] as const;
type Dim = Dims<(typeof dims)[number]>;
const cost = {
  flops: ({ rows, classes }: CrossEntropyDims) => 6 * rows * classes,
  bytes: ({ rows, classes }: CrossEntropyDims) => 4 * rows * (classes + 3),
};

interface Options {
  readonly threads: readonly [number, ...number[]];
  readonly rowEach: 'thread' | 'workgroup';
  readonly needs?: Needs;
}

function rung(name: string, o: Options): Rung<CrossEntropyDims, CrossEntropyRowsArgs> {
  const made = kernel({
    file: `${name}.wgsl`,
    entry: 'forward',
    tensors: ['logits', 'labels', 'lse', 'loss'],
    dims,
    grid: ({ rows }: Dim, tile: TileOf) =>
      linearGrid(rows, o.rowEach === 'thread' ? tile('WG') : 1),
    ...cost,
    ...(o.needs && { needs: o.needs }),
  });
  const tiles = o.threads.map((WG): Tile => ({ WG }));
  return {
    name,
    kernels: [made],
    fits: (gpu) => canRun(gpu, made),
    tiles: () => tiles,
    run: (gpu, { rows, classes, ignore, smoothing, ...tensors }, tile = tiles[0]) => {
      const sizes = { rows, classes, ignore, smoothing };
      made.run(gpu, { tensors, dims: sizes, ...(tile && { tile }) });
    },
  };
}

const naive = rung('cross-entropy/1_naive', { threads: [16, 64], rowEach: 'thread' });
const tree = rung('cross-entropy/2_tree', {
  ...{ threads: [64, 128, 256], rowEach: 'workgroup' },
  needs: { invocations: 256, workgroupBytes: 8 * 256 },
});

/** Loss and ln Σ exp of every row, simplest rung first. */
export const crossEntropyLadder: Ladder<
  CrossEntropyDims,
  CrossEntropyRowsArgs,
  'logits' | 'labels' | 'lse' | 'loss'
> = {
  name: 'cross-entropy',
  rungs: [naive, tree],
  preferred: ({ adapter }) => [adapter.kind === 'software' ? naive.name : tree.name],
  dimsOf: ({ rows, classes }) => ({ rows, classes }),
  operands: ({ rows, classes }) => ({
    ...{ logits: rows * classes, labels: rows, lse: rows, loss: rows },
  }),
  outputs: ['lse', 'loss'],
  argsOf: (sizes, storages) => ({ ...sizes, ...storages, ignore: none, smoothing: 0.1 }),
  ...cost,
};

export const crossEntropyMean = kernel({
  file: 'cross-entropy/mean.wgsl',
  tensors: ['loss', 'labels', 'out', 'share'],
  dims: ['rows', 'classes', 'ignore'],
  grid: () => [1, 1, 1],
  flops: ({ rows }) => 2 * rows,
  bytes: ({ rows }) => 8 * rows,
  needs: { workgroupBytes: 512 },
});

const elements = {
  file: 'cross-entropy/grad.wgsl',
  dims,
  grid: ({ rows, classes }: Dim, tile: TileOf) => linearGrid(rows * classes, tile('WG')),
};
export const crossEntropyWanted = kernel({
  ...elements,
  entry: 'wanted',
  tensors: ['chosen', 'portion', 'q'],
  flops: ({ rows, classes }) => rows * classes,
  bytes: ({ rows, classes }) => 4 * rows * (classes + 1),
});
export const crossEntropyGrad = kernel({
  ...elements,
  entry: 'grad',
  tensors: ['logits', 'labels', 'lse', 'share', 'dy', 'dx'],
  flops: ({ rows, classes }) => 5 * rows * classes,
  bytes: ({ rows, classes }) => 8 * rows * (classes + 1),
});

export interface CrossEntropyArgs extends Omit<CrossEntropyRowsArgs, 'loss'> {
  /** Results, [1] each: the mean over the rows that count, and one over their number; both 0 where there is none. */
  readonly out: Storage;
  readonly share: Storage;
}

/** The mean cross-entropy of rows of logits and their labels. */
export function crossEntropy(gpu: Gpu, args: CrossEntropyArgs): void {
  const { labels, out, share, rows, classes, ignore } = args;
  const loss = gpu.alloc(4 * rows, 'cross-entropy of rows');
  climb(gpu, crossEntropyLadder, { ...args, loss });
  const tensors = { loss, labels, out, share };
  crossEntropyMean.run(gpu, { tensors, dims: { rows, classes, ignore } });
}

export interface CrossEntropyBackwardArgs extends CrossEntropyDims, CrossEntropyRule {
  readonly logits: Storage;
  readonly labels: Storage;
  /** What the forward pass gave. */
  readonly lse: Storage;
  readonly share: Storage;
  /** [1] */
  readonly dy: Storage;
  /** Result, [rows, classes]. */
  readonly dx: Storage;
}

/** The gradient of the logits. */
export function crossEntropyBackward(gpu: Gpu, args: CrossEntropyBackwardArgs): void {
  const { rows, classes, ignore, smoothing, ...tensors } = args;
  crossEntropyGrad.run(gpu, { tensors, dims: { rows, classes, ignore, smoothing } });
}

export interface WantedArgs extends CrossEntropyDims, CrossEntropyRule {
  readonly labels: Storage;
  readonly share: Storage;
  /** Result, [rows, classes]. */
  readonly out: Storage;
}

/** What the softmax of each row is to be, times the row's share of the mean. */
export function wantedOf(gpu: Gpu, args: WantedArgs): void {
  const { labels, share, out, rows, classes, ignore, smoothing } = args;
  const tensors = { chosen: labels, portion: share, q: out };
  crossEntropyWanted.run(gpu, { tensors, dims: { rows, classes, ignore, smoothing } });
}
