// Matrix products and convolutions of tensors in f16: values, gradients and gradients of gradients against the float64
// references, on values that f16 holds; what is f32 all the same; and operands that do not go together.
import { expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { FloatType, Tensor } from '../../src/autograd/tensor.ts';
import { conv2d, convTranspose2d } from '../../src/ops/conv.ts';
import { linear, matmul } from '../../src/ops/matmul.ts';
import {
  conv2d as conv2dRef,
  conv2dBackward,
  convTranspose2d as convTransposeRef,
  convTranspose2dBackward,
} from '../reference/conv.ts';
import { matmul as matmulRef, matmulBackward } from '../reference/matmul.ts';
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

const products = [
  // Odd counts of elements; one B for every A; a batch of each.
  { batchA: [], batchB: [], M: 5, K: 7, N: 3, transA: false, transB: false },
  { batchA: [], batchB: [], M: 5, K: 7, N: 3, transA: true, transB: true },
  { batchA: [3], batchB: [3], M: 8, K: 4, N: 12, transA: false, transB: true },
  { batchA: [3], batchB: [], M: 3, K: 5, N: 7, transA: false, transB: true },
  { batchA: [3], batchB: [3], M: 1, K: 1, N: 1, transA: true, transB: false },
];
testOrSkip.each(products)('matmul %o', async (o) => {
  const { batchA, batchB, M, K, N, transA, transB } = o;
  const shapes = [
    [...batchA, ...(transA ? [K, M] : [M, K])],
    [...batchB, ...(transB ? [N, K] : [K, N])],
  ] as const;
  const [a, b] = [leaf(shapes[0], 1), leaf(shapes[1], 2)];
  const y = matmul(a.tensor, b.tensor, { transA, transB });
  const dy = leaf(y.shape, 3);
  const [da, db] = grad([y], [a.tensor, b.tensor], { gradOutputs: [dy.tensor] });
  const given = { ...o, a: a.data, b: b.data };
  const back = (r: Round) => matmulBackward(given, dy.data, r);
  const dtype = 'f16';
  const shape = [...batchA, M, N];
  await expectTensor(y, { dtype, shape, what: 'value', of: (r) => matmulRef(given, r) });
  await expectTensor(da, { dtype, shape: shapes[0], what: 'dA', of: (r) => back(r).da });
  await expectTensor(db, { dtype, shape: shapes[1], what: 'dB', of: (r) => back(r).db });
});

testOrSkip('linear, rows of any rank', async () => {
  const [x, w] = [leaf([3, 3, 5], 1), leaf([7, 5], 2)];
  const y = linear(x.tensor, w.tensor);
  const sizes = { a: x.data, b: w.data, M: 9, K: 5, N: 7, transB: true };
  const of = (r: Round) => matmulRef(sizes, r);
  await expectTensor(y, { dtype: 'f16', shape: [3, 3, 7], what: 'linear', of });
});

const convolutions = [
  { N: 1, C: 1, H: 1, W: 1, K: 1, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
  { N: 1, C: 3, H: 5, W: 7, K: 5, R: 3, S: 3, stride: [1, 1], pad: [1, 1] },
  { N: 4, C: 3, H: 8, W: 8, K: 7, R: 4, S: 4, stride: [2, 2], pad: [1, 1] },
  { N: 5, C: 5, H: 4, W: 4, K: 3, R: 4, S: 4, stride: [1, 1], pad: [0, 0] },
  { N: 3, C: 5, H: 3, W: 3, K: 7, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
] as const;
testOrSkip.each(convolutions)('conv2d %o', async (o) => {
  const { N, C, H, W, K, R, S, stride, pad } = o;
  const [x, w] = [leaf([N, C, H, W], 1), leaf([K, C, R, S], 2)];
  const bias = leaf([K], 3, 'f32');
  const options = { bias: bias.tensor, stride, padding: pad };
  const y = conv2d(x.tensor, w.tensor, options);
  const dy = leaf(y.shape, 4);
  const inputs = [x.tensor, w.tensor];
  const [dx, dw] = grad([y], inputs, { gradOutputs: [dy.tensor], createGraph: true });
  const given = { ...o, x: x.data, w: w.data, bias: bias.data };
  const back = (r: Round) => conv2dBackward(given, dy.data, r);
  const [image, weight] = [x.tensor.shape, w.tensor.shape];
  const of = (r: Round) => conv2dRef(given, r);
  await expectTensor(y, { dtype: 'f16', shape: y.shape, what: 'value', of });
  await expectTensor(dx, { dtype: 'f16', shape: image, what: 'dx', of: (r) => back(r).dx });
  await expectTensor(dw, { dtype: 'f32', shape: weight, what: 'dw', of: (r) => back(r).dw });

  // The gradient of dw·u by x: u, in f32 as dw is, takes the place of the weight.
  const u = leaf(weight, 5, 'f32');
  const [ddx] = grad([dw!], [x.tensor], { gradOutputs: [u.tensor] });
  const second = (r: Round) => conv2dBackward({ ...given, w: u.data }, dy.data, r).dx;
  await expectTensor(ddx, { dtype: 'f16', shape: image, what: 'dx of dw', of: second });
  // The gradient of dx·v by w: v takes the place of the image.
  const v = leaf(image, 6);
  const [ddw] = grad([dx!], [w.tensor], { gradOutputs: [v.tensor] });
  const other = (r: Round) => conv2dBackward({ ...given, x: v.data }, dy.data, r).dw;
  await expectTensor(ddw, { dtype: 'f32', shape: weight, what: 'dw of dx', of: other });
});

const transposed = [
  { N: 5, Cin: 7, H: 1, W: 1, Cout: 5, R: 4, S: 4, stride: [1, 1], pad: [0, 0], outputPad: [0, 0] },
  { N: 3, Cin: 5, H: 4, W: 4, Cout: 3, R: 4, S: 4, stride: [2, 2], pad: [1, 1], outputPad: [0, 0] },
  { N: 1, Cin: 3, H: 3, W: 2, Cout: 5, R: 3, S: 5, stride: [2, 3], pad: [1, 2], outputPad: [1, 2] },
] as const;
testOrSkip.each(transposed)('convTranspose2d %o', async (o) => {
  const { N, Cin, H, W, Cout, R, S, stride, pad, outputPad } = o;
  const [x, w] = [leaf([N, Cin, H, W], 1), leaf([Cin, Cout, R, S], 2)];
  const bias = leaf([Cout], 3, 'f32');
  const options = { bias: bias.tensor, stride, padding: pad, outputPadding: outputPad };
  const y = convTranspose2d(x.tensor, w.tensor, options);
  const dy = leaf(y.shape, 4);
  const [dx, dw] = grad([y], [x.tensor, w.tensor], { gradOutputs: [dy.tensor] });
  const given = { ...o, x: x.data, w: w.data, bias: bias.data };
  const back = (r: Round) => convTranspose2dBackward(given, dy.data, r);
  const [image, weight] = [x.tensor.shape, w.tensor.shape];
  const of = (r: Round) => convTransposeRef(given, r);
  await expectTensor(y, { dtype: 'f16', shape: y.shape, what: 'value', of });
  await expectTensor(dx, { dtype: 'f16', shape: image, what: 'dx', of: (r) => back(r).dx });
  await expectTensor(dw, { dtype: 'f32', shape: weight, what: 'dw', of: (r) => back(r).dw });
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
