import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';
import { reduce } from './reduce.ts';
import { rowsForm, rowsGrid } from './rows.ts';
import { powerOfTwoAbove, splitTerms } from './split.ts';

/** How Wv is made: a row a thread (software adapters), or a row a workgroup. */
export type SpectralRung = 'thread' | 'tree';

type Matrix = Dims<'outer' | 'rows' | 'inner'>;
const product = {
  flops: ({ outer, rows, inner }: Matrix) => 2 * outer * rows * inner,
  bytes: ({ outer, rows, inner }: Matrix) => 4 * (outer * rows * inner + rows + outer * inner),
};

const columnDims = ['outer', 'rows', 'inner', 'each', 'parts'] as const;
export const columnsScalar = kernel({
  file: 'spectral/columns.wgsl',
  entry: 'scalar',
  tensors: ['w', 'u', 'part'],
  dims: columnDims,
  grid: ({ outer, inner, parts }, tile) => linearGrid(parts * outer * inner, tile('WG')),
  ...product,
});
export const columnsQuads = kernel({
  file: 'spectral/columns.wgsl',
  entry: 'quads',
  tensors: ['wQuads', 'u', 'partQuads'],
  dims: columnDims,
  grid: ({ outer, inner, parts }, tile) => linearGrid((parts * outer * inner) / 4, tile('WG')),
  ...product,
});

const rowDims = ['outer', 'rows', 'inner', 'C0', 'C1', 'P1', 'parts'] as const;
export const rowsThreadScalar = kernel({
  file: 'spectral/rows_thread.wgsl',
  entry: 'scalar',
  tensors: ['w', 'v', 'part'],
  dims: rowDims,
  grid: ({ rows, parts }, tile) => linearGrid(parts * rows, tile('WG')),
  ...product,
});
export const rowsThreadQuads = kernel({
  file: 'spectral/rows_thread.wgsl',
  entry: 'quads',
  tensors: ['wQuads', 'vQuads', 'part'],
  dims: rowDims,
  grid: ({ rows, parts }, tile) => linearGrid(parts * rows, tile('WG')),
  ...product,
});
export const rowsTree = kernel({
  file: 'spectral/rows_tree.wgsl',
  tensors: ['w', 'v', 'part'],
  dims: ['outer', 'rows', 'inner', 'W'],
  grid: ({ rows }) => linearGrid(rows, 1),
  ...product,
  needs: { workgroupBytes: 1024 },
});

const finishRecord = {
  file: 'spectral/finish.wgsl',
  dims: ['n', 'm', 'parts', 'eps'],
  tile: { WG: 256 },
  grid: (): Grid => [1, 1, 1],
  flops: ({ n, parts }: Dims<'n' | 'parts'>) => (parts + 3) * n,
  bytes: ({ n, m, parts }: Dims<'n' | 'm' | 'parts'>) => 4 * ((parts + 2) * n + 2 * m),
  needs: { workgroupBytes: 1024 },
} as const;
export const finishRight = kernel({
  ...finishRecord,
  entry: 'right',
  tensors: ['part', 'state', 'copy'],
});
export const finishLeft = kernel({
  ...finishRecord,
  entry: 'left',
  tensors: ['part', 'state', 'copy', 'sigma'],
});
export const finishKeep = kernel({
  ...finishRecord,
  entry: 'keep',
  tensors: ['part', 'uKept', 'vKept', 'uOut', 'vOut', 'sigmaKept'],
});

