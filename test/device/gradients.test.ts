// Second derivatives (createGraph). PyTorch's golden values where there are some, else central
// differences of the float64 references' gradients. Attention has a file of its own.
import { describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { conv2d, convTranspose2d } from '../../src/ops/conv.ts';
import type { ConvOptions } from '../../src/ops/conv.ts';
import { embedding } from '../../src/ops/embedding.ts';
import { conditionalBatchNorm } from '../../src/ops/conditional-norm.ts';
import { concat, expand, permute, reshape, slice } from '../../src/ops/layout.ts';
import { matmul } from '../../src/ops/matmul.ts';
import { batchNorm } from '../../src/ops/norm.ts';
import * as p from '../../src/ops/pointwise.ts';
import { amax, mean, sum } from '../../src/ops/reduce.ts';
import { avgPool2d, maxPool2d, resizeBilinear, upsampleNearest2x } from '../../src/ops/resample.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { spectralNormalize } from '../../src/ops/spectral.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { conv2d as conv2dRef, conv2dBackward } from '../reference/conv.ts';
import { embeddingBackward } from '../reference/embedding.ts';
import { type Data, f64 } from '../reference/naive.ts';
import {
  type ArithmeticName,
  binaryBackward,
  type PointwiseName,
  unaryBackward,
} from '../reference/pointwise.ts';
import { avgPool2dBackward, maxPool2dBackward } from '../reference/pool.ts';
import { reduceBackward } from '../reference/reduce.ts';
import { bilinearBackward, nearestBackward } from '../reference/resize.ts';
import { concatBackward, permuteBackward, sliceBackward } from '../reference/shape.ts';
import { batchNorm as batchNormRef, batchNormBackward } from '../reference/norm.ts';
import { spectralNormBackward } from '../reference/spectral.ts';
import { expectTensorClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import {
  bitsOf,
  count,
  eagerly,
  type HostInput,
  leaf,
  type Named,
  randomInput,
  replayed,
} from '../support/ops.ts';
import { randomData } from '../support/random.ts';
import { secondBudget, secondOrder, secondReference } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

type Inputs = Readonly<Record<string, Tensor>>;

interface GoldenParams {
  readonly inputs: readonly string[];
  readonly stride: readonly [number, number];
  readonly pad: readonly [number, number];
  readonly outputPad: readonly [number, number];
  readonly eps: number;
  readonly slope: number;
  readonly axes: readonly number[];
}

/** The op behind a case of double_backward. */
function opOf(name: string, o: GoldenParams): (t: Inputs) => Tensor {
  const geometry: ConvOptions = { stride: o.stride, padding: o.pad };
  if (name.startsWith('conv2d')) return ({ x, w, bias }) => conv2d(x!, w!, { ...geometry, bias });
  if (name === 'conv_transpose2d') {
    return ({ x, w }) => convTranspose2d(x!, w!, { ...geometry, outputPadding: o.outputPad });
  }
  const ops: Record<string, (t: Inputs) => Tensor> = {
    matmul: ({ a, b }) => matmul(a!, b!, { transB: true }),
    softmax: ({ x }) => softmax(x!),
    leaky_relu_squared: ({ x }) => p.square(p.leakyRelu(x!, o.slope)),
    tanh: ({ x }) => p.tanh(x!),
    sigmoid: ({ x }) => p.sigmoid(x!),
    softplus: ({ x }) => p.softplus(x!),
    mean_of_squares: ({ x }) => mean(p.square(x!), o.axes, { keepdim: true }),
    square_of_mean: ({ x }) => p.square(mean(x!, o.axes, { keepdim: true })),
    batch_norm: ({ x, gamma, beta }) =>
      batchNorm(x!, {
        ...{ weight: gamma, bias: beta, training: true, eps: o.eps },
        runningMean: tensor(tape, new Float32Array(gamma!.size), gamma!.shape),
        runningVar: tensor(tape, new Float32Array(gamma!.size), gamma!.shape),
      }),
  };
  const op = ops[name];
  if (op === undefined) throw new Error(`double_backward: no op for case ${name}`);
  return op;
}

describe('second derivatives against PyTorch', () => {
  const cases = loadGoldenCases<GoldenParams>('double_backward').filter(
    ({ name }) => !name.startsWith('attention'),
  );
  test.each(cases)('$name, twice differentiated', async (golden) => {
    const { inputs } = golden.params;
    const given = (name: string): HostInput => golden.tensors.get(name)!;
    const leaves = Object.fromEntries(inputs.map((name) => [name, leaf(tape, given(name), name)]));
    const dy = leaf(tape, given('dy'), 'dy');
    const op = opOf(golden.name, golden.params);
    const body = () => {
      const { y, first, second } = secondOrder(() => op(leaves), Object.values(leaves), dy);
      return [y, ...first, ...second];
    };
    const results = await eagerly(gpu, body);
    const names = [
      'y',
      ...inputs.map((name) => `grad.${name}`),
      ...[...inputs, 'dy'].map((name) => `second.${name}`),
    ];
    const terms = Math.max(...[...golden.tensors.values()].map(({ data }) => data.length));
    for (const order of ['y', 'grad.', 'second.']) {
      const own = names.filter((name) => name.startsWith(order));
      const limit = secondBudget(
        own.map((name) => given(name).data),
        { terms },
      );
      for (const name of own) {
        expectTensorClose(results[names.indexOf(name)]!, given(name), limit, name);
      }
    }
    const again = bitsOf(await replayed(gpu, body, 2));
    expect(again).toEqual(bitsOf(results));
  });
});

// ---- what has no golden values --------------------------------------------------------------------------------------

interface Case {
  readonly name: string;
  readonly inputs: Readonly<Record<string, HostInput>>;
  readonly op: (t: Inputs) => Tensor;
  readonly backward: (d: Named, dy: Data) => Readonly<Record<string, Data>>;
}

/** f(x²): an op that is linear has second derivatives there as well. */
const squared = ({ name, inputs, op, backward }: Case): Case => ({
  name: `${name} of squares`,
  inputs,
  op: (t) => op(Object.fromEntries(Object.entries(t).map(([key, x]) => [key, p.square(x)]))),
  backward: (d, dy) => {
    const inner = Object.fromEntries(
      Object.entries(d).map(([key, x]) => [key, x.map((a) => a * a)]),
    );
    return Object.fromEntries(
      Object.entries(backward(inner, dy)).map(([key, g]) => [
        key,
        d[key]!.map((a, i) => 2 * a * g[i]!),
      ]),
    );
  },
});

const elementwise = (name: PointwiseName, low: number, high: number): Case => ({
  name,
  inputs: { x: randomInput([3, 5], 1, low, high) },
  op: ({ x }) => p[name](x!),
  backward: ({ x }, dy) => ({ x: unaryBackward(name, { x: x! }, dy, f64).dx }),
});

const arithmetic = (name: ArithmeticName, shapeA: number[], shapeB: number[]): Case => ({
  name: `${name} [${shapeA.join()}] [${shapeB.join()}]`,
  inputs: { a: randomInput(shapeA, 1, 0.5, 2), b: randomInput(shapeB, 2, 0.5, 2) },
  op: ({ a, b }) => p[name](a!, b!),
  backward: ({ a, b }, dy) => {
    const g = binaryBackward(name, { a: a!, b: b!, shapeA, shapeB }, dy, f64);
    return { a: g.da, b: g.db };
  },
});

const image = { N: 2, C: 3, H: 4, W: 5 };
const window = { ...image, kernel: [3, 3], stride: [2, 2], pad: [1, 1] } as const;
const images = { x: randomInput([2, 3, 4, 5], 1, 0.5, 2) };
const rows = tensor(tape, Uint32Array.of(2, 0, 2), [3]);
const still = { u: randomData(3, 8, 0.2, 1), v: randomData(8, 9, 0.1, 0.5) };
const uv = {
  u: tensor(tape, Float32Array.from(still.u), [3], { label: 'u' }),
  v: tensor(tape, Float32Array.from(still.v), [8], { label: 'v' }),
};

const cases: readonly Case[] = [
  elementwise('exp', -1, 1),
  elementwise('log', 0.5, 2),
  elementwise('sqrt', 0.5, 2),
  elementwise('rsqrt', 0.5, 2),
  elementwise('reciprocal', 0.5, 2),
  elementwise('square', -1, 1),
  elementwise('tanh', -1, 1),
  elementwise('sigmoid', -1, 1),
  elementwise('softplus', -1, 1),
  ...(['relu', 'abs', 'neg', 'leakyRelu'] as const).map((name) =>
    squared(elementwise(name, 0.5, 2)),
  ),
  arithmetic('mul', [2, 3], [3]),
  arithmetic('div', [2, 3], [2, 1]),
  ...(['add', 'sub', 'maximum'] as const).map((name) =>
    squared(arithmetic(name, [4, 1, 3], [2, 1])),
  ),
  ...(['sum', 'mean', 'max'] as const).map((name) =>
    squared({
      name: `${name} over axes 0 and 2`,
      inputs: { x: randomInput([2, 3, 4], 1) },
      op: ({ x }) => ({ sum, mean, max: amax })[name](x!, [0, 2]),
      backward: ({ x }, dy) => ({
        x: reduceBackward(name, { x: x!, shape: [2, 3, 4], axes: [0, 2] }, dy, f64).dx,
      }),
    }),
  ),
  squared({
    name: 'max pool',
    inputs: images,
    op: ({ x }) => maxPool2d(x!, 3, { stride: 2, padding: 1 }),
    backward: ({ x }, dy) => ({ x: maxPool2dBackward({ x: x!, ...window }, dy, f64).dx }),
  }),
  squared({
    name: 'average pool',
    inputs: images,
    op: ({ x }) => avgPool2d(x!, 3, { stride: 2, padding: 1 }),
    backward: ({ x }, dy) => ({ x: avgPool2dBackward({ x: x!, ...window }, dy, f64).dx }),
  }),
  squared({
    name: 'nearest upsampling',
    inputs: images,
    op: ({ x }) => upsampleNearest2x(x!),
    backward: ({ x }, dy) => ({ x: nearestBackward({ x: x!, ...image }, dy, f64).dx }),
  }),
  squared({
    name: 'bilinear resize',
    inputs: images,
    op: ({ x }) => resizeBilinear(x!, [7, 3]),
    backward: ({ x }, dy) => ({ x: bilinearBackward({ x: x!, ...image, P: 7, Q: 3 }, dy, f64).dx }),
  }),
  squared({
    name: 'permute',
    inputs: images,
    op: ({ x }) => permute(x!, [3, 1, 0, 2]),
    backward: ({ x }, dy) => ({
      x: permuteBackward({ x: x!, shape: [2, 3, 4, 5], order: [3, 1, 0, 2] }, dy, f64).dx,
    }),
  }),
  squared({
    name: 'slice',
    inputs: images,
    op: ({ x }) => slice(x!, 1, 1, 2),
    backward: ({ x }, dy) => {
      const o = { x: x!, shape: [2, 3, 4, 5], start: [0, 1, 0, 0], end: [2, 3, 4, 5] };
      return { x: sliceBackward(o, dy, f64).dx };
    },
  }),
  squared({
    name: 'concat',
    inputs: { a: randomInput([2, 3], 1), b: randomInput([2, 1], 2) },
    op: ({ a, b }) => concat([a!, b!], 1),
    backward: ({ a, b }, dy) => {
      const o = {
        xs: [a!, b!],
        shapes: [
          [2, 3],
          [2, 1],
        ],
        axis: 1,
      };
      const [da, db] = concatBackward(o, dy, f64).dxs;
      return { a: da!, b: db! };
    },
  }),
  squared({
    name: 'expand and reshape',
    inputs: { x: randomInput([3, 1], 1) },
    op: ({ x }) => reshape(expand(x!, [2, 3, 4]), [4, 6]),
    backward: (_d, dy) => ({ x: reduceBackwardSum(dy) }),
  }),
  squared({
    name: 'embedding',
    inputs: { table: randomInput([3, 4], 1) },
    op: ({ table }) => embedding(rows, table!),
    backward: ({ table }, dy) => ({
      table: embeddingBackward({ table: table!, V: 3, D: 4, index: [2, 0, 2] }, dy, f64).dtable,
    }),
  }),
  {
    name: 'batch norm and leaky relu',
    inputs: { x: randomInput([4, 2, 3], 1), gamma: randomInput([2], 2, 0.5, 1.5) },
    op: ({ x, gamma }) =>
      batchNorm(x!, {
        ...{ weight: gamma, training: true },
        activation: { name: 'leakyRelu', negativeSlope: 0.2 },
        runningMean: tensor(tape, [0, 0], [2]),
        runningVar: tensor(tape, [1, 1], [2]),
      }),
    backward: ({ x, gamma }, dy) => {
      const o = { x: x!, gamma: gamma!, ...{ N: 4, C: 2, H: 3, W: 1, training: true } };
      const { y } = batchNormRef(o, f64);
      const past = y.map((v, i) => (v > 0 ? dy[i]! : 0.2 * dy[i]!));
      const { dx, dgamma } = batchNormBackward(o, past, f64);
      return { x: dx, gamma: dgamma };
    },
  },
  {
    name: 'conv2d and leaky relu',
    inputs: {
      x: randomInput([2, 2, 4, 3], 1),
      w: randomInput([3, 2, 3, 2], 2),
      bias: randomInput([3], 3),
    },
    op: ({ x, w, bias }) =>
      conv2d(x!, w!, {
        ...{ bias, stride: 2, padding: 1 },
        activation: { name: 'leakyRelu', negativeSlope: 0.2 },
      }),
    backward: ({ x, w, bias }, dy) => {
      const sizes = { N: 2, C: 2, H: 4, W: 3, K: 3, R: 3, S: 2 };
      const o = { ...sizes, x: x!, w: w!, bias: bias!, stride: [2, 2], pad: [1, 1] } as const;
      const past = conv2dRef(o, f64).map((v, i) => (v > 0 ? dy[i]! : 0.2 * dy[i]!));
      const { dx, dw, dbias } = conv2dBackward(o, past, f64);
      return { x: dx, w: dw, bias: dbias };
    },
  },
  {
    name: 'conditional batch norm and relu',
    inputs: { x: randomInput([4, 2, 3], 1), gain: randomInput([4, 2], 2, -1.5, 1.5) },
    op: ({ x, gain }) =>
      conditionalBatchNorm(x!, {
        ...{ gain: gain!, bias: tensor(tape, new Float32Array(8), [4, 2]), training: true },
        activation: { name: 'relu' },
        runningMean: tensor(tape, [0, 0], [2]),
        runningVar: tensor(tape, [1, 1], [2]),
      }),
    backward: ({ x, gain }, dy) => {
      const o = { x: x!, ...{ N: 4, C: 2, H: 3, W: 1, training: true } };
      const { y: hat } = batchNormRef(o, f64);
      const of = (i: number) => gain![Math.floor(i / 3)]!;
      const past = hat.map((v, i) => (v * of(i) > 0 ? dy[i]! : 0));
      const dgain = new Float64Array(8);
      past.forEach((g, i) => (dgain[Math.floor(i / 3)]! += g * hat[i]!));
      const { dx } = batchNormBackward(
        o,
        past.map((g, i) => g * of(i)),
        f64,
      );
      return { x: dx, gain: dgain };
    },
  },
  {
    name: 'spectral norm with u and v still',
    inputs: { w: randomInput([3, 2, 2, 2], 1, 0.5, 1) },
    op: ({ w }) => spectralNormalize(w!, { ...uv, axis: 0, update: false }),
    backward: ({ w }, dy) => ({
      w: spectralNormBackward({ w: w!, rows: 3, cols: 8, ...still, training: false }, dy, f64).dw,
    }),
  },
];

/** Gradient of [3, 1] expanded to [2, 3, 4]. */
function reduceBackwardSum(dy: Data): Float64Array {
  const dx = new Float64Array(3);
  for (let i = 0; i < dy.length; i++) dx[Math.floor(i / 4) % 3]! += dy[i]!;
  return dx;
}

describe('second derivatives against central differences', () => {
  test.each(cases)('$name, twice differentiated', async ({ inputs, op, backward }) => {
    const leaves = Object.fromEntries(
      Object.entries(inputs).map(([key, input]) => [key, leaf(tape, input, key)]),
    );
    const { shape } = gpu.scope(() => op(leaves));
    const upstream = randomInput(shape, 77, 0.5, 1.5);
    const dy = leaf(tape, upstream, 'dy');
    const body = () => {
      const { first, second } = secondOrder(() => op(leaves), Object.values(leaves), dy);
      return [...first, ...second];
    };
    const results = await eagerly(gpu, body);
    const data: Named = Object.fromEntries(
      Object.entries(inputs).map(([key, input]) => [key, Float64Array.from(input.data)]),
    );
    const expectedFirst = Object.values(backward(data, upstream.data));
    const { second, noise } = secondReference(backward, data, Float64Array.from(upstream.data));
    const terms = Math.max(count(shape), ...Object.values(inputs).map((x) => count(x.shape)));
    const shapes = [...Object.values(inputs).map((x) => x.shape), shape];
    expectedFirst.forEach((expected, i) => {
      const limit = secondBudget(expectedFirst, { terms });
      expectTensorClose(results[i]!, { shape: shapes[i]!, data: expected }, limit, `gradient ${i}`);
    });
    const limit = secondBudget(second, { terms, noise });
    second.forEach((expected, i) => {
      const found = results[expectedFirst.length + i]!;
      expectTensorClose(
        found,
        { shape: shapes[i]!, data: expected },
        limit,
        `second gradient ${i}`,
      );
    });
    expect(bitsOf(await replayed(gpu, body, 2))).toEqual(bitsOf(results));
  });
});

test('gradients: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
