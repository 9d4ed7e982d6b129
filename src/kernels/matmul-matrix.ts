/** The rungs of matmul that multiply in f16: on ordinary cores, and on subgroup matrices (tensor cores). */
import { matrixFeatures, matrixTiles } from '../gpu/adapter.ts';
import type { Gpu } from '../gpu/device.ts';
import { ceilDiv } from '../util/shape.ts';
import { canRun, kernel } from './kernel.ts';
import type { Dims, Grid, Tile, TileOf } from './kernel.ts';
import {
  cost,
  dims,
  flag,
  groupTiles,
  paramsOf,
  transposes,
  vec4Flags,
  vec4Rung,
  vectors,
} from './matmul-rung.ts';
import type { MatmulDims, MatmulRung, ParamName } from './matmul-rung.ts';
import { mayRound, storedOf } from './precision.ts';

// ---- 5: f16 operands ------------------------------------------------------------------------------------------------

const halfSpec = {
  file: 'matmul/6_f16.wgsl',
  dims,
  grid: ({ M, N, batch }: Dims<ParamName>, tile: TileOf): Grid => [
    ceilDiv(N, tile('BN')),
    ceilDiv(M, tile('BM')),
    batch,
  ],
  ...cost,
  needs: (tile: TileOf) => {
    const [BM, BN, BK] = [tile('BM'), tile('BN'), tile('BK')];
    return {
      features: ['shader-f16'],
      invocations: (BM / tile('TM')) * (BN / tile('TN')),
      workgroupBytes: 2 * (BM * (BK + 4) + BN * BK),
    };
  },
};

const halfSides = {
  large: { BM: 128, BN: 128, BK: 16, TM: 8, TN: 8 },
  middle: { BM: 64, BN: 64, BK: 32, TM: 4, TN: 4 },
  small: { BM: 32, BN: 32, BK: 32, TM: 2, TN: 4 },
};

export const halfRung: MatmulRung = vec4Rung(
  kernel({ ...halfSpec, tensors: ['a', 'b', 'out'] }),
  kernel({ ...halfSpec, entry: 'quads', tensors: ['a', 'b', 'out4'] }),
  { serves: mayRound, flags: vec4Flags, tiles: (_gpu, sizes) => groupTiles(sizes, halfSides) },
);

// ---- 6: subgroup matrices -------------------------------------------------------------------------------------------

/** Rows and columns of a workgroup's tile. */
const sideM = (tile: TileOf) => tile('SM') * tile('TM') * tile('MM');
const sideN = (tile: TileOf) => tile('SN') * tile('TN') * tile('MN');

const cores = kernel({
  file: 'matmul/7_tensor_cores.wgsl',
  tensors: ['a', 'b', 'out'],
  dims,
  grid: ({ M, N, batch }, tile): Grid => [ceilDiv(N, sideN(tile)), ceilDiv(M, sideM(tile)), batch],
  ...cost,
  needs: (tile) => {
    const [BM, BN, BK] = [sideM(tile), sideN(tile), tile('BK')];
    const subgroups = tile('SM') * tile('SN');
    // The padding of a tile is largest where its lines are shortest: along k, or across it for a transposed operand.
    const staged = (side: number) => 2 * (side * BK + 8 * Math.max(side, BK));
    return {
      features: matrixFeatures,
      invocations: subgroups * tile('LANES'),
      workgroupBytes: staged(BM) + staged(BN) + 4 * subgroups * tile('MM') * tile('MN'),
    };
  },
});

const shapes = {
  large: { SM: 2, SN: 4, TM: 4, TN: 2 },
  middle: { SM: 2, SN: 2, TM: 2, TN: 2 },
  small: { SM: 2, SN: 2, TM: 1, TN: 1 },
};

/** Every tile that divides among its threads and that the device has room for, in the order of `groupTiles`. */
function coreTiles(gpu: Gpu, sizes: MatmulDims): readonly Tile[] {
  const [matrix] = matrixTiles(gpu.adapter);
  if (matrix === undefined) return [];
  const { MM, MN, LANES } = matrix;
  return groupTiles(sizes, shapes)
    .map((shape) => ({ ...matrix, ...shape, BK: 32 }))
    .filter((tile) => {
      const share = (side: number) => (side * tile.BK) / 4 / (tile.SM * tile.SN * LANES);
      const [forA, forB] = [share(tile.SM * tile.TM * MM), share(tile.SN * tile.TN * MN)];
      return Number.isInteger(forA) && Number.isInteger(forB) && canRun(gpu, cores, tile);
    });
}

/** The contiguous axis of each operand is whole vec4s. */
function coreFlags(args: MatmulDims): Tile {
  const vec = vectors(args);
  const [VEC_A, VEC_B] = [args.transA ? vec.M : vec.K, args.transB ? vec.K : vec.N];
  return { ...transposes(args), VEC_A: flag(VEC_A), VEC_B: flag(VEC_B) };
}

export const matrixRung: MatmulRung = {
  name: cores.name,
  kernels: [cores],
  fits: (gpu, sizes) => mayRound(sizes) && coreTiles(gpu, sizes).length > 0,
  tiles: coreTiles,
  run: (gpu, args, tile = coreTiles(gpu, args)[0]) => {
    const { a, b, out } = args;
    cores.run(gpu, {
      tensors: { a, b, out },
      dims: paramsOf(args),
      tile: { ...coreFlags(args), ...tile },
      stored: storedOf(args),
    });
  },
};