const weightRecord = {
  file: 'spectral/weight.wgsl',
  dims: ['n', 'outer', 'rows', 'inner', 'each', 'parts'],
  tile: { ROWS: 1, WG: 64 },
} as const;
export const weightScale = kernel({
  ...weightRecord,
  entry: 'scale',
  tensors: ['wQuads', 'sigma', 'out'],
  grid: ({ n }, tile) => linearGrid(ceilDiv(n, 4), tile('WG')),
  flops: ({ n }) => n,
  bytes: ({ n }) => 8 * n,
});
export const weightDot = kernel({
  ...weightRecord,
  entry: 'dotParts',
  tensors: ['dwnQuads', 'wOther', 'part'],
  grid: ({ parts }, tile) => linearGrid(parts, tile('WG')),
  flops: ({ n }) => 2 * n,
  bytes: ({ n }) => 8 * n,
});
const gradCost = {
  flops: ({ n }: Dims<'n'>) => 4 * n,
  bytes: ({ n }: Dims<'n'>) => 8 * n,
};
export const weightGrad = kernel({
  ...weightRecord,
  entry: 'grad',
  tensors: ['dwn', 'sigma', 'product', 'u', 'v', 'dw'],
  grid: ({ outer, rows, inner }, tile) =>
    rowsGrid(outer * rows, { units: inner, each: tile('WG'), rows: tile('ROWS') }),
  ...gradCost,
});
export const weightGradQuads = kernel({
  ...weightRecord,
  entry: 'gradQuads',
  tensors: ['dwnQuads', 'sigma', 'product', 'u', 'vQuads', 'dwQuads'],
  grid: ({ outer, rows, inner }, tile) =>
    rowsGrid(outer * rows, { units: inner / 4, each: tile('WG'), rows: tile('ROWS') }),
  ...gradCost,
});

/** A weight as a matrix of rows × (outer·inner): element (row, (a, b)) is w[(a·rows + row)·inner + b]. */
interface MatrixSizes {
  readonly outer: number;
  readonly rows: number;
  readonly inner: number;
}

export interface PowerIterationArgs extends MatrixSizes {
  readonly w: Storage;
  /** State of the iteration, [rows] and [outer·inner]; changed in place if `update`. */
  readonly u: Storage;
  readonly v: Storage;
  /** Results: σ = uᵀWv [1], and the u and v that it was made with. */
  readonly sigma: Storage;
  readonly uOut: Storage;
  readonly vOut: Storage;
  readonly eps: number;
  readonly update: boolean;
  /** Default: chosen for the adapter. */
  readonly rung?: SpectralRung;
}

export function chooseSpectral(gpu: Gpu): SpectralRung {
  return gpu.adapter.kind === 'software' ? 'thread' : 'tree';
}

/**
 * One power iteration (`update`): v ← Wᵀu/max(‖Wᵀu‖, eps), u ← Wv/max(‖Wv‖, eps), in place and into vOut, uOut; then
 * σ = uᵀWv. Without `update` u and v stay, are copied to uOut and vOut, and only σ is made.
 */
export function powerIteration(gpu: Gpu, args: PowerIterationArgs): void {
  const { u, v, sigma, uOut, vOut, outer, rows, inner, eps, update } = args;
  const cols = outer * inner;
  const tile = { WG: gpu.adapter.kind === 'software' ? 32 : 256 };
  if (update) {
    const right = columns(gpu, args);
    const dims = { n: cols, m: 0, parts: right.parts, eps };
    finishRight.run(gpu, { tensors: { part: right.part, state: v, copy: vOut }, dims, tile });
  }
  const left = products(gpu, args, update ? vOut : v);
  const { part, parts } = left;
  if (update) {
    const tensors = { part, state: u, copy: uOut, sigma };
    finishLeft.run(gpu, { tensors, dims: { n: rows, m: 0, parts, eps }, tile });
  } else {
    const tensors = { part, uKept: u, vKept: v, uOut, vOut, sigmaKept: sigma };
    finishKeep.run(gpu, { tensors, dims: { n: rows, m: cols, parts, eps }, tile });
  }
}

