import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once, only } from '../autograd/op.ts';
import type { GradThunk } from '../autograd/op.ts';
import { requireSameShape } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { residual as residualKernel, residualBackward } from '../kernels/residual.ts';
import { showShape } from '../util/shape.ts';
import { add, mul } from './pointwise.ts';

/** y = gamma·o + x:  do = gamma·dy,  dgamma = Σ dy·o,  dx = dy. */
const residualOp = defineOp({
  name: 'residual',
  dtypes: ['float', 'f32', 'float'],
  infer: (inputs) => [{ shape: at(inputs, 2).shape }],
  forward: (gpu, { inputs, outputs }) => {
    const [o, gamma, x, out] = [at(inputs, 0), at(inputs, 1), at(inputs, 2), only(outputs)];
    residualKernel(gpu, {
      ...{ o: o.storage, gamma: gamma.storage, x: x.storage, out: out.storage },
      ...{ n: out.size, stored: out.stored },
    });
  },
  saves: (inputs) => [at(inputs, 0), at(inputs, 1)],
  backward: ({ grads, saved, needs }) => {
    const [dy, o, gamma] = [at(grads, 0) as Tensor, at(saved, 0), at(saved, 1)];
    const branch = residualGradients({ o, gamma, dy, learnt: at(needs, 1) });
    return [branch.o, branch.gamma, () => dy];
  },
  composition: (inputs) => [residualPlainly(at(inputs, 0), at(inputs, 1), at(inputs, 2))],
});

/** In f32 whatever the branch and the shortcut are made of. */
export function residualPlainly(o: Tensor, gamma: Tensor, x: Tensor): Tensor {
  return typeAs(add(mul(to(o, 'f32'), gamma), to(x, 'f32')), x);
}

/** The gradients of o and of gamma: from one look at dy where gamma is learnt. */
export function residualGradients(args: {
  readonly o: Tensor;
  readonly gamma: Tensor;
  readonly dy: Tensor;
  readonly learnt: boolean;
}): { readonly o: GradThunk; readonly gamma: GradThunk | undefined } {
  const { o, gamma, dy, learnt } = args;
  if (!learnt) return { o: () => mul(dy, typeAs(gamma, dy)), gamma: undefined };
  const both = once(() => residualBackwardOp([o, gamma, dy], undefined));
  return { o: () => at(both(), 0), gamma: () => at(both(), 1) };
}

const residualBackwardOp = defineOp({
  name: 'residualBackward',
  dtypes: ['float', 'f32', 'float'],
  infer: (inputs) => [{ shape: at(inputs, 0).shape }, { shape: at(inputs, 1).shape, dtype: 'f32' }],
  forward: (gpu, { inputs, outputs }) => {
    const [o, gamma, dy] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)];
    residualBackward(gpu, {
      ...{ o: o.storage, gamma: gamma.storage, dy: dy.storage },
      ...{ dO: at(outputs, 0).storage, dgamma: at(outputs, 1).storage },
      ...{ n: o.size, stored: o.stored },
    });
  },
});

/**
 * gamma·o + x with one learnt number gamma [1], of f32: how a self-attention block joins its shortcut. Throws a RangeError
 * where o and x differ in shape or gamma has not one element.
 */
export function residual(o: Tensor, gamma: Tensor, x: Tensor): Tensor {
  requireSameShape('residual', ['branch', 'shortcut'], o, x);
  requireOneGamma('residual', gamma);
  return only(residualOp([o, gamma, x], undefined));
}

/** Throws a RangeError that names the op where gamma has not one element. */
export function requireOneGamma(op: string, gamma: Tensor): void {
  if (gamma.size === 1) return;
  throw new RangeError(`${op}: gamma is ${showShape(gamma.shape)}; it must be one number`);
}
