import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { broadcastLanes, canRun, kernel } from './kernel.ts';
import type { Dims, Grid, Tile } from './kernel.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

/** Sizes of out[batch, M, N] = alpha · op(A)[M, K] · op(B)[K, N]. */
export interface MatmulDims {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly batch: number;
  /** Elements from one batch of A to the next; 0: all batches share one. */
  readonly strideA: number;
  readonly strideB: number;
  /** A is stored [K, M]. */
  readonly transA: boolean;
  /** B is stored [N, K]. */
  readonly transB: boolean;
}

export interface MatmulArgs extends MatmulDims {
  readonly a: Storage;
  readonly b: Storage;
  readonly out: Storage;
  /** Factor of the product; 1 if left out. */
  readonly alpha?: number;
}

/** Every rung serves every transpose, size and batch. */
export type MatmulRung = Rung<MatmulDims, MatmulArgs>;

type ParamName = 'M' | 'N' | 'K' | 'batch' | 'strideA' | 'strideB' | 'alpha';
const dims = ['M', 'N', 'K', 'batch', 'strideA', 'strideB', 'alpha'] as const;
const cost = {
  flops: ({ M, N, K, batch }: Dims<ParamName>) => 2 * batch * M * N * K,
  bytes: ({ M, N, K, batch, strideA, strideB }: Dims<ParamName>) =>
    4 * ((strideA > 0 ? batch : 1) * M * K + (strideB > 0 ? batch : 1) * K * N + batch * M * N),
};

const multiple = (n: number) => n % 4 === 0;
const flag = (on: boolean) => String(on);

function paramsOf(args: MatmulArgs): Dims<ParamName> {
  const { M, N, K, batch, strideA, strideB, alpha = 1 } = args;
  return { M, N, K, batch, strideA, strideB, alpha };
}

function transposes({ transA, transB }: MatmulDims): Tile {
  return { TRANS_A: flag(transA), TRANS_B: flag(transB) };
}

/** The sizes by which a matrix may be read as vec4s: every batch has to begin on one. */
function vectors({ M, N, K, strideA, strideB }: MatmulDims) {
  const batches = multiple(strideA) && multiple(strideB);
  return { M: batches && multiple(M), N: batches && multiple(N), K: batches && multiple(K) };
}

const naive = kernel({
  file: 'matmul/1_naive.wgsl',
  tensors: ['a', 'b', 'out'],
  dims,
  grid: ({ M, N, batch }, tile): Grid => [ceilDiv(N, tile('WX')), ceilDiv(M, tile('WY')), batch],
  ...cost,
});

const tiled = kernel({
  file: 'matmul/2_tiled.wgsl',
  tensors: ['a', 'b', 'out'],
  dims,
  grid: ({ M, N, batch }, tile): Grid => [ceilDiv(N, tile('T')), ceilDiv(M, tile('T')), batch],
  ...cost,
  needs: { invocations: 256, workgroupBytes: 2176 },
});

const registersSpec = {
  file: 'matmul/3_registers.wgsl',
  dims,
  grid: ({ M, N, batch }: Dims<ParamName>, tile: (name: string) => number): Grid => [
    ceilDiv(N, tile('WX') * tile('TN')),
    ceilDiv(M, tile('WY') * tile('TM')),
    batch,
  ],
  ...cost,
};
const registers = kernel({ ...registersSpec, tensors: ['a', 'b', 'out'] });
const registersVec4 = kernel({ ...registersSpec, entry: 'vec4', tensors: ['a', 'b', 'out4'] });

const vec4Spec = {
  file: 'matmul/4_vec4.wgsl',
  dims,
  grid: ({ M, N, batch }: Dims<ParamName>, tile: (name: string) => number): Grid => [
    ceilDiv(N, tile('BN')),
    ceilDiv(M, tile('BM')),
    batch,
  ],
  ...cost,
  needs: { invocations: 256, workgroupBytes: 10240 },
};
const vec4 = kernel({ ...vec4Spec, tensors: ['a', 'b', 'out'] });
const vec4Vec4 = kernel({ ...vec4Spec, entry: 'vec4', tensors: ['a', 'b', 'out4'] });

