import type { Tensor } from '../autograd/tensor.ts';
import { bytesOf, requireSameShape } from '../autograd/tensor.ts';
import { unary } from '../kernels/pointwise.ts';

/** Overwrites `to` with `from`, in place and without history: for buffers, never for a result. */
export function copyInto(to: Tensor, from: Tensor): void {
  requireSameShape('copyInto', ['target', 'source'], to, from);
  if (to.dtype !== from.dtype || to.dtype === 'u32') {
    throw new RangeError(
      `copyInto: target is ${to.dtype} and source ${from.dtype}; both must be f32, or both f16`,
    );
  }
  const { gpu, size: n, dtype, stored } = to;
  // Of one buffer a launch may not read one part and write another.
  const { block } = to.storage;
  const shared = block !== undefined && from.storage.block?.buffer === block.buffer;
  const x = shared ? gpu.alloc(bytesOf(n, dtype), 'copyInto') : from.storage;
  if (shared) unary(gpu, 'copy', { x: from.storage, out: x, n, stored });
  unary(gpu, 'copy', { x, out: to.storage, n, stored });
  if (shared) gpu.release(x);
}
