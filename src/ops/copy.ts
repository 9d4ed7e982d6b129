import type { Tensor } from '../autograd/tensor.ts';
import { requireSameShape } from '../autograd/tensor.ts';
import { unary } from '../kernels/pointwise.ts';

/** Overwrites `to` with `from`, in place and without history: for buffers, never for a result. */
export function copyInto(to: Tensor, from: Tensor): void {
  requireSameShape('copyInto', ['target', 'source'], to, from);
  unary(to.gpu, 'copy', { x: from.storage, out: to.storage, n: to.size });
}
