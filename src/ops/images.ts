import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { imagesToFloat as kernel } from '../kernels/pointwise.ts';
import type { Shape } from '../util/shape.ts';

/** Bytes 0 … 255, four to a u32 word, → x·2/255 − 1. Images are data: no gradient. */
const imagesToFloatOp = defineOp<{ shape: Shape }>({
  name: 'imagesToFloat',
  dtypes: ['u32'],
  infer: (_inputs, { shape }) => [{ shape }],
  forward: (gpu, { inputs, outputs }) => {
    const out = only(outputs);
    kernel(gpu, { bytes: at(inputs, 0).storage, out: out.storage, n: out.size });
  },
});

/** uint8 images as floats in [−1, 1] of the given shape. */
export function imagesToFloat(bytes: Tensor, shape: Shape): Tensor {
  return only(imagesToFloatOp([bytes], { shape }));
}
