import type { Tensor } from '../autograd/tensor.ts';
import { requireSameShape } from '../autograd/tensor.ts';
import { unary } from '../kernels/pointwise.ts';

/** Overwrites `to` with `from`, in place and without history: for buffers, never for a result. */
export function copyInto(to: Tensor, from: Tensor): void {
  requireSameShape('copyInto', ['target', 'source'], to, from);
  if (to.dtype !== 'f32' || from.dtype !== 'f32') {
    throw new RangeError(
      `copyInto: target is ${to.dtype} and source ${from.dtype}; both must be f32`,
    );
  }
  unary(to.gpu, 'copy', { x: from.storage, out: to.storage, n: to.size });
}
