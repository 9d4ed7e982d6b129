/** The convolutions on subgroup matrices (tensor cores): implicit GEMMs with factors of f16 and sums of f32. */
import { matrixFeatures, matrixTiles } from '../gpu/adapter.ts';
import type { Gpu } from '../gpu/device.ts';
import { ceilDiv } from '../util/shape.ts';
import {
  convCost,
  convDims,
  dataGradCost,
  forwardDims,
  sumParts,
  weightGradCost,
} from './conv-kernels.ts';
import type { ConvDims } from './conv-kernels.ts';
import { splitPositions, sumInParts } from './conv-launch.ts';
import { biased, forwardLaunchOf, launchOf, withPhases } from './conv-rung.ts';
import type {
  ConvDataGradArgs,
  ConvForwardArgs,
  ConvRung,
  ConvSizes,
  ConvWeightGradArgs,
} from './conv-rung.ts';
import { canRun, kernel } from './kernel.ts';
import type { Grid, Kernel, Tile, TileOf } from './kernel.ts';
import { mayRound } from './precision.ts';

/** Rows and columns of a workgroup's tile. */
const sideM = (tile: TileOf) => tile('SM') * tile('TM') * tile('MM');
const sideN = (tile: TileOf) => tile('SN') * tile('TN') * tile('MN');

const shared = {
  needs: (tile: TileOf) => {
    const [BM, BN, BK] = [sideM(tile), sideN(tile), tile('BK')];
    const subgroups = tile('SM') * tile('SN');
    const staged = BM * (BK + 8) + Math.max(BN * (BK + 8), BK * (BN + 8));
    return {
      features: matrixFeatures,
      invocations: subgroups * tile('LANES'),
      workgroupBytes: 2 * staged + 4 * subgroups * tile('MM') * tile('MN'),
    };
  },
};

const grid = (tile: TileOf, { M, P, depth }: { M: number; P: number; depth: number }): Grid => [
  ceilDiv(P, sideN(tile)),
  ceilDiv(M, sideM(tile)),
  depth,
];

const forward = kernel({
  file: 'conv/forward_4_tensor_cores.wgsl',
  tensors: ['x', 'w', 'bias', 'y'],
  dims: forwardDims,
  grid: ({ N, K, OH, OW }, tile) => grid(tile, { M: K, P: N * OH * OW, depth: 1 }),
  ...convCost,
  ...shared,
});

const dataGrad = kernel({
  file: 'conv/data_grad_4_tensor_cores.wgsl',
  tensors: ['dy', 'w', 'bias', 'dx'],
  dims: convDims,
  grid: ({ N, C, H, W, strideH, strideW }, tile) =>
    grid(tile, {
      M: C,
      P: N * ceilDiv(H, strideH) * ceilDiv(W, strideW),
      depth: strideH * strideW,
    }),
  ...dataGradCost,
  ...shared,
});

const weightGrad = kernel({
  file: 'conv/weight_grad_4_tensor_cores.wgsl',
  tensors: ['x', 'dy', 'parts'],
  dims: [...convDims, 'chunk', 'stride'],
  grid: ({ N, K, C, R, S, OH, OW, chunk }, tile) =>
    grid(tile, { M: K, P: C * R * S, depth: Math.max(1, ceilDiv(N * OH * OW, chunk)) }),
  ...weightGradCost,
  ...shared,
});

const shapes = {
  large: { SM: 2, SN: 4, TM: 4, TN: 2 },
  middle: { SM: 2, SN: 2, TM: 2, TN: 2 },
  small: { SM: 2, SN: 2, TM: 1, TN: 1 },
};

/**
 * The tiles that divide among their threads and that the device has room for; the largest first that a product of M rows
 * and P columns, `depth` times over, cuts into enough workgroups for a GPU.
 */
