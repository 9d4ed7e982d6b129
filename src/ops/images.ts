import { at, defineOp, only } from '../autograd/op.ts';
import type { FloatType, Tensor } from '../autograd/tensor.ts';
import { imagesToFloat as kernel } from '../kernels/pointwise.ts';
import type { Shape } from '../util/shape.ts';

/** Bytes 0 … 255, four to a u32 word, → x·2/255 − 1. Images are data: no gradient. */
const imagesToFloatOp = defineOp<{ shape: Shape; dtype: FloatType }>({
  name: 'imagesToFloat',
  dtypes: ['u32'],
  infer: (_inputs, { shape, dtype }) => [{ shape, dtype }],
  forward: (gpu, { inputs, outputs }) => {
    const out = only(outputs);
    const { storage: bytes } = at(inputs, 0);
    kernel(gpu, { bytes, out: out.storage, n: out.size, stored: out.stored });
  },
});

/** uint8 images as floats in [−1, 1] of the given shape, f32 unless `dtype` says f16. */
export function imagesToFloat(bytes: Tensor, shape: Shape, dtype: FloatType = 'f32'): Tensor {
  return only(imagesToFloatOp([bytes], { shape, dtype }));
}
