import { at, defineOp, once, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { hingeBackward, hingeLoss as hingeKernel } from '../kernels/hinge.ts';
import { add, affine, relu } from './pointwise.ts';
import { mean } from './reduce.ts';

/** L = mean(relu(1 − real)) + mean(relu(1 + fake)):  d real = −dL/N where real < 1,  d fake = dL/M where fake > −1. */
const hingeOp = defineOp({
  name: 'hingeLoss',
  infer: () => [{ shape: [] }],
  forward: (gpu, { inputs, outputs }) => {
    hingeKernel(gpu, { ...scores(inputs), out: only(outputs).storage });
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved }) => {
    const both = once(() => hingeBackwardOp([...saved, at(grads, 0) as Tensor], undefined));
    return [() => at(both(), 0), () => at(both(), 1)];
  },
  composition: (inputs) => [
    add(mean(relu(affine(at(inputs, 0), -1, 1))), mean(relu(affine(at(inputs, 1), 1, 1)))),
  ],
});

const hingeBackwardOp = defineOp({
  name: 'hingeBackward',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }, { shape: at(inputs, 1).shape }],
  forward: (gpu, { inputs, outputs }) => {
    hingeBackward(gpu, {
      ...scores(inputs),
      dy: at(inputs, 2).storage,
      dReal: at(outputs, 0).storage,
      dFake: at(outputs, 1).storage,
    });
  },
});

function scores(inputs: readonly Tensor[]) {
  const [real, fake] = [at(inputs, 0), at(inputs, 1)];
  return { real: real.storage, fake: fake.storage, N: real.size, M: fake.size };
}

/**
 * The discriminator's hinge loss (Lim & Ye 2017, Miyato 2018) of its scores for real and for made images, of any shapes:
 * mean(relu(1 − real)) + mean(relu(1 + fake)), a tensor of one element.
 */
export function hingeLoss(real: Tensor, fake: Tensor): Tensor {
  return only(hingeOp([real, fake], undefined));
}
