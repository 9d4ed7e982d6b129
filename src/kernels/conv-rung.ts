/** What the rungs of the three convolutions share: sizes with a precision, arguments, and how a launch is described. */
import type { Storage } from '../gpu/storage.ts';
import { activationOf } from './activation.ts';
import type { FusedActivation } from './activation.ts';
import type { ConvDims } from './conv-kernels.ts';
import { phaseStrides } from './conv-plan.ts';
import { storedOf } from './precision.ts';
import type { Precision } from './precision.ts';
import type { Rung } from './rung.ts';

/**
 * `stored: f16` is x, w, dy, y and dx in f16. Bias and the weight gradient are f32 always, as the master weights are that
 * they belong to.
 */
export type ConvSizes = ConvDims & Precision;

export interface ConvForwardArgs {
  /** [N, C, H, W] */
  readonly x: Storage;
  /** [K, C, R, S] */
  readonly w: Storage;
  /** [N, K, OH, OW] */
  readonly out: Storage;
  /** [K] */
  readonly bias?: Storage | undefined;
  /** Applied to the result before it is stored. Default: none. */
  readonly activation?: FusedActivation | undefined;
  readonly dims: ConvSizes;
}

export interface ConvDataGradArgs {
  /** [N, K, OH, OW] */
  readonly dy: Storage;
  /** [K, C, R, S] */
  readonly w: Storage;
  /** [N, C, H, W] */
  readonly out: Storage;
  /** [C] */
  readonly bias?: Storage | undefined;
  readonly dims: ConvSizes;
}

export interface ConvWeightGradArgs {
  /** [N, C, H, W] */
  readonly x: Storage;
  /** [N, K, OH, OW] */
  readonly dy: Storage;
  /** [K, C, R, S] */
  readonly out: Storage;
  readonly dims: ConvSizes;
}

export type ConvRung<Args> = Rung<ConvSizes, Args>;

/** Sizes without the words of a `Precision`: what a launch is described by. */
export function geometryOf(sizes: ConvSizes): ConvDims {
  const { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW } = sizes;
  return { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW };
}

/** What a kernel of `Stored` tensors is launched with. */
export const launchOf = (sizes: ConvSizes) => ({
  dims: geometryOf(sizes),
  stored: storedOf(sizes),
});

/** What a kernel of a forward convolution is launched with. */
export function forwardLaunchOf({ x, w, out, bias, activation, dims }: ConvForwardArgs) {
  const { ACT, slope } = activationOf(activation);
  return {
    tensors: { x, w, bias: bias ?? w, y: out },
    dims: { ...geometryOf(dims), slope },
    tile: { ...biased(bias), ACT },
    stored: storedOf(dims),
  };
}

/** The strides by which a data gradient takes its phases. */
export function withPhases(sizes: ConvSizes): ConvSizes {
  const [strideH, strideW] = phaseStrides(sizes);
  return { ...sizes, strideH, strideW };
}

export const biased = (bias: Storage | undefined) => ({ BIAS: String(bias !== undefined) });