function tilesOf(
  gpu: Gpu,
  made: Kernel,
  { M, P, depth }: { M: number; P: number; depth: number },
): readonly Tile[] {
  const [matrix] = matrixTiles(gpu.adapter);
  if (matrix === undefined) return [];
  const { MM, MN, LANES } = matrix;
  const groups = (side: number) => ceilDiv(M, side) * ceilDiv(P, side) * depth;
  const { large, middle, small } = shapes;
  const ordered =
    M > 64 && groups(128) >= 256
      ? [large, middle, small]
      : M > 32 && groups(64) >= 128
        ? [middle, large, small]
        : [small, middle, large];
  return ordered
    .map((shape) => ({ ...matrix, ...shape, BK: 32 }))
    .filter((tile) => {
      const threads = tile.SM * tile.SN * LANES;
      const [BM, BN] = [tile.SM * tile.TM * MM, tile.SN * tile.TN * MN];
      const whole = [BM * tile.BK, BN * tile.BK].every((elements) => elements % threads === 0);
      const lines = threads % BN === 0 && threads % tile.BK === 0;
      return whole && lines && canRun(gpu, made, tile);
    });
}

/** A rung out of its kernel, the product that it makes of given sizes, and its launch. */
function matrixRung<Args extends { readonly dims: ConvSizes }>(o: {
  made: Kernel;
  helpers?: readonly Kernel[];
  product: (dims: ConvDims) => { M: number; P: number; depth: number };
  launch: (gpu: Gpu, args: Args, tile: Tile | undefined) => void;
}): ConvRung<Args> {
  const tiles = (gpu: Gpu, dims: ConvDims) => tilesOf(gpu, o.made, o.product(dims));
  return {
    name: o.made.name,
    kernels: [o.made, ...(o.helpers ?? [])],
    fits: (gpu, dims) => mayRound(dims) && tiles(gpu, dims).length > 0,
    tiles,
    run: (gpu, args, tile = tiles(gpu, args.dims)[0]) => {
      o.launch(gpu, args, tile);
    },
  };
}

/** y = x * w (+ bias, activation). */
export const convForwardMatrix = matrixRung<ConvForwardArgs>({
  made: forward,
  product: ({ N, K, OH, OW }) => ({ M: K, P: N * OH * OW, depth: 1 }),
  launch: (gpu, args, tile) => {
    const launch = forwardLaunchOf(args);
    forward.run(gpu, { ...launch, tile: { ...launch.tile, ...tile } });
  },
});

/** dx of dy, or the transposed convolution. */
export const convDataGradMatrix = matrixRung<ConvDataGradArgs>({
  made: dataGrad,
  product: ({ N, C, H, W }) => ({ M: C, P: N * H * W, depth: 1 }),
  launch: (gpu, { dy, w, out, bias, dims }, tile) => {
    const tensors = { dy, w, bias: bias ?? w, dx: out };
    const phases = launchOf(withPhases(dims));
    dataGrad.run(gpu, { tensors, ...phases, tile: { ...biased(bias), ...tile } });
  },
});

const positions = ({ N, OH, OW }: ConvDims) => N * OH * OW;

/** dw of x and dy: partial sums over parts of the positions, added up in fixed order. */
export const convWeightGradMatrix = matrixRung<ConvWeightGradArgs>({
  made: weightGrad,
  helpers: [sumParts],
  product: (dims) => {
    const { parts } = splitPositions(dims, positions(dims));
    return { M: dims.K, P: dims.C * dims.R * dims.S, depth: parts };
  },
  launch: (gpu, { x, dy, out, dims: sizes }, tile = {}) => {
    const { dims, stored } = launchOf(sizes);
    const { parts, chunk, outputs } = splitPositions(dims, positions(dims));
    sumInParts(gpu, { parts, outputs, out }, (target, stride) => {
      const tensors = { x, dy, parts: target };
      weightGrad.run(gpu, { tensors, dims: { ...dims, chunk, stride }, tile, stored });
    });
  },
});
