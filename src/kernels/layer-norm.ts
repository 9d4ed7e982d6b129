import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { canRun, kernel, linearGrid } from './kernel.ts';
import type { Dims, Kernel, Needs, Tile, TileOf } from './kernel.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';
import { splitTerms } from './split.ts';

export interface LayerNormDims {
  readonly rows: number;
  readonly cols: number;
}

export interface LayerNormArgs extends LayerNormDims {
  /** [rows, cols] */
  readonly x: Storage;
  /** Scale and shift, [cols]. */
  readonly gamma: Storage;
  readonly beta: Storage;
  /** Results: [rows] each, and [rows, cols]. */
  readonly mean: Storage;
  readonly invStd: Storage;
  readonly out: Storage;
  readonly eps: number;
}

export interface LayerNormBackwardArgs extends LayerNormDims {
  readonly x: Storage;
  readonly dy: Storage;
  readonly gamma: Storage;
  /** What the forward pass gave. */
  readonly mean: Storage;
  readonly invStd: Storage;
  /** Result, [rows, cols]. */
  readonly dx: Storage;
}

interface Rungs {
  readonly forward: Rung<LayerNormDims, LayerNormArgs>;
  readonly backward: Rung<LayerNormDims, LayerNormBackwardArgs>;
}

interface Options {
  /** Threads of a workgroup, the default first. */
  readonly threads: readonly [number, ...number[]];
  /** Rows that a workgroup takes: its threads' number, or one. */
  readonly rowEach: 'thread' | 'workgroup';
  readonly needs?: Needs;
  readonly fits?: (dims: LayerNormDims) => boolean;
}

const flops = { forward: 7, backward: 10 };

/** Both directions of one file. */
function rungs(name: string, o: Options): Rungs {
  const shared = {
    file: `${name}.wgsl`,
    dims: ['rows', 'cols', 'eps'] as const,
    grid: ({ rows }: Dims<'rows'>, tile: TileOf) =>
      linearGrid(rows, o.rowEach === 'thread' ? tile('WG') : 1),
    ...(o.needs && { needs: o.needs }),
  };
  const forward = kernel({
    ...shared,
    entry: 'forward',
    tensors: ['x', 'gamma', 'beta', 'mean', 'invStd', 'out'],
    flops: ({ rows, cols }) => flops.forward * rows * cols,
    bytes: ({ rows, cols }) => 4 * (2 * rows * (cols + 1) + 2 * cols),
  });
  const backward = kernel({
    ...shared,
    entry: 'backward',
    tensors: ['x', 'dy', 'scale', 'average', 'slope', 'dx'],
    flops: ({ rows, cols }) => flops.backward * rows * cols,
    bytes: ({ rows, cols }) => 4 * (rows * (3 * cols + 2) + cols),
  });
  const [first, ...others] = o.threads.map((WG): Tile => ({ WG }));
  const tiles = [first ?? {}, ...others] as const;
  const of = (made: Kernel) => ({
    name,
    kernels: [made],
    fits: (gpu: Gpu, dims: LayerNormDims) => canRun(gpu, made) && (o.fits?.(dims) ?? true),
    tiles: () => tiles,
  });
  return {
    forward: {
      ...of(forward),
      run: (gpu, { rows, cols, eps, ...tensors }, tile = tiles[0]) => {
        forward.run(gpu, { tensors, dims: { rows, cols, eps }, tile });
      },
    },
    backward: {
      ...of(backward),
      run: (gpu, { x, dy, gamma, mean, invStd, dx, rows, cols }, tile = tiles[0]) => {
        const tensors = { x, dy, scale: gamma, average: mean, slope: invStd, dx };
        backward.run(gpu, { tensors, dims: { rows, cols, eps: 0 }, tile });
      },
    },
  };
}

const naive = rungs('layer-norm/1_naive', { threads: [16, 64], rowEach: 'thread' });
const vec4 = rungs('layer-norm/2_vec4', {
  ...{ threads: [16, 64], rowEach: 'thread' },
  fits: ({ cols }) => cols % 4 === 0,
});
const tree = rungs('layer-norm/3_tree', {
  ...{ threads: [64, 128, 256], rowEach: 'workgroup' },
  needs: { invocations: 256, workgroupBytes: 8 * 256 },
});

const all = [naive, vec4, tree] as const;

/** A thread a row for a CPU driver, a workgroup a row for a GPU. */
const preferred = ({ adapter }: Gpu): readonly string[] =>
  (adapter.kind === 'software' ? [vec4, naive] : [tree]).map((r) => r.forward.name);
