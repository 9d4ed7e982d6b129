/**
 * Convolutions that are matrix products as their operands lie, so that kernels/matmul/5_lanes.wgsl runs them: a 1×1 window
 * (one product an image) and a window as large as the image (an image is a row of C·R·S numbers).
 */
import type { Gpu } from '../gpu/device.ts';
import type { ConvDims } from './conv-kernels.ts';
import { sumInParts } from './conv-launch.ts';
import { mostPartialBytes } from './conv-plan.ts';
import type { Tile } from './kernel.ts';
import { lanesRung } from './matmul.ts';
import type { MatmulDims, ProductArgs, ProductEnd } from './matmul.ts';

export interface Product extends Pick<ProductEnd, 'along' | 'span'> {
  readonly sizes: MatmulDims;
  /** The results of the batches are added up, in their order. */
  readonly summed: boolean;
}

/** A 1×1 window with stride 1 and no padding. */
export function isPointwise({ R, S, strideH, strideW, padH, padW }: ConvDims): boolean {
  return R === 1 && S === 1 && strideH === 1 && strideW === 1 && padH === 0 && padW === 0;
}

/** A window as large as the image: one output, or, the other way, an image made of one pixel. */
export function isFlat({ H, W, R, S, OH, OW, padH, padW }: ConvDims): boolean {
  return H === R && W === S && OH === 1 && OW === 1 && padH === 0 && padW === 0;
}

const plain = { batch: 1, strideA: 0, strideB: 0, transA: false, transB: false };

/** 1×1: y[n] [K, HW] = w [K, C] · x[n] [C, HW].   Whole image: y [N, K] = x [N, C·R·S] · w [K, C·R·S]ᵀ. */
export function forwardProduct(d: ConvDims): Product | undefined {
  const { N, C, H, W, K } = d;
  const HW = H * W;
  if (isFlat(d)) {
    const sizes = { ...plain, M: N, N: K, K: C * HW, transB: true };
    return { sizes, along: 'columns', span: 1, summed: false };
  }
  if (!isPointwise(d)) return undefined;
  const sizes = { ...plain, M: K, N: HW, K: C, batch: N, strideB: C * HW };
  return { sizes, along: 'rows', summed: false };
}

/** 1×1: dx[n] [C, HW] = w [K, C]ᵀ · dy[n] [K, HW].   Whole image: dx [N, C·R·S] = dy [N, K] · w [K, C·R·S]. */
export function dataGradProduct(d: ConvDims): Product | undefined {
  const { N, C, H, W, K } = d;
  const HW = H * W;
  if (isFlat(d)) {
    const sizes = { ...plain, M: N, N: C * HW, K };
    return { sizes, along: 'columns', span: HW, summed: false };
  }
  if (!isPointwise(d)) return undefined;
  const sizes = { ...plain, M: C, N: HW, K, batch: N, strideB: K * HW, transA: true };
  return { sizes, along: 'rows', summed: false };
}

/** 1×1: dw [K, C] = Σ_n dy[n] [K, HW] · x[n] [C, HW]ᵀ.   Whole image: dw [K, C·R·S] = dy [N, K]ᵀ · x [N, C·R·S]. */
export function weightGradProduct(d: ConvDims): Product | undefined {
  const { N, C, H, W, K } = d;
  const HW = H * W;
  if (isFlat(d)) {
    const sizes = { ...plain, M: K, N: C * HW, K: N, transA: true };
    return { sizes, summed: false };
  }
  // The sum adds vec4s, and an empty one has no product to write its zeros.
  const adds = N > 0 && (K * C) % 4 === 0 && 4 * N * K * C <= mostPartialBytes;
  if (!isPointwise(d) || !adds) return undefined;
  const strides = { strideA: K * HW, strideB: C * HW };
  const sizes = { ...plain, ...strides, M: K, N: C, K: HW, batch: N, transB: true };
  return { sizes, summed: true };
}

/** Launches it, in the default tile if none is given. */
export function runProduct(
  gpu: Gpu,
  args: Product & Pick<ProductArgs, 'a' | 'b' | 'out' | 'bias' | 'activation'>,
  tile?: Tile,
): void {
  const { sizes, along, span, summed, a, b, out, bias, activation } = args;
  const parts = summed ? sizes.batch : 1;
  sumInParts(gpu, { parts, outputs: sizes.M * sizes.N, out }, (target) => {
    const product = { ...sizes, a, b, out: target, bias, along, span, activation };
    lanesRung.run(gpu, product, tile);
  });
}
