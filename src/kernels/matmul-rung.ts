/** What the rungs of matmul share: sizes, arguments, costs, flags, and which tiles of workgroup memory suit which sizes. */
import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { canRun } from './kernel.ts';
import type { Dims, Kernel, Tile } from './kernel.ts';
import { storedOf } from './precision.ts';
import type { Precision } from './precision.ts';
import type { Rung } from './rung.ts';

/** Sizes of out[batch, M, N] = alpha · op(A)[M, K] · op(B)[K, N]. */
export interface MatmulDims extends Precision {
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

/** Every rung serves every transpose, size and batch; those of f32 only operands in f32. */
export type MatmulRung = Rung<MatmulDims, MatmulArgs>;

export type ParamName = 'M' | 'N' | 'K' | 'batch' | 'strideA' | 'strideB' | 'alpha';
export const dims = ['M', 'N', 'K', 'batch', 'strideA', 'strideB', 'alpha'] as const;
export const cost = {
  flops: ({ M, N, K, batch }: Dims<ParamName>) => 2 * batch * M * N * K,
  bytes: ({ M, N, K, batch, strideA, strideB }: Dims<ParamName>, each = 4) =>
    each * ((strideA > 0 ? batch : 1) * M * K + (strideB > 0 ? batch : 1) * K * N + batch * M * N),
};

export const multiple = (n: number) => n % 4 === 0;
export const flag = (on: boolean) => String(on);

export function paramsOf(args: MatmulArgs): Dims<ParamName> {
  const { M, N, K, batch, strideA, strideB, alpha = 1 } = args;
  return { M, N, K, batch, strideA, strideB, alpha };
}

export function transposes({ transA, transB }: MatmulDims): Tile {
  return { TRANS_A: flag(transA), TRANS_B: flag(transB) };
}

/** The sizes by which a matrix may be read as vec4s: every batch has to begin on one. */
export function vectors({ M, N, K, strideA, strideB }: MatmulDims) {
  const batches = multiple(strideA) && multiple(strideB);
  return { M: batches && multiple(M), N: batches && multiple(N), K: batches && multiple(K) };
}

/**
 * Tiles for a GPU, the default first: a large one where it still makes enough workgroups to fill a GPU and a matrix fills
 * it, a small one otherwise. Their sides are 128, 64 and 32.
 */
export function groupTiles<T extends Tile>(
  { M, N, batch }: MatmulDims,
  { large, middle, small }: Readonly<Record<'large' | 'middle' | 'small', T>>,
): readonly [T, ...T[]] {
  const groups = (side: number) => ceilDiv(M, side) * ceilDiv(N, side) * batch;
  // A matrix no larger than half a tile on both sides takes as many tiles of half the size.
  const filled = (side: number) => Math.max(M, N) > side / 2;
  if (filled(128) && groups(128) >= 256) return [large, middle, small];
  if (filled(64) && groups(64) >= 128) return [middle, large, small];
  return [small, middle, large];
}

/** What rungs 4 and 5 ask of the sizes. */
export function vec4Flags(args: MatmulDims): Tile {
  const vec = vectors(args);
  return { ...transposes(args), VEC_K: flag(vec.K), VEC_N: flag(vec.N) };
}

/** A rung of two entries: the second stores four columns at a time where N allows it. */
export function vec4Rung(
  made: Kernel<'a' | 'b' | 'out', ParamName>,
  storing4: Kernel<'a' | 'b' | 'out4', ParamName>,
  o: {
    serves: (args: MatmulDims) => boolean;
    flags: (args: MatmulDims) => Tile;
    tiles: (gpu: Gpu, args: MatmulDims) => readonly [Tile, ...Tile[]];
  },
): MatmulRung {
  return {
    name: made.name,
    kernels: [made, storing4],
    fits: (gpu, sizes) => o.serves(sizes) && canRun(gpu, made),
    tiles: o.tiles,
    run: (gpu, args, tile = o.tiles(gpu, args)[0]) => {
      const { a, b, out } = args;
      const constants = { ...o.flags(args), ...tile };
      const launch = { dims: paramsOf(args), tile: constants, stored: storedOf(args) };
      if (multiple(args.N)) storing4.run(gpu, { tensors: { a, b, out4: out }, ...launch });
      else made.run(gpu, { tensors: { a, b, out }, ...launch });
    },
  };
}