const lanesSpec = {
  file: 'matmul/5_lanes.wgsl',
  dims: [...dims, 'span'] as const,
  grid: ({ M, N, batch }: Dims<ParamName>, tile: (name: string) => number): Grid => [
    ceilDiv(N, 4 * tile('TN4') * tile('LANES')),
    ceilDiv(M, tile('TM')),
    batch,
  ],
  ...cost,
  needs: { features: ['subgroups'] },
};
const lanes = kernel({ ...lanesSpec, tensors: ['a', 'b', 'bias', 'out'] });
const lanesVec4 = kernel({ ...lanesSpec, entry: 'vec4', tensors: ['a', 'b', 'bias', 'out4'] });

function registerFlags(args: MatmulDims): Tile {
  const vec = vectors(args);
  const shared = { ...transposes(args), KQ: vec.K ? 4 : 1 };
  return { ...shared, VEC_M: flag(vec.M), VEC_N: flag(vec.N) };
}

/** Columns of lanes: a software driver's vector is filled by a small square, so that narrow matrices fill it too. */
function registerTiles(gpu: Gpu): readonly [Tile, ...Tile[]] {
  const lanes = gpu.adapter.subgroupSizes[1];
  const shape = lanes > 4 ? { WX: 4, WY: Math.min(8, lanes / 4) } : { WX: 2, WY: 2 };
  const block = (TM: number, TN: number) => ({ ...shape, TM, TN });
  return [block(8, 8), block(4, 8), block(8, 4), block(4, 4)];
}

function lanesFlags(args: MatmulDims): Tile {
  const vec = vectors(args);
  const shared = { ...transposes(args), VEC_K: flag(vec.K) };
  return { ...shared, VEC_M: flag(vec.M), VEC_N: flag(vec.N) };
}

/** Rows that the lanes hold between them: more of them share a load of B, as long as their sums fit the registers. */
function lanesTiles(gpu: Gpu, { M }: MatmulDims): readonly [Tile, ...Tile[]] {
  const LANES = broadcastLanes(gpu) ?? 8;
  const heights = [24, 16, 8].filter((TM) => TM % LANES === 0);
  const fewest = Math.min(...heights);
  const all = heights.map((TM) => ({ LANES, TM, TN4: 1 }));
  const [first = { LANES, TM: LANES, TN4: 1 }, ...others] = all.filter(({ TM }) => TM < M + fewest);
  return [first, ...others];
}

function vec4Flags(args: MatmulDims): Tile {
  const vec = vectors(args);
  return { ...transposes(args), VEC_K: flag(vec.K), VEC_N: flag(vec.N) };
}

/** Large tiles where they still make enough workgroups to fill a GPU and a matrix fills them, small ones otherwise. */
function vec4Tiles(_gpu: Gpu, { M, N, batch }: MatmulDims): readonly [Tile, ...Tile[]] {
  const groups = (tile: number) => ceilDiv(M, tile) * ceilDiv(N, tile) * batch;
  // A matrix no larger than half a tile on both sides takes as many tiles of half the size.
  const filled = (tile: number) => Math.max(M, N) > tile / 2;
  const large = { BM: 128, BN: 128, BK: 8, TM: 8, TN: 8 };
  const middle = { BM: 64, BN: 64, BK: 16, TM: 4, TN: 4 };
  const small = { BM: 32, BN: 32, BK: 16, TM: 2, TN: 4 };
  if (filled(128) && groups(128) >= 256) return [large, middle, small];
  if (filled(64) && groups(64) >= 128) return [middle, large, small];
  return [small, middle, large];
}

const plainRung = (made: typeof naive): MatmulRung => ({
  name: made.name,
  kernels: [made],
  fits: (gpu) => canRun(gpu, made),
  tiles: () => [{}],
  run: (gpu, args, tile = {}) => {
    const { a, b, out } = args;
    const constants = { ...transposes(args), ...tile };
    made.run(gpu, { tensors: { a, b, out }, dims: paramsOf(args), tile: constants });
  },
});

