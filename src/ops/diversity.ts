import { requireSameShape } from '../autograd/tensor.ts';
import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { diversity as kernel } from '../kernels/diversity.ts';
import { dim } from '../util/shape.ts';

/** √(Σ var(fake) / Σ var(real)), the variances over the batch at each pixel. A measure of a training: no gradient. */
const diversityOp = defineOp({
  name: 'diversity',
  dtypes: 'float',
  infer: (inputs) => {
    const [real, fake] = [at(inputs, 0), at(inputs, 1)];
    requireSameShape('diversity', ['real', 'fake'], real, fake);
    if (dim(real.shape, 0) < 2) throw new RangeError('diversity: one image is no batch');
    return [{ shape: [], dtype: 'f32' }];
  },
  forward: (gpu, { inputs, outputs }) => {
    const [real, fake] = [at(inputs, 0), at(inputs, 1)];
    const N = dim(real.shape, 0);
    kernel(gpu, {
      ...{ real: real.storage, fake: fake.storage, out: only(outputs).storage },
      ...{ N, M: real.size / N, stored: real.stored },
    });
  },
});

/**
 * How far made images lie from each other, by how far real ones do: the root of the mean square distance of two images of
 * the batch `fake`, over that of `real`. Both (N, …), of one shape and float type, N at least 2; a tensor of one element in f32,
 * which is 0 where all made images are the same, and about 1 where they differ as the real ones do.
 */
export function diversity(real: Tensor, fake: Tensor): Tensor {
  return only(diversityOp([real, fake], undefined));
}
