import { narrow, widen } from '../kernels/cast.ts';
import { at, defineOp, only } from './op.ts';
import type { FloatType, Tensor } from './tensor.ts';

/** y = x in another float type:  dx = dy in x's. */
const toOp = defineOp<{ dtype: FloatType }>({
  name: 'to',
  dtypes: 'float',
  infer: (inputs, { dtype }) => [{ shape: at(inputs, 0).shape, dtype }],
  forward: (gpu, { inputs, outputs, attrs: { dtype } }) => {
    const [x, out] = [at(inputs, 0), only(outputs)];
    const convert = dtype === 'f16' ? narrow : widen;
    convert(gpu, { x: x.storage, out: out.storage, n: out.size });
  },
  anyGradient: true,
  saves: (inputs) => [at(inputs, 0)],
  backward: ({ grads, saved }) => [
    () => to(at(grads, 0) as Tensor, at(saved, 0).dtype as FloatType),
  ],
});

/**
 * x as f16 or f32, as torch's `x.to(dtype)`: x itself where it is that already. f16 rounds to nearest; past ±65504 it is
 * infinite. Throws a RangeError for whole numbers, and an Error on a device without shader-f16.
 */
export function to(x: Tensor, dtype: FloatType): Tensor {
  return x.dtype === dtype ? x : only(toOp([x], { dtype }));
}

/** x in the element type of another tensor, as torch's `x.type_as(other)`. */
export function typeAs(x: Tensor, other: Tensor): Tensor {
  return to(x, other.dtype as FloatType);
}
