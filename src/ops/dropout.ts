import { at, defineOp, only } from '../autograd/op.ts';
import type { Op } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import * as kernels from '../kernels/random.ts';
import type { Rng } from './random.ts';

interface Attrs {
  readonly p: number;
  readonly stream: number;
}

/**
 * y = x·mask/(1 − p):  dx = dy·mask/(1 − p). The mask is not stored: the same state and stream draw it again, and a gradient
 * that is asked for after the state has moved on is refused.
 */
const dropoutOp: Op<Attrs> = defineOp({
  name: 'dropout',
  dtypes: ['f32', 'u32'],
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [x, state] = [at(inputs, 0), at(inputs, 1)];
    const out = only(outputs);
    const args = { state: state.storage, x: x.storage, out: out.storage, n: out.size };
    kernels.dropout(gpu, { ...args, ...attrs });
  },
  saves: (inputs) => [at(inputs, 1)],
  backward: ({ grads, saved, attrs }) => [
    () => only(dropoutOp([at(grads, 0) as Tensor, at(saved, 0)], attrs)),
    undefined,
  ],
});

/**
 * torch.nn.functional.dropout in training: each element is 0 with probability p and times 1/(1 − p) otherwise. Which, is
 * the next draw of `rng`: a replayed program draws anew when `rng.advance()` is part of it, and a restored state draws the
 * same. Gradients must be taken before it advances. Throws a RangeError for p outside 0 to 1, 1 itself left out.
 */
export function dropout(x: Tensor, p: number, rng: Rng): Tensor {
  if (!(p >= 0 && p < 1)) {
    throw new RangeError(`dropout: p is ${p}; it must be from 0 to less than 1`);
  }
  if (p === 0) return x;
  const { state, stream } = rng.draw();
  return only(dropoutOp([x, state], { p, stream }));
}
