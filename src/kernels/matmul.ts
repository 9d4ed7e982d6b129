import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { activationOf } from './activation.ts';
import type { FusedActivation } from './activation.ts';
import { broadcastLanes, canRun, kernel } from './kernel.ts';
import type { Dims, Grid, Tile, TileOf } from './kernel.ts';
import { halfRung, matrixRung } from './matmul-matrix.ts';
import {
  cost,
  dims,
  flag,
  groupTiles,
  multiple,
  paramsOf,
  transposes,
  vec4Flags,
  vec4Rung,
  vectors,
} from './matmul-rung.ts';
import type { MatmulArgs, MatmulDims, MatmulRung, ParamName } from './matmul-rung.ts';
import { bytesOf, inFloats, mayRound, precisionOf } from './precision.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

export type { MatmulArgs, MatmulDims, MatmulRung } from './matmul-rung.ts';

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
  grid: ({ M, N, batch }: Dims<ParamName>, tile: TileOf): Grid => [
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
  grid: ({ M, N, batch }: Dims<ParamName>, tile: TileOf): Grid => [
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
  dims: [...dims, 'span', 'slope'] as const,
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

const sides = {
  large: { BM: 128, BN: 128, BK: 8, TM: 8, TN: 8 },
  middle: { BM: 64, BN: 64, BK: 16, TM: 4, TN: 4 },
  small: { BM: 32, BN: 32, BK: 16, TM: 2, TN: 4 },
};
const vec4Tiles = (_gpu: Gpu, sizes: MatmulDims) => groupTiles(sizes, sides);

const plainRung = (made: typeof naive): MatmulRung => ({
  name: made.name,
  kernels: [made],
  fits: (gpu, sizes) => inFloats(sizes) && canRun(gpu, made),
  tiles: () => [{}],
  run: (gpu, args, tile = {}) => {
    const { a, b, out } = args;
    const constants = { ...transposes(args), ...tile };
    made.run(gpu, { tensors: { a, b, out }, dims: paramsOf(args), tile: constants });
  },
});

const registersRung = vec4Rung(registers, registersVec4, {
  serves: inFloats,
  flags: registerFlags,
  tiles: registerTiles,
});
/**
 * What a convolution that is a product does to it: it adds an element for each row, or one for every `span` columns, and
 * activates the sum.
 */
export interface ProductEnd {
  readonly bias?: Storage | undefined;
  readonly along?: 'rows' | 'columns' | undefined;
  readonly span?: number | undefined;
  readonly activation?: FusedActivation | undefined;
}

export type ProductArgs = MatmulArgs & ProductEnd;

/** The product whose lanes share their loads, which alone can end as a convolution does. */
export const lanesRung: Rung<MatmulDims, ProductArgs> = {
  name: lanes.name,
  kernels: [lanes, lanesVec4],
  fits: (gpu, sizes) => canRun(gpu, lanes) && broadcastLanes(gpu) !== undefined && inFloats(sizes),
  tiles: lanesTiles,
  run: (gpu, args, tile = lanesTiles(gpu, args)[0]) => {
    const { a, b, out, bias, along = 'rows', span = 1 } = args;
    const BIAS = bias === undefined ? 0 : along === 'rows' ? 1 : 2;
    const { ACT, slope } = activationOf(args.activation);
    const tensors = { a, b, bias: bias ?? b };
    const launch = {
      dims: { ...paramsOf(args), span, slope },
      tile: { ...lanesFlags(args), BIAS, ACT, ...tile },
    };
    if (multiple(args.N)) lanesVec4.run(gpu, { tensors: { ...tensors, out4: out }, ...launch });
    else lanes.run(gpu, { tensors: { ...tensors, out }, ...launch });
  },
};
const tilesRung = vec4Rung(vec4, vec4Vec4, {
  serves: inFloats,
  flags: vec4Flags,
  tiles: vec4Tiles,
});

/** out[batch, M, N] = alpha · op(A) · op(B), simplest rung first. */
export const matmulLadder: Ladder<MatmulDims, MatmulArgs, 'a' | 'b' | 'out'> = {
  name: 'matmul',
  rungs: [
    plainRung(naive),
    plainRung(tiled),
    registersRung,
    tilesRung,
    lanesRung,
    halfRung,
    matrixRung,
  ],
  // Lanes that share their loads, or registers alone, for a CPU driver; workgroup tiles for a GPU, tensor cores first where
  // operands may be f16.
  preferred: ({ adapter }, sizes) => {
    if (adapter.kind === 'software') return [lanesRung.name, registersRung.name];
    const halves = mayRound(sizes) ? [matrixRung.name, halfRung.name] : [];
    return [...halves, tilesRung.name, registersRung.name];
  },
  dimsOf: ({ M, N, K, batch, strideA, strideB, transA, transB, ...args }) => ({
    ...{ M, N, K, batch, strideA, strideB, transA, transB },
    ...precisionOf(args),
  }),
  operands: ({ M, N, K, batch, strideA, strideB }) => ({
    a: (strideA > 0 ? batch : 1) * M * K,
    b: (strideB > 0 ? batch : 1) * K * N,
    out: batch * M * N,
  }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: (d) => cost.flops({ ...d, alpha: 1 }),
  bytes: (d) => cost.bytes({ ...d, alpha: 1 }, bytesOf(d)),
  halves: ['a', 'b', 'out'],
  inFloats: ({ stored: _halves, a, b, out, ...args }, swap) => ({
    ...args,
    ...{ a: swap('a', a), b: swap('b', b), out: swap('out', out) },
  }),
};

/**
 * out[batch, M, N] = alpha · op(A) · op(B), contiguous, f32 unless `stored` says f16; sums are f32 always.
 * A is [M, K] (or [K, M] with `transA`), B is [K, N] (or [N, K] with `transB`), `strideA` and `strideB` elements from
 * batch to batch (0: shared by all). Any sizes and any batch.
 */
export function matmul(gpu: Gpu, args: MatmulArgs): void {
  climb(gpu, matmulLadder, args);
}
