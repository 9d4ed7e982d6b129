import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { canRun, kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';
import type { Ladder } from './rung.ts';
import {
  chooseSpectral,
  layerSize,
  layerWords,
  matrixWork,
  spectralRungs,
  stageOf,
  tableWords,
} from './spectral-table.ts';
import type {
  MatrixSizes,
  PlacedMatrix,
  SpectralRung,
  StageName,
  StageWork,
} from './spectral-table.ts';

export type { PlacedMatrix, SpectralRung } from './spectral-table.ts';

const dims = [
  ...(['at', 'u', 'v', 'outer', 'rows', 'inner', 'C0', 'C1', 'P1', 'parts', 'partAt'] as const),
  ...(['groups', 'count', 'table', 'index', 'eps'] as const),
] as const;
type SpectralDims = Dims<(typeof dims)[number]>;

const elements = ({ outer, rows, inner }: SpectralDims) => outer * rows * inner;
const shared = {
  dims,
  tile: { TABLE: 'false' },
  grid: ({ groups }: SpectralDims): Grid => linearGrid(groups, 1),
};
const product = {
  ...shared,
  flops: (d: SpectralDims) => 2 * elements(d),
  bytes: (d: SpectralDims) => 4 * elements(d),
};

export const columns = kernel({
  file: 'spectral/columns.wgsl',
  tensors: ['layers', 'w', 'u', 'part'],
  ...product,
});
const rowsRecord = { tensors: ['layers', 'w', 'v', 'part'], ...product } as const;
const rowsKernels = {
  naive: kernel({ ...rowsRecord, file: 'spectral/rows_1_naive.wgsl' }),
  parts: kernel({ ...rowsRecord, file: 'spectral/rows_2_parts.wgsl' }),
  tree: kernel({
    ...rowsRecord,
    file: 'spectral/rows_3_tree.wgsl',
    needs: { workgroupBytes: 1024 },
  }),
  subgroups: kernel({
    ...rowsRecord,
    file: 'spectral/rows_4_subgroups.wgsl',
    needs: { workgroupBytes: 256, features: ['subgroups'] },
  }),
};

const finishRecord = {
  file: 'spectral/finish.wgsl',
  ...shared,
  grid: ({ groups }: SpectralDims): Grid => [groups, 1, 1],
  flops: ({ parts }: SpectralDims) => 3 * parts,
  bytes: ({ parts }: SpectralDims) => 12 * parts,
  needs: { workgroupBytes: 1024 },
} as const;
export const finishRight = kernel({
  ...finishRecord,
  entry: 'right',
  tensors: ['layers', 'part', 'state', 'copy'],
});
export const finishLeft = kernel({
  ...finishRecord,
  entry: 'left',
  tensors: ['layers', 'part', 'state', 'copy', 'sigma'],
});
export const finishKeep = kernel({
  ...finishRecord,
  entry: 'keep',
  tensors: ['layers', 'part', 'uKept', 'vKept', 'uOut', 'vOut', 'sigmaKept'],
});
export const finishTotal = kernel({
  ...finishRecord,
  entry: 'total',
  tensors: ['layers', 'part', 'sum'],
});

const weightRecord = { file: 'spectral/weight.wgsl', ...shared } as const;
export const weightScale = kernel({
  ...weightRecord,
  entry: 'scale',
  tensors: ['layers', 'w', 'sigma', 'out'],
  flops: elements,
  bytes: (d, each = 4) => (4 + each) * elements(d),
});
export const weightDot = kernel({
  ...weightRecord,
  entry: 'dotParts',
  tensors: ['layers', 'dwnQuads', 'wOther', 'part'],
  flops: (d) => 2 * elements(d),
  bytes: (d) => 8 * elements(d),
});
const gradCost = {
  flops: (d: SpectralDims) => 4 * elements(d),
  bytes: (d: SpectralDims) => 8 * elements(d),
};
export const weightGrad = kernel({
  ...weightRecord,
  entry: 'grad',
  tensors: ['layers', 'dwn', 'sigma', 'product', 'u', 'v', 'dw'],
  ...gradCost,
});
export const weightGradQuads = kernel({
  ...weightRecord,
  entry: 'gradQuads',
  tensors: ['layers', 'dwnQuads', 'sigma', 'product', 'u', 'vQuads', 'dwQuads'],
  ...gradCost,
});

/** The matrices that a call goes over: one, alone in its tensors, or all that a table lists, each at its place. */
export interface MatrixBatch {
  readonly matrices: readonly PlacedMatrix[];
  /** Made by `spectralTable` of the same matrices. Without it there is one matrix. */
  readonly table?: Storage;
  /** Where sigma has this matrix's number, without a table. Default 0. */
  readonly index?: number;
}

/** The words of a u32 buffer that tells the kernels every matrix's sizes, places and share of the work. */
export function spectralTable(gpu: Gpu, matrices: readonly PlacedMatrix[]): Uint32Array {
  return tableWords(matrixWork(gpu, matrices));
}

interface Launch {
  readonly dims: SpectralDims;
  readonly tile: { readonly TABLE: string; readonly WG: number };
  readonly layers: Storage;
}

/** The dims and the tile of a stage, and what is bound as its table. */
function launchOf(
  gpu: Gpu,
  args: { batch: MatrixBatch; stage: StageName; eps?: number; work: StageWork },
): Launch {
  const { batch, stage, work, eps = 0 } = args;
  const { matrices, table, index = 0 } = batch;
  const [first] = work.layers;
  if (first === undefined) throw new Error('a spectral norm of no matrix');
  const groups = work.groups;
  const rest = { groups, count: matrices.length, table: stageOf(stage) * matrices.length, eps };
  const tile = { WG: work.WG };
  if (table === undefined) {
    if (matrices.length !== 1) throw new Error('several matrices need a table');
    const alone = { ...first, at: 0, u: 0, v: 0, partAt: 0 };
    return {
      dims: { ...layerWords(alone), ...rest, index },
      tile: { ...tile, TABLE: 'false' },
      layers: gpu.alloc(4 * layerSize, 'no table'),
    };
  }
  // With a table these only tell what the launch costs.
  const inner = work.layers.reduce((n, l) => n + l.outer * l.rows * l.inner, 0);
  const parts = work.layers.reduce((n, l) => n + l.parts, 0);
  const cost = { ...layerWords(first), outer: 1, rows: 1, inner, parts };
  return { dims: { ...cost, ...rest, index: 0 }, tile: { ...tile, TABLE: 'true' }, layers: table };
}

export interface PowerIterationArgs {
  readonly w: Storage;
  /** State of the iteration, [rows] and [outer·inner]; changed in place if `update`. */
  readonly u: Storage;
  readonly v: Storage;
  /** Results: σ = uᵀWv, a number a matrix, and the u and v that it was made with. */
  readonly sigma: Storage;
  readonly uOut: Storage;
  readonly vOut: Storage;
  readonly batch: MatrixBatch;
  readonly eps: number;
  readonly update: boolean;
  /** Default: chosen for the adapter. A table was made with the default. */
  readonly rung?: SpectralRung;
}

/**
 * One power iteration (`update`): v ← Wᵀu/max(‖Wᵀu‖, eps), u ← Wv/max(‖Wv‖, eps), in place and into vOut, uOut; then
 * σ = uᵀWv. Without `update` u and v stay, are copied to uOut and vOut, and only σ is made. Four launches (two), however
 * many matrices.
 */
export function powerIteration(gpu: Gpu, args: PowerIterationArgs): void {
  const { w, u, v, sigma, uOut, vOut, batch, eps, update, rung } = args;
  const all = matrixWork(gpu, batch.matrices, rung);
  const launch = (stage: StageName) =>
    launchOf(gpu, { batch, stage, eps, work: all.stages[stage] });
  const scratch = (stage: StageName, label: string) =>
    gpu.alloc(4 * all.stages[stage].scratch, label);
  if (update) {
    const part = scratch('columns', 'spectral norm Wᵀu');
    const { layers, ...product } = launch('columns');
    columns.run(gpu, { tensors: { layers, w, u, part }, ...product });
    const { layers: each, ...finish } = launch('right');
    finishRight.run(gpu, { tensors: { layers: each, part, state: v, copy: vOut }, ...finish });
  }
  const part = scratch('rows', 'spectral norm Wv');
  const { layers, ...product } = launch('rows');
  rowsKernels[all.rung].run(gpu, {
    tensors: { layers, w, v: update ? vOut : v, part },
    ...product,
  });
  const { layers: each, ...finish } = launch('left');
  if (update) {
    const tensors = { layers: each, part, state: u, copy: uOut, sigma };
    finishLeft.run(gpu, { tensors, ...finish });
  } else {
    const tensors = { layers: each, part, uKept: u, vKept: v, uOut, vOut, sigmaKept: sigma };
    finishKeep.run(gpu, { tensors, ...finish });
  }
}

/**
 * One power iteration of one matrix, simplest rung first. The rung goes by the adapter's class and not by a measured choice:
 * a matrix must get the same bits alone as among others of other sizes.
 */
export const powerIterationLadder: Ladder<
  MatrixSizes,
  PowerIterationArgs,
  'w' | 'u' | 'v' | 'sigma' | 'uOut' | 'vOut'
> = {
  name: 'power-iteration',
  rungs: spectralRungs.map((rung) => ({
    name: rowsKernels[rung].name,
    kernels: [columns, finishRight, rowsKernels[rung], finishLeft],
    fits: (gpu) => canRun(gpu, rowsKernels[rung]),
    tiles: () => [{}],
    run: (gpu, args) => {
      powerIteration(gpu, { ...args, rung });
    },
  })),
  preferred: (gpu) => [rowsKernels[chooseSpectral(gpu)].name],
  dimsOf: ({ batch: { matrices } }) => {
    const [{ outer, rows, inner } = { outer: 0, rows: 0, inner: 0 }] = matrices;
    return { outer, rows, inner };
  },
  operands: ({ outer, rows, inner }) => ({
    ...{ w: outer * rows * inner, u: rows, v: outer * inner },
    ...{ sigma: 1, uOut: rows, vOut: outer * inner },
  }),
  outputs: ['u', 'v', 'sigma', 'uOut', 'vOut'],
  argsOf: (sizes, storages) => ({
    ...storages,
    batch: { matrices: [{ ...sizes, at: 0, u: 0, v: 0 }] },
    ...{ eps: 1e-12, update: true },
  }),
  flops: ({ outer, rows, inner }) => 4 * outer * rows * inner,
  bytes: ({ outer, rows, inner }) => 4 * (outer * rows * inner + 2 * rows + 2 * outer * inner),
};

/** out = w/σ, of f16 if `stored` says so; 0 where σ = 0. One launch. */
export function spectralScale(
  gpu: Gpu,
  args: { w: Storage; sigma: Storage; out: Storage; batch: MatrixBatch; stored?: Stored },
): void {
  const { w, sigma, out, batch, stored = 'f32' } = args;
  const work = matrixWork(gpu, batch.matrices).stages.scale;
  const { layers, ...launch } = launchOf(gpu, { batch, stage: 'scale', work });
  weightScale.run(gpu, { tensors: { layers, w, sigma, out }, ...launch, stored });
}

export interface SpectralBackwardArgs {
  readonly w: Storage;
  readonly sigma: Storage;
  /** uOut and vOut of the forward's iteration. */
  readonly u: Storage;
  readonly v: Storage;
  /** Gradients of the normalised weights, and of the weights. */
  readonly dwn: Storage;
  readonly dw: Storage;
  readonly batch: MatrixBatch;
}

/** dw = (dwn − (Σ dwn∘w/σ)·u·vᵀ)/σ: the gradient of w/σ with σ = uᵀWv and u, v held still. Three launches. */
export function spectralBackward(gpu: Gpu, args: SpectralBackwardArgs): void {
  const { w, sigma, u, v, dwn, dw, batch } = args;
  const { matrices, index = 0 } = batch;
  const all = matrixWork(gpu, matrices).stages;
  const launch = (stage: StageName) => launchOf(gpu, { batch, stage, work: all[stage] });
  const part = gpu.alloc(4 * all.dot.scratch, 'spectral norm dot parts');
  const totals = gpu.alloc(4 * (index + matrices.length), 'spectral norm dot');
  const { layers, ...dot } = launch('dot');
  weightDot.run(gpu, { tensors: { layers, dwnQuads: dwn, wOther: w, part }, ...dot });
  const { layers: each, ...total } = launch('total');
  finishTotal.run(gpu, { tensors: { layers: each, part, sum: totals }, ...total });
  const { layers: last, ...grad } = launch('grad');
  const rest = { layers: last, sigma, product: totals, u };
  if (all.grad.quads) {
    const tensors = { ...rest, dwnQuads: dwn, vQuads: v, dwQuads: dw };
    weightGradQuads.run(gpu, { tensors, ...grad });
  } else weightGrad.run(gpu, { tensors: { ...rest, dwn, v, dw }, ...grad });
}
