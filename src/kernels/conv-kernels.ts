/** The records of kernels/conv: bindings, dims, grids and costs. `conv.ts` chooses among them and runs them. */
import { ceilDiv } from '../util/shape.ts';
import { tapsByPhase } from './conv-plan.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid, TileOf } from './kernel.ts';

/**
 * Sizes of a forward convolution x[N,C,H,W] * w[K,C,R,S] → y[N,K,OH,OW], zero padding, no dilation, no groups. Its data
 * gradient, its weight gradient and the transposed convolution are described by the same record.
 */
export interface ConvDims {
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
  readonly K: number;
  readonly R: number;
  readonly S: number;
  readonly OH: number;
  readonly OW: number;
  readonly strideH: number;
  readonly strideW: number;
  readonly padH: number;
  readonly padW: number;
}

const imageDims = ['N', 'C', 'H', 'W', 'K', 'R', 'S', 'OH', 'OW'] as const;
export const convDims = [...imageDims, 'strideH', 'strideW', 'padH', 'padW'] as const;
/** `slope` is the activation's. */
export const forwardDims = [...convDims, 'slope'] as const;

type Sizes = Dims<keyof ConvDims>;

const images = ({ N, C, H, W }: Sizes) => N * C * H * W;
const weights = ({ K, C, R, S }: Sizes) => K * C * R * S;
const results = ({ N, K, OH, OW }: Sizes) => N * K * OH * OW;
const flops = (d: Sizes) => 2 * d.N * d.OH * d.OW * weights(d);

/** Every operand once. */
export const convCost = {
  flops,
  bytes: (d: Sizes, each = 4) => each * (images(d) + weights(d) + results(d)),
};

/** The gradient of the weights is f32 whatever x and dy are. */
export const weightGradCost = {
  flops,
  bytes: (d: Sizes, each = 4) => each * (images(d) + results(d)) + 4 * weights(d),
};

/** Only the taps that meet a stride phase are multiplied in it. */
export const dataGradCost = {
  flops: ({ N, C, H, W, K, R, S, strideH, strideW, padH, padW }: Sizes) =>
    2 *
    (N * C * K) *
    tapsByPhase({ size: H, window: R, stride: strideH, pad: padH }) *
    tapsByPhase({ size: W, window: S, stride: strideW, pad: padW }),
  bytes: convCost.bytes,
};

/** 16×16 threads and the two tiles of BK × 64 floats (one with rows of 65). */
const tiledNeeds = { invocations: 256, workgroupBytes: 16 * (65 + 64) * 4 };

// ---- one thread an output -------------------------------------------------------------------------------------------

export const forwardDirect = kernel({
  file: 'conv/forward_1_direct.wgsl',
  tensors: ['x', 'w', 'bias', 'y'],
  dims: forwardDims,
  grid: ({ N, K, OH, OW }, tile) => linearGrid(N * K * OH * OW, tile('WG')),
  ...convCost,
});

export const dataGradDirect = kernel({
  file: 'conv/data_grad_1_direct.wgsl',
  tensors: ['dy', 'w', 'bias', 'dx'],
  dims: convDims,
  grid: ({ N, C, H, W }, tile) => linearGrid(N * C * H * W, tile('WG')),
  ...convCost,
});

export const weightGradDirect = kernel({
  file: 'conv/weight_grad_1_direct.wgsl',
  tensors: ['x', 'dy', 'dw'],
  dims: convDims,
  grid: ({ K, C, R, S }, tile) => linearGrid(K * C * R * S, tile('WG')),
  ...weightGradCost,
});

// ---- registers only, for software adapters --------------------------------------------------------------------------

export const gather = kernel({
  file: 'conv/2_gather.wgsl',
  tensors: ['u', 'x', 'taps', 'columns', 'spans', 'bias', 'out'],
  dims: ['M', 'uStride', 'outStride', 'blocks', 'P', 'T', 'reads', 'slope'],
  grid: ({ M, blocks }, tile): Grid => {
    const [x, y] = linearGrid(blocks, 1);
    return [ceilDiv(M, tile('TM')), x, y];
  },
  flops: ({ M, P, T }) => 2 * M * P * T,
  bytes: ({ M, P, reads }) => 4 * (reads + M * P),
});

export const window = kernel({
  file: 'conv/4_window.wgsl',
  tensors: ['u', 'x', 'phase', 'bias', 'out'],
  dims: ['M', 'blocks', 'phases', 'parts', 'chunk', 'stride', 'work', 'reads', 'slope'],
  grid: ({ M, blocks, phases, parts }, tile): Grid => [
    ceilDiv(M, tile('TM')),
    blocks,
    phases * parts,
  ],
  flops: ({ work }) => 2 * work,
  bytes: ({ reads }) => 4 * reads,
  needs: { features: ['subgroups'] },
});