/** A rung of two entries: `vec4` stores four columns at a time where N allows it. */
const vec4Rung = (
  made: typeof registers,
  storing4: typeof registersVec4,
  o: {
    flags: (args: MatmulDims) => Tile;
    tiles: (gpu: Gpu, args: MatmulDims) => readonly [Tile, ...Tile[]];
  },
): MatmulRung => ({
  name: made.name,
  kernels: [made, storing4],
  fits: (gpu) => canRun(gpu, made),
  tiles: o.tiles,
  run: (gpu, args, tile = o.tiles(gpu, args)[0]) => {
    const { a, b, out } = args;
    const launch = { dims: paramsOf(args), tile: { ...o.flags(args), ...tile } };
    if (multiple(args.N)) storing4.run(gpu, { tensors: { a, b, out4: out }, ...launch });
    else made.run(gpu, { tensors: { a, b, out }, ...launch });
  },
});

const registersRung = vec4Rung(registers, registersVec4, {
  flags: registerFlags,
  tiles: registerTiles,
});
/** What a convolution that is a product adds to it: an element for each row, or one for every `span` columns. */
export interface ProductBias {
  readonly bias?: Storage | undefined;
  readonly along?: 'rows' | 'columns' | undefined;
  readonly span?: number | undefined;
}

export type ProductArgs = MatmulArgs & ProductBias;

/** The product whose lanes share their loads, which alone can add a bias. */
export const lanesRung: Rung<MatmulDims, ProductArgs> = {
  name: lanes.name,
  kernels: [lanes, lanesVec4],
  fits: (gpu) => canRun(gpu, lanes) && broadcastLanes(gpu) !== undefined,
  tiles: lanesTiles,
  run: (gpu, args, tile = lanesTiles(gpu, args)[0]) => {
    const { a, b, out, bias, along = 'rows', span = 1 } = args;
    const BIAS = bias === undefined ? 0 : along === 'rows' ? 1 : 2;
    const tensors = { a, b, bias: bias ?? b };
    const launch = {
      dims: { ...paramsOf(args), span },
      tile: { ...lanesFlags(args), BIAS, ...tile },
    };
    if (multiple(args.N)) lanesVec4.run(gpu, { tensors: { ...tensors, out4: out }, ...launch });
    else lanes.run(gpu, { tensors: { ...tensors, out }, ...launch });
  },
};
const tilesRung = vec4Rung(vec4, vec4Vec4, { flags: vec4Flags, tiles: vec4Tiles });

/** out[batch, M, N] = alpha · op(A) · op(B), simplest rung first. */
export const matmulLadder: Ladder<MatmulDims, MatmulArgs, 'a' | 'b' | 'out'> = {
  name: 'matmul',
  rungs: [plainRung(naive), plainRung(tiled), registersRung, tilesRung, lanesRung],
  // Lanes that share their loads, or registers alone, for a CPU driver; workgroup tiles for a GPU.
  preferred: (gpu) =>
    gpu.adapter.kind === 'software'
      ? [lanesRung.name, registersRung.name]
      : [tilesRung.name, registersRung.name],
  dimsOf: ({ M, N, K, batch, strideA, strideB, transA, transB }) => ({
    ...{ M, N, K, batch, strideA, strideB, transA, transB },
  }),
  operands: ({ M, N, K, batch, strideA, strideB }) => ({
    a: (strideA > 0 ? batch : 1) * M * K,
    b: (strideB > 0 ? batch : 1) * K * N,
    out: batch * M * N,
  }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: (d) => cost.flops({ ...d, alpha: 1 }),
  bytes: (d) => cost.bytes({ ...d, alpha: 1 }),
};

/**
 * out[batch, M, N] = alpha · op(A) · op(B), contiguous f32.
 * A is [M, K] (or [K, M] with `transA`), B is [K, N] (or [N, K] with `transB`), `strideA` and `strideB` elements from
 * batch to batch (0: shared by all). Any sizes and any batch.
 */
export function matmul(gpu: Gpu, args: MatmulArgs): void {
  climb(gpu, matmulLadder, args);
}
