import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { powerIteration, spectralBackward, spectralScale } from '../kernels/spectral.ts';
import { dim, sizeOf } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import { reshape } from './layout.ts';
import { div, mul } from './pointwise.ts';
import { sum } from './reduce.ts';

/** A weight as the matrix [rows, outer·inner] whose largest singular value is normalised away. */
export interface SpectralSizes {
  readonly outer: number;
  readonly rows: number;
  readonly inner: number;
}

/** Rows are the axis `axis` of the weight: 0, and 1 for a transposed convolution (the output channels). */
export function spectralSizes(shape: Shape, axis: number): SpectralSizes {
  return {
    outer: sizeOf(shape.slice(0, axis)),
    rows: dim(shape, axis),
    inner: sizeOf(shape.slice(axis + 1)),
  };
}

interface IterationAttrs extends SpectralSizes {
  readonly eps: number;
  readonly update: boolean;
}

/** v ← Wᵀu/‖Wᵀu‖, u ← Wv/‖Wv‖ in place if `update`; σ = uᵀWv. The outputs σ, u, v are this call's own copies. */
const iterationOp = defineOp<IterationAttrs>({
  name: 'powerIteration',
  infer: (_inputs, { outer, rows, inner }) => [
    { shape: [1] },
    { shape: [rows] },
    { shape: [outer * inner] },
  ],
  forward: (gpu, { inputs, outputs, attrs }) => {
    powerIteration(gpu, {
      w: at(inputs, 0).storage,
      u: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      sigma: at(outputs, 0).storage,
      uOut: at(outputs, 1).storage,
      vOut: at(outputs, 2).storage,
      ...attrs,
    });
  },
});

/** Ŵ = W/σ with σ = uᵀWv and u, v held still:  dW = (dŴ − Σ(dŴ∘W)/σ · uvᵀ)/σ. */
const normalizeOp = defineOp<SpectralSizes>({
  name: 'spectralNorm',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs }) => {
    const w = at(inputs, 0);
    spectralScale(gpu, {
      w: w.storage,
      sigma: at(inputs, 1).storage,
      out: only(outputs).storage,
      n: w.size,
    });
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved, attrs }) => [
    () => only(spectralBackwardOp([...saved, at(grads, 0) as Tensor], attrs)),
  ],
  composition: (inputs, { outer, rows, inner }) => {
    const w = at(inputs, 0);
    const u = reshape(at(inputs, 2), [1, rows, 1]);
    const v = reshape(at(inputs, 3), [outer, 1, inner]);
    const matrix = reshape(w, [outer, rows, inner]);
    return [reshape(div(matrix, sum(mul(matrix, mul(u, v)))), w.shape)];
  },
});

const spectralBackwardOp = defineOp<SpectralSizes>({
  name: 'spectralBackward',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    spectralBackward(gpu, {
      w: at(inputs, 0).storage,
      sigma: at(inputs, 1).storage,
      u: at(inputs, 2).storage,
      v: at(inputs, 3).storage,
      dwn: at(inputs, 4).storage,
      dw: only(outputs).storage,
      ...attrs,
    });
  },
});

export interface SpectralOptions {
  /** Persistent [rows] and [cols] vectors, moved in place while training. */
  readonly u: Tensor;
  readonly v: Tensor;
  /** Axis of the rows. */
  readonly axis: number;
  readonly update: boolean;
  readonly eps?: number;
}

/**
 * W/σ(W) with σ estimated by one power iteration, as torch.nn.utils.spectral_norm: gradients flow through σ and W,
 * not through u and v.
 */
export function spectralNormalize(weight: Tensor, options: SpectralOptions): Tensor {
  const { u, v, axis, update, eps = 1e-12 } = options;
  const sizes = spectralSizes(weight.shape, axis);
  const estimate = iterationOp([weight.detach(), u, v], { ...sizes, eps, update });
  return only(normalizeOp([weight, ...estimate], sizes));
}