const dimsOf = ({ rows, cols }: LayerNormDims): LayerNormDims => ({ rows, cols });

/** out[rows, cols] = (x − mean)·invStd·gamma + beta of every row, simplest rung first. */
export const layerNormForwardLadder: Ladder<
  LayerNormDims,
  LayerNormArgs,
  'x' | 'gamma' | 'beta' | 'mean' | 'invStd' | 'out'
> = {
  name: 'layer-norm-forward',
  rungs: all.map((r) => r.forward),
  preferred,
  dimsOf,
  operands: ({ rows, cols }) => ({
    ...{ x: rows * cols, gamma: cols, beta: cols },
    ...{ mean: rows, invStd: rows, out: rows * cols },
  }),
  outputs: ['mean', 'invStd', 'out'],
  argsOf: (dims, storages) => ({ ...dims, ...storages, eps: 1e-5 }),
  flops: ({ rows, cols }) => flops.forward * rows * cols,
  bytes: ({ rows, cols }) => 4 * (2 * rows * (cols + 1) + 2 * cols),
};

/** dx[rows, cols] of every row, simplest rung first. */
export const layerNormBackwardLadder: Ladder<
  LayerNormDims,
  LayerNormBackwardArgs,
  'x' | 'dy' | 'gamma' | 'mean' | 'invStd' | 'dx'
> = {
  name: 'layer-norm-backward',
  rungs: all.map((r) => r.backward),
  preferred,
  dimsOf,
  operands: ({ rows, cols }) => ({
    ...{ x: rows * cols, dy: rows * cols, gamma: cols },
    ...{ mean: rows, invStd: rows, dx: rows * cols },
  }),
  outputs: ['dx'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: ({ rows, cols }) => flops.backward * rows * cols,
  bytes: ({ rows, cols }) => 4 * (rows * (3 * cols + 2) + cols),
};

const columns = { file: 'layer-norm/columns.wgsl', dims: ['rows', 'cols', 'C0', 'parts'] } as const;
export const layerNormParts = kernel({
  ...columns,
  entry: 'parts',
  tensors: ['x', 'dy', 'mean', 'invStd', 'sums'],
  grid: ({ parts, cols }, tile) => linearGrid(parts * cols, tile('WG')),
  flops: ({ rows, cols }) => 5 * rows * cols,
  bytes: ({ rows, cols, parts }) => 8 * (rows * (cols + 1) + parts * cols),
});
export const layerNormJoin = kernel({
  ...columns,
  entry: 'join',
  tensors: ['partSums', 'dgamma', 'dbeta'],
  grid: ({ cols }, tile) => linearGrid(cols, tile('WG')),
  flops: ({ parts, cols }) => 2 * parts * cols,
  bytes: ({ parts, cols }) => 8 * cols * (parts + 1),
});

/** LayerNorm over rows; see `LayerNormArgs`. */
export function layerNorm(gpu: Gpu, args: LayerNormArgs): void {
  climb(gpu, layerNormForwardLadder, args);
}

/** The gradient of x from the forward pass's mean and invStd. */
export function layerNormBackward(gpu: Gpu, args: LayerNormBackwardArgs): void {
  climb(gpu, layerNormBackwardLadder, args);
}

export interface LayerNormScaleArgs extends LayerNormDims {
  readonly x: Storage;
  readonly dy: Storage;
  readonly mean: Storage;
  readonly invStd: Storage;
  /** Results, [cols] each. */
  readonly dgamma: Storage;
  readonly dbeta: Storage;
}

/** dgamma = Σ dy·x̂ and dbeta = Σ dy over the rows, in their order. */
export function layerNormScaleGrads(gpu: Gpu, args: LayerNormScaleArgs): void {
  const { x, dy, mean, invStd, dgamma, dbeta, rows, cols } = args;
  const wanted = gpu.adapter.kind === 'software' ? 512 : 16_384;
  const { parts, C0 } = splitTerms({ units: cols, R0: rows, R1: 1, wanted, fewestTerms: 32 });
  const dims = { rows, cols, C0, parts };
  const sums = gpu.alloc(8 * parts * cols, 'layerNorm column sums');
  layerNormParts.run(gpu, { tensors: { x, dy, mean, invStd, sums }, dims });
  layerNormJoin.run(gpu, { tensors: { partSums: sums, dgamma, dbeta }, dims });
}
