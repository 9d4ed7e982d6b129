import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { softmax as softmaxKernel, softmaxBackward as backwardKernel } from '../kernels/softmax.ts';
import { dim, showShape } from '../util/shape.ts';
import { div, exp, sub } from './pointwise.ts';
import { amax, sum } from './reduce.ts';

function rowsOf({ shape, size, stored }: Tensor) {
  const cols = dim(shape, -1);
  return { rows: size / cols, cols, stored };
}

/** y = e^(x−max) / Σ e^(x−max) over the last axis;  dx = y ∘ (dy − Σ dy∘y). */
const softmaxOp = defineOp({
  name: 'softmax',
  dtypes: 'float',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs }) => {
    const x = at(inputs, 0);
    softmaxKernel(gpu, { x: x.storage, out: only(outputs).storage, ...rowsOf(x) });
  },
  saves: (_inputs, outputs) => outputs,
  backward: ({ grads, saved }) => [
    () => only(softmaxBackwardOp([at(saved, 0), at(grads, 0) as Tensor], undefined)),
  ],
  composition: (inputs) => {
    const x = to(at(inputs, 0), 'f32');
    // The maximum only shifts the exponent: it has no gradient of its own.
    const e = exp(sub(x, amax(x, [-1], { keepdim: true }).detach()));
    return [typeAs(div(e, sum(e, [-1], { keepdim: true })), at(inputs, 0))];
  },
});

const softmaxBackwardOp = defineOp({
  name: 'softmaxBackward',
  dtypes: 'float',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs }) => {
    const [y, dy] = [at(inputs, 0), at(inputs, 1)];
    backwardKernel(gpu, { y: y.storage, dy: dy.storage, dx: only(outputs).storage, ...rowsOf(y) });
  },
});

/**
 * Softmax over the last axis: x […, cols] → […, cols]. −∞ gets no weight; a row with NaN or without a finite logit is
 * NaN. Throws a RangeError where the last axis is missing or empty.
 */
export function softmax(x: Tensor): Tensor {
  if (x.shape.length === 0 || x.size === 0) {
    throw new RangeError(
      `softmax: input is ${showShape(x.shape)}; it needs a last axis and at least one element`,
    );
  }
  return only(softmaxOp([x], undefined));
}
