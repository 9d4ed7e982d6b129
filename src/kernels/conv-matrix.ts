/** The convolutions on subgroup matrices (tensor cores): implicit GEMMs with factors of f16 and sums of f32. */
import { matrixFeatures, matrixTiles } from '../gpu/adapter.ts';
import type { Gpu } from '../gpu/device.ts';
import { ceilDiv } from '../util/shape.ts';
import type { ConvDataGradArgs, ConvForwardArgs, ConvWeightGradArgs } from './conv.ts';
import { sumParts } from './conv-kernels.ts';
import type { ConvDims } from './conv-kernels.ts';
import { partsOf, partStride, phaseStrides, tapsByPhase } from './conv-plan.ts';
import { canRun, kernel } from './kernel.ts';
import type { Dims, Grid, Kernel, Tile, TileOf } from './kernel.ts';
import { mayRound, storedOf } from './precision.ts';
import type { Precision } from './precision.ts';
import type { Rung } from './rung.ts';

/**
 * `stored: f16` is x, w, dy, y and dx in f16. Bias and the weight gradient are f32 always, as the master weights are that
 * they belong to.
 */
export type MatrixConvDims = ConvDims & Precision;
type With<Args> = Omit<Args, 'dims'> & { readonly dims: MatrixConvDims };
type MatrixRung<Args> = Rung<MatrixConvDims, With<Args>>;
type Sizes = Dims<keyof ConvDims>;

const imageDims = ['N', 'C', 'H', 'W', 'K', 'R', 'S', 'OH', 'OW'] as const;
const convDims = [...imageDims, 'strideH', 'strideW', 'padH', 'padW'] as const;

const images = ({ N, C, H, W }: Sizes) => N * C * H * W;
const weights = ({ K, C, R, S }: Sizes) => K * C * R * S;
const outputs = ({ N, K, OH, OW }: Sizes) => N * K * OH * OW;
const flops = (d: Sizes) => 2 * d.N * d.OH * d.OW * weights(d);
const bytes = (d: Sizes, each = 4) => each * (images(d) + weights(d) + outputs(d));

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
  dims: convDims,
  grid: ({ N, K, OH, OW }, tile) => grid(tile, { M: K, P: N * OH * OW, depth: 1 }),
  flops,
  bytes,
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
  flops: ({ N, C, H, W, K, R, S, strideH, strideW, padH, padW }) =>
    2 *
    (N * C * K) *
    tapsByPhase({ size: H, window: R, stride: strideH, pad: padH }) *
    tapsByPhase({ size: W, window: S, stride: strideW, pad: padW }),
  bytes,
  ...shared,
});

const weightGrad = kernel({
  file: 'conv/weight_grad_4_tensor_cores.wgsl',
  tensors: ['x', 'dy', 'parts'],
  dims: [...convDims, 'chunk', 'stride'],
  grid: ({ N, K, C, R, S, OH, OW, chunk }, tile) =>
    grid(tile, { M: K, P: C * R * S, depth: Math.max(1, ceilDiv(N * OH * OW, chunk)) }),
  flops,
  bytes: (d, each = 4) => each * (images(d) + outputs(d)) + 4 * weights(d),
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
function matrixRung<Args extends { readonly dims: ConvDims }>(o: {
  made: Kernel;
  helpers?: readonly Kernel[];
  product: (dims: ConvDims) => { M: number; P: number; depth: number };
  launch: (gpu: Gpu, args: With<Args>, tile: Tile | undefined) => void;
}): MatrixRung<Args> {
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

/** Sizes without the words of a `Precision`: what a launch is described by. */
function sizesOf(dims: MatrixConvDims): ConvDims {
  const { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW } = dims;
  return { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW };
}

/** y = x * w (+ bias). */
export const convForwardMatrix: MatrixRung<ConvForwardArgs> = matrixRung<ConvForwardArgs>({
  made: forward,
  product: ({ N, K, OH, OW }) => ({ M: K, P: N * OH * OW, depth: 1 }),
  launch: (gpu, { x, w, out, bias, dims }, tile) => {
    forward.run(gpu, {
      tensors: { x, w, bias: bias ?? w, y: out },
      dims: sizesOf(dims),
      tile: { BIAS: String(bias !== undefined), ...tile },
      stored: storedOf(dims),
    });
  },
});

/** dx of dy, or the transposed convolution. */
export const convDataGradMatrix: MatrixRung<ConvDataGradArgs> = matrixRung<ConvDataGradArgs>({
  made: dataGrad,
  product: ({ N, C, H, W }) => ({ M: C, P: N * H * W, depth: 1 }),
  launch: (gpu, { dy, w, out, bias, dims }, tile) => {
    const [strideH, strideW] = phaseStrides(dims);
    dataGrad.run(gpu, {
      tensors: { dy, w, bias: bias ?? w, dx: out },
      dims: { ...sizesOf(dims), strideH, strideW },
      tile: { BIAS: String(bias !== undefined), ...tile },
      stored: storedOf(dims),
    });
  },
});

/** How the positions of a weight gradient are shared out, for a GPU of a hundred cores or so. */
function partsFor(dims: ConvDims) {
  const { N, K, C, R, S, OH, OW } = dims;
  const terms = N * OH * OW;
  const units = ceilDiv(K, 64) * ceilDiv(C * R * S, 64);
  const most = partsOf({ units, terms, wanted: 512, fewest: 256, outputs: weights(dims) });
  const chunk = Math.max(1, ceilDiv(terms, most));
  return { chunk, parts: Math.max(1, ceilDiv(terms, chunk)), stride: partStride(weights(dims)) };
}

/** dw of x and dy: partial sums over parts of the positions, added up in fixed order. */
export const convWeightGradMatrix: MatrixRung<ConvWeightGradArgs> = matrixRung<ConvWeightGradArgs>({
  made: weightGrad,
  helpers: [sumParts],
  product: (dims) => ({ M: dims.K, P: dims.C * dims.R * dims.S, depth: partsFor(dims).parts }),
  launch: (gpu, { x, dy, out, dims }, tile = {}) => {
    const { chunk, parts, stride } = partsFor(dims);
    const target = parts === 1 ? out : gpu.alloc(4 * parts * stride, 'partial weight gradients');
    weightGrad.run(gpu, {
      tensors: { x, dy, parts: target },
      dims: { ...sizesOf(dims), chunk, stride },
      tile,
      stored: storedOf(dims),
    });
    if (parts === 1) return;
    const count = { n4: stride / 4, PARTS: parts };
    sumParts.run(gpu, { tensors: { parts: target, out }, dims: count });
    gpu.release(target);
  },
});
