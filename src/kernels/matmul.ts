import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel } from './kernel.ts';
import type { Dims, Grid, Kernel, Tile } from './kernel.ts';

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

/** One step of the ladder. Every rung serves every transpose, size and batch. */
export interface MatmulRung {
  readonly kernel: Kernel;
  readonly run: (gpu: Gpu, args: MatmulArgs) => void;
}

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

/** Columns of lanes: a software driver's vector is filled by a small square, so that narrow matrices fill it too. */
function registerTile(gpu: Gpu, args: MatmulDims): Tile {
  const lanes = gpu.adapter.subgroupSizes[1];
  const shape = lanes > 4 ? { WX: 4, WY: Math.min(8, lanes / 4) } : { WX: 2, WY: 2 };
  const vec = vectors(args);
  return {
    ...transposes(args),
    ...shape,
    KQ: vec.K ? 4 : 1,
    VEC_M: flag(vec.M),
    VEC_N: flag(vec.N),
  };
}

/** Large tiles where they still make enough workgroups to fill a GPU and a matrix fills them, small ones otherwise. */
function vec4Tile(args: MatmulDims): Tile {
  const { M, N, batch } = args;
  const groups = (tile: number) => ceilDiv(M, tile) * ceilDiv(N, tile) * batch;
  // A matrix no larger than half a tile on both sides takes as many tiles of half the size.
  const filled = (tile: number) => Math.max(M, N) > tile / 2;
  const vec = vectors(args);
  const flags = { ...transposes(args), VEC_K: flag(vec.K), VEC_N: flag(vec.N) };
  if (filled(128) && groups(128) >= 256) return { ...flags, BM: 128, BN: 128, BK: 8, TM: 8, TN: 8 };
  if (filled(64) && groups(64) >= 128) return { ...flags, BM: 64, BN: 64, BK: 16, TM: 4, TN: 4 };
  return { ...flags, BM: 32, BN: 32, BK: 16, TM: 2, TN: 4 };
}

const plainRung = (made: typeof naive): MatmulRung => ({
  kernel: made,
  run: (gpu, args) => {
    const { a, b, out } = args;
    made.run(gpu, { tensors: { a, b, out }, dims: paramsOf(args), tile: transposes(args) });
  },
});

/** A rung of two entries: `vec4` stores four columns at a time where N allows it. */
const vec4Rung = (
  made: typeof registers,
  storing4: typeof registersVec4,
  tileOf: (gpu: Gpu, args: MatmulDims) => Tile,
): MatmulRung => ({
  kernel: made,
  run: (gpu, args) => {
    const { a, b, out } = args;
    const launch = { dims: paramsOf(args), tile: tileOf(gpu, args) };
    if (multiple(args.N)) storing4.run(gpu, { tensors: { a, b, out4: out }, ...launch });
    else made.run(gpu, { tensors: { a, b, out }, ...launch });
  },
});

const registersRung = vec4Rung(registers, registersVec4, registerTile);
const tilesRung = vec4Rung(vec4, vec4Vec4, (_gpu, args) => vec4Tile(args));

/** The rungs, simplest first. */
export const matmulLadder: readonly MatmulRung[] = [
  plainRung(naive),
  plainRung(tiled),
  registersRung,
  tilesRung,
];

/** The rung for these sizes on this adapter: registers alone for a CPU driver, workgroup tiles for a GPU. */
export function chooseMatmul(gpu: Gpu, _dims: MatmulDims): MatmulRung {
  return gpu.adapter.kind === 'software' ? registersRung : tilesRung;
}

/**
 * out[batch, M, N] = alpha · op(A) · op(B), contiguous f32.
 * A is [M, K] (or [K, M] with `transA`), B is [K, N] (or [N, K] with `transB`), `strideA` and `strideB` elements from
 * batch to batch (0: shared by all). Any sizes and any batch.
 */
export function matmul(gpu: Gpu, args: MatmulArgs): void {
  chooseMatmul(gpu, args).run(gpu, args);
}
