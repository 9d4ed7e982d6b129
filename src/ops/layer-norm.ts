import { at, defineOp, once, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import * as kernels from '../kernels/layer-norm.ts';
import { dim, sameShape, showShape } from '../util/shape.ts';
import { add, affine, mul, rsqrt, square, sub } from './pointwise.ts';
import { mean } from './reduce.ts';

interface Attrs {
  readonly eps: number;
}

function sizesOf({ shape, size }: Tensor) {
  const cols = dim(shape, -1);
  return { rows: size / cols, cols };
}

/**
 * y = x̂·gamma + beta,  x̂ = (x − mean)/√(var + eps) of each row, with the biased variance. The other outputs are mean and
 * 1/√(var + eps), for the backward pass.
 *   g = gamma·dy,   dx = invStd·(g − mean(g) − x̂·mean(g·x̂)),   dgamma = Σ dy·x̂,   dbeta = Σ dy
 */
const layerNormOp = defineOp<Attrs>({
  name: 'layerNorm',
  infer: (inputs) => {
    const x = at(inputs, 0);
    const { rows } = sizesOf(x);
    return [{ shape: x.shape }, { shape: [rows] }, { shape: [rows] }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const x = at(inputs, 0);
    kernels.layerNorm(gpu, {
      x: x.storage,
      gamma: at(inputs, 1).storage,
      beta: at(inputs, 2).storage,
      out: at(outputs, 0).storage,
      mean: at(outputs, 1).storage,
      invStd: at(outputs, 2).storage,
      ...sizesOf(x),
      ...attrs,
    });
  },
  saves: (inputs, outputs) => [
    at(inputs, 0),
    at(outputs, 1),
    at(outputs, 2),
    at(inputs, 1),
    at(inputs, 2),
  ],
  backward: ({ grads, saved }) => {
    const dy = at(grads, 0) as Tensor;
    const [x, average, invStd, gamma] = saved;
    const both = once(() => scaleGradsOp([x, dy, average, invStd] as Tensor[], undefined));
    return [
      () => only(inputGradOp([x, dy, average, invStd, gamma] as Tensor[], undefined)),
      () => at(both(), 0),
      () => at(both(), 1),
    ];
  },
  composition: (inputs, { eps }) => {
    const [x, gamma, beta] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)];
    const centred = sub(x, mean(x, [-1], { keepdim: true }));
    const variance = mean(square(centred), [-1], { keepdim: true });
    return [add(mul(mul(centred, rsqrt(affine(variance, 1, eps))), gamma), beta)];
  },
});

/** x, dy, mean, invStd, gamma → dx. */
const inputGradOp = defineOp({
  name: 'layerNormInputGrad',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs }) => {
    const x = at(inputs, 0);
    kernels.layerNormBackward(gpu, {
      x: x.storage,
      dy: at(inputs, 1).storage,
      mean: at(inputs, 2).storage,
      invStd: at(inputs, 3).storage,
      gamma: at(inputs, 4).storage,
      dx: only(outputs).storage,
      ...sizesOf(x),
    });
  },
});

/** x, dy, mean, invStd → dgamma, dbeta. */
const scaleGradsOp = defineOp({
  name: 'layerNormScaleGrads',
  infer: (inputs) => {
    const { cols } = sizesOf(at(inputs, 0));
    return [{ shape: [cols] }, { shape: [cols] }];
  },
  forward: (gpu, { inputs, outputs }) => {
    const x = at(inputs, 0);
    kernels.layerNormScaleGrads(gpu, {
      x: x.storage,
      dy: at(inputs, 1).storage,
      mean: at(inputs, 2).storage,
      invStd: at(inputs, 3).storage,
      dgamma: at(outputs, 0).storage,
      dbeta: at(outputs, 1).storage,
      ...sizesOf(x),
    });
  },
});

export interface LayerNormOptions {
  /** Scale, [cols]. */
  readonly weight: Tensor;
  /** Shift, [cols]. */
  readonly bias: Tensor;
  /** Default 1e-5, as PyTorch. */
  readonly eps?: number;
}

/**
 * torch.nn.functional.layer_norm over the last axis: x […, cols] → […, cols], f32. Throws a RangeError where scale or shift
 * is not one number a column.
 */
export function layerNorm(x: Tensor, { weight, bias, eps = 1e-5 }: LayerNormOptions): Tensor {
  if (x.shape.length === 0 || x.size === 0) {
    throw new RangeError(
      `layerNorm: input is ${showShape(x.shape)}; it needs a last axis and at least one element`,
    );
  }
  const { cols } = sizesOf(x);
  for (const [role, t] of Object.entries({ weight, bias })) {
    if (!sameShape(t.shape, [cols])) {
      throw new RangeError(
        `layerNorm: ${role} is ${showShape(t.shape)}; it must be [${cols}], one number a column of ${showShape(x.shape)}`,
      );
    }
  }
  return at(layerNormOp([x, weight, bias], { eps }), 0);
}