export const pack = kernel({
  file: 'conv/pack.wgsl',
  tensors: ['w', 'source', 'out'],
  dims: ['M', 'T', 'rowStride'],
  grid: ({ M, T }, tile) => linearGrid(ceilDiv(M, tile('ROWS')) * T, tile('WG')),
  flops: () => 0,
  bytes: ({ M, T }) => 48 * M * T,
});

const frameCost = {
  dims: ['planes', 'H', 'W', 'FH', 'FW', 'top', 'left'],
  flops: () => 0,
  bytes: ({ planes, H, W, FH, FW }: Dims<'planes' | 'H' | 'W' | 'FH' | 'FW'>) =>
    4 * planes * (H * W + FH * FW),
} as const;

export const frame = kernel({
  file: 'conv/frame.wgsl',
  tensors: ['x', 'out'],
  grid: ({ planes, FH, FW }, tile) => linearGrid(ceilDiv(planes * FH * FW, 4), tile('WG')),
  ...frameCost,
});

export const frameRows = kernel({
  file: 'conv/frame.wgsl',
  entry: 'rows',
  tensors: ['x4', 'out'],
  grid: ({ planes, FH }, tile) => linearGrid(planes * FH, tile('WG')),
  ...frameCost,
});

export const sumParts = kernel({
  file: 'conv/sum_parts.wgsl',
  tensors: ['parts', 'out'],
  dims: ['n4', 'PARTS'],
  grid: ({ n4 }, tile) => linearGrid(n4, tile('WG')),
  flops: ({ n4, PARTS }) => 4 * n4 * (PARTS - 1),
  bytes: ({ n4, PARTS }) => 16 * n4 * (PARTS + 1),
});

// ---- workgroup tiles, for GPUs --------------------------------------------------------------------------------------

export const forwardTiled = kernel({
  file: 'conv/forward_3_tiled.wgsl',
  tensors: ['x', 'w', 'bias', 'y'],
  dims: forwardDims,
  grid: ({ N, K, OH, OW }, tile) => tiles(tile, { M: K, P: N * OH * OW, depth: 1 }),
  ...convCost,
  needs: tiledNeeds,
});

export const dataGradTiled = kernel({
  file: 'conv/data_grad_3_tiled.wgsl',
  tensors: ['dy', 'w', 'bias', 'dx'],
  dims: convDims,
  grid: ({ N, C, H, W, strideH, strideW }, tile) =>
    tiles(tile, {
      M: C,
      P: N * ceilDiv(H, strideH) * ceilDiv(W, strideW),
      depth: strideH * strideW,
    }),
  ...dataGradCost,
  needs: tiledNeeds,
});

export const weightGradTiled = kernel({
  file: 'conv/weight_grad_3_tiled.wgsl',
  tensors: ['x', 'dy', 'parts'],
  dims: [...convDims, 'chunk', 'stride'],
  grid: ({ N, K, C, R, S, OH, OW, chunk }, tile) =>
    tiles(tile, { M: K, P: C * R * S, depth: partsIn(N * OH * OW, chunk) }),
  ...weightGradCost,
  needs: tiledNeeds,
});

export const pointwiseTiled = kernel({
  file: 'conv/1x1_tiled.wgsl',
  tensors: ['x', 'w', 'bias', 'y'],
  dims: ['N', 'M', 'T', 'HW', 'slope'],
  grid: ({ N, M, HW }, tile) => tiles(tile, { M, P: HW, depth: N }),
  flops: ({ N, M, T, HW }) => 2 * N * M * T * HW,
  bytes: ({ N, M, T, HW }, each = 4) => each * (N * HW * (M + T) + M * T),
  needs: tiledNeeds,
});

export const pointwiseWeightGradTiled = kernel({
  file: 'conv/1x1_weight_grad_tiled.wgsl',
  tensors: ['x', 'dy', 'parts'],
  dims: ['N', 'C', 'K', 'HW', 'chunk', 'stride'],
  grid: ({ N, C, K, HW, chunk }, tile) =>
    tiles(tile, { M: K, P: C, depth: partsIn(N * HW, chunk) }),
  flops: ({ N, C, K, HW }) => 2 * N * C * K * HW,
  bytes: ({ N, C, K, HW }, each = 4) => each * (N * HW * (C + K)) + 4 * C * K,
  needs: tiledNeeds,
});

/** Parts of `chunk` terms; one, of zeros, where there is nothing to add up. */
function partsIn(terms: number, chunk: number): number {
  return Math.max(1, ceilDiv(terms, chunk));
}

function tiles(tile: TileOf, { M, P, depth }: { M: number; P: number; depth: number }): Grid {
  return [ceilDiv(P, tile('BN')), ceilDiv(M, tile('BM')), depth];
}
