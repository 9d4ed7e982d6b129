// Products and convolutions of tensors in f16 beyond ops-products.test.ts: second derivatives, and operands that do not go
// together. Values are such as f16 holds.
import { expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { FloatType, Tensor } from '../../src/autograd/tensor.ts';
import { conv2d } from '../../src/ops/conv.ts';
import { matmul } from '../../src/ops/matmul.ts';
import { conv2dBackward } from '../reference/conv.ts';
import { budget, f32, f64, storedAsHalf } from '../reference/naive.ts';
import type { Data, Round } from '../reference/naive.ts';
import { expectTensorClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { randomHalves } from '../support/half.ts';
import { count } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const testOrSkip = test.skipIf(!gpu.features.has('shader-f16'));

function leaf(shape: readonly number[], seed: number, dtype: FloatType = 'f16') {
  const data = randomHalves(count(shape), seed);
  const made = tensor(tape, Float32Array.from(data), shape, { dtype, requiresGrad: true });
  return { data, tensor: made };
}

/** Compares a tensor of an expected type with a reference. */
async function expectTensor(
  made: Tensor | undefined,
  o: { dtype: FloatType; shape: readonly number[]; what: string; of: (r: Round) => Data },
) {
  const [ref, naive] = [o.of(f64), o.of(f32)];
  const float = budget(ref, naive);
  expect(made?.dtype, o.what).toBe(o.dtype);
  expectTensorClose(
    { shape: made!.shape, data: await made!.read() },
    { shape: o.shape, data: ref },
    o.dtype === 'f16' ? storedAsHalf(float) : float,
    o.what,
  );
}

const convolutions = [
  { N: 1, C: 3, H: 5, W: 7, K: 5, R: 3, S: 3, stride: [1, 1], pad: [1, 1] },
  { N: 4, C: 3, H: 8, W: 8, K: 7, R: 4, S: 4, stride: [2, 2], pad: [1, 1] },
  { N: 3, C: 5, H: 3, W: 3, K: 7, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
] as const;
testOrSkip.each(convolutions)('the gradients of conv2d have gradients: %o', async (o) => {
  const { N, C, H, W, K, R, S, stride, pad } = o;
  const [x, w] = [leaf([N, C, H, W], 1), leaf([K, C, R, S], 2)];
  const y = conv2d(x.tensor, w.tensor, { stride, padding: pad });
  const dy = leaf(y.shape, 3);
  const inputs = [x.tensor, w.tensor];
  const [dx, dw] = grad([y], inputs, { gradOutputs: [dy.tensor], createGraph: true });
  const given = { ...o, x: x.data, w: w.data };
  const [image, weight] = [x.tensor.shape, w.tensor.shape];

  // The gradient of dw·u by x: u, in f32 as dw is, takes the place of the weight.
  const u = leaf(weight, 4, 'f32');
  const [ofWeight] = grad([dw!], [x.tensor], { gradOutputs: [u.tensor] });
  await expectTensor(ofWeight, {
    ...{ dtype: 'f16', shape: image, what: 'dx of dw' },
    of: (r) => conv2dBackward({ ...given, w: u.data }, dy.data, r).dx,
  });
  // The gradient of dx·v by w: v takes the place of the image.
  const v = leaf(image, 5);
  const [ofImage] = grad([dx!], [w.tensor], { gradOutputs: [v.tensor] });
  await expectTensor(ofImage, {
    ...{ dtype: 'f32', shape: weight, what: 'dw of dx' },
    of: (r) => conv2dBackward({ ...given, x: v.data }, dy.data, r).dw,
  });
});

testOrSkip('operands of two float types are refused, and a bias in f16', () => {
  const [x, w] = [leaf([1, 3, 3, 3], 1).tensor, leaf([2, 3, 1, 1], 2, 'f32').tensor];
  expect(() => conv2d(x, w)).toThrow(
    /^conv2d: input 1 \(tensor\) is f32 \[2, 3, 1, 1\]; it must be f16 as input 0/,
  );
  const half = leaf([2, 3, 1, 1], 2).tensor;
  const bias = leaf([2], 3).tensor;
  expect(() => conv2d(x, half, { bias })).toThrow(
    /^conv2d: input 2 \(tensor\) is f16 \[2\]; it must be f32$/,
  );
  const [a, b] = [leaf([2, 3], 1).tensor, leaf([3, 2], 2, 'f32').tensor];
  expect(() => matmul(a, b)).toThrow(
    /^matmul: input 1 \(tensor\) is f32 \[3, 2\]; it must be f16 as input 0/,
  );
});

test('products of f16: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