/** Wᵀu by parts of the rows. */
function columns(gpu: Gpu, { w, u, outer, rows, inner }: PowerIterationArgs) {
  const software = gpu.adapter.kind === 'software';
  const quads = inner % 4 === 0;
  const cols = outer * inner;
  const { C1, parts } = splitTerms({
    units: quads ? cols / 4 : cols,
    R0: 1,
    R1: rows,
    wanted: software ? 512 : 16384,
    fewestTerms: software ? 64 : 32,
  });
  const part = gpu.alloc(4 * parts * cols, 'spectral norm Wᵀu');
  const dims = { outer, rows, inner, each: C1, parts };
  if (quads) columnsQuads.run(gpu, { tensors: { wQuads: w, u, partQuads: part }, dims });
  else columnsScalar.run(gpu, { tensors: { w, u, part }, dims });
  return { part, parts };
}

/** Wv by parts of the columns. */
function products(gpu: Gpu, args: PowerIterationArgs, v: Storage) {
  const { w, outer, rows, inner, rung = chooseSpectral(gpu) } = args;
  if (rung === 'tree') {
    const part = gpu.alloc(4 * rows, 'spectral norm Wv');
    const W = Math.min(256, powerOfTwoAbove(inner));
    rowsTree.run(gpu, { tensors: { w, v, part }, dims: { outer, rows, inner, W } });
    return { part, parts: 1 };
  }
  const split = splitTerms({ units: rows, R0: outer, R1: inner, wanted: 512, fewestTerms: 256 });
  const part = gpu.alloc(4 * split.parts * rows, 'spectral norm Wv');
  const dims = { outer, rows, inner, ...split };
  if (inner % 4 === 0 && split.C1 % 4 === 0) {
    rowsThreadQuads.run(gpu, { tensors: { wQuads: w, vQuads: v, part }, dims });
  } else rowsThreadScalar.run(gpu, { tensors: { w, v, part }, dims });
  return { part, parts: split.parts };
}

/** out = w/σ, n floats; 0 where σ = 0. */
export function spectralScale(
  gpu: Gpu,
  { w, sigma, out, n }: { w: Storage; sigma: Storage; out: Storage; n: number },
): void {
  const dims = { n, outer: 1, rows: 1, inner: n, each: 0, parts: 0 };
  weightScale.run(gpu, { tensors: { wQuads: w, sigma, out }, dims });
}

export interface SpectralBackwardArgs extends MatrixSizes {
  readonly w: Storage;
  readonly sigma: Storage;
  /** uOut and vOut of the forward's iteration. */
  readonly u: Storage;
  readonly v: Storage;
  /** Gradient of the normalised weight, and of the weight. */
  readonly dwn: Storage;
  readonly dw: Storage;
}

/** dw = (dwn − (Σ dwn∘w/σ)·u·vᵀ)/σ: the gradient of w/σ with σ = uᵀWv and u, v held still. */
export function spectralBackward(gpu: Gpu, args: SpectralBackwardArgs): void {
  const { w, sigma, u, v, dwn, dw, outer, rows, inner } = args;
  const n = outer * rows * inner;
  const most = gpu.adapter.kind === 'software' ? 512 : 8192;
  const quads = Math.max(1, Math.floor(n / 4));
  const parts = Math.min(most, ceilDiv(quads, 16));
  const part = gpu.alloc(4 * parts, 'spectral norm dot parts');
  const total = gpu.alloc(4, 'spectral norm dot');
  const dims = { n, outer, rows, inner, each: ceilDiv(quads, parts), parts };
  weightDot.run(gpu, {
    tensors: { dwnQuads: dwn, wOther: w, part },
    dims,
    tile: { WG: parts < 1024 ? 16 : 64 },
  });
  reduce(gpu, 'sum', { x: part, out: total, shape: [parts], axes: [0] });
  const fits = inner % 4 === 0;
  const tile = { ROWS: rowsForm(fits ? inner / 4 : inner, weightRecord.tile.WG) };
  if (fits) {
    const tensors = { dwnQuads: dwn, sigma, product: total, u, vQuads: v, dwQuads: dw };
    weightGradQuads.run(gpu, { tensors, dims, tile });
  } else {
    weightGrad.run(gpu, { tensors: { dwn, sigma, product: total, u, v, dw }, dims, tile });
  }
}
