// Elementwise ops and reductions: against the float64 references, values, gradients, and replay against eager.
import { describe, expect, test } from 'vitest';
import { to } from '../../src/autograd/cast.ts';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import * as pointwiseOps from '../../src/ops/pointwise.ts';
import { amax, mean, sum } from '../../src/ops/reduce.ts';
import {
  divideAllowance,
  expAllowance,
  logAllowance,
  sqrtAllowance,
  tanhAllowance,
} from '../reference/naive.ts';
import {
  type ArithmeticName,
  arithmeticNames,
  binary,
  binaryBackward,
  type PointwiseName,
  pointwiseNames,
  unary,
  unaryBackward,
} from '../reference/pointwise.ts';
import { reduce, reduceBackward, reducedShape } from '../reference/reduce.ts';
import { broadcastShape } from '../reference/shape.ts';
import { eachCase } from '../support/cases.ts';
import { openTestGpu } from '../support/device.ts';
import { count, type OpCase, randomInput } from '../support/ops.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

const domains: Partial<Record<PointwiseName, [number, number]>> = {
  log: [0.1, 4],
  sqrt: [0.1, 4],
  rsqrt: [0.1, 4],
  reciprocal: [0.5, 3],
};
/** Roundings to f16 before a gradient's last, by the largest factor that stands before them. */
const between: Partial<Record<PointwiseName, number>> = {
  sqrt: 2 ** -10 * 1.6,
  rsqrt: 5 * 2 ** -10 * 16,
  reciprocal: 3 * 2 ** -10 * 4,
  exp: 2 ** -10 * Math.exp(4),
  tanh: 2 * 2 ** -10,
  sigmoid: 2 ** -10,
  softplus: 2 ** -10,
};
const allowances: Partial<Record<PointwiseName, number>> = {
  tanh: tanhAllowance,
  sigmoid: expAllowance(4) + divideAllowance(1),
  softplus: expAllowance(4) + logAllowance(4),
  exp: expAllowance(4, Math.exp(4)),
  log: logAllowance(4) + divideAllowance(10),
  sqrt: sqrtAllowance(4) + divideAllowance(4),
  rsqrt: 3 * 16 * sqrtAllowance(4),
  reciprocal: 4 * divideAllowance(4),
};

each(
  'elementwise, one input',
  pointwiseNames.flatMap((name) => {
    const [low, high] = domains[name] ?? [-4, 4];
    return ([[1], [16, 3, 7], [2, 5, 4, 4]] as const).map((shape): OpCase => {
      const slope = 0.1;
      const op = (x: Tensor) =>
        name === 'leakyRelu' ? pointwiseOps.leakyRelu(x, slope) : pointwiseOps[name](x);
      return {
        name: `${name} [${shape.join(', ')}]`,
        inputs: { x: randomInput(shape, 1, low, high) },
        op: ({ x }) => op(x!),
        forward: ({ x }, r) => ({ shape, data: unary(name, { x: x!, slope }, r) }),
        backward: ({ x }, dy, r) => ({ x: unaryBackward(name, { x: x!, slope }, dy, r).dx }),
        allowance: allowances[name] ?? 0,
        halves: { between: between[name] ?? 0 },
      };
    });
  }),
);

const pairs: readonly [number[], number[]][] = [
  [
    [3, 5],
    [3, 5],
  ],
  [[4, 7], [7]],
  [
    [16, 3, 2, 2],
    [1, 3, 1, 1],
  ],
  [
    [2, 1, 3],
    [5, 1],
  ],
  [[2, 3], []],
  [[1], [4, 6]],
];

/** Products are rounded to f16 before a broadcast side adds them up: so many, of up to 1; quotients thrice, of up to 4. */
function roundedTerms(name: ArithmeticName, [a, b]: readonly [number[], number[]]): number {
  const terms = count(broadcastShape(a, b)) / Math.min(count(a), count(b));
  if (name === 'div') return 3 * terms * 4 * 2 ** -10;
  return name === 'mul' && terms > 1 ? terms * 2 ** -10 : 0;
}

each(
  'elementwise, two inputs',
  arithmeticNames.flatMap((name: ArithmeticName) =>
    pairs.map(([shapeA, shapeB]): OpCase => {
      const shapes = { shapeA, shapeB };
      const size = count(broadcastShape(shapeA, shapeB));
      const isBroadcast = (shape: number[]) => count(shape) < size;
      const apart = name === 'div' ? ([0.5, 2] as const) : ([-1, 1] as const);
      return {
        name: `${name} [${shapeA.join(', ')}] and [${shapeB.join(', ')}]`,
        inputs: { a: randomInput(shapeA, 1), b: randomInput(shapeB, 2, ...apart) },
        op: ({ a, b }) => pointwiseOps[name](a!, b!),
        forward: ({ a, b }, r) => ({
          shape: broadcastShape(shapeA, shapeB),
          data: binary(name, { a: a!, b: b!, ...shapes }, r),
        }),
        backward: ({ a, b }, dy, r) => {
          const { da, db } = binaryBackward(name, { a: a!, b: b!, ...shapes }, dy, r);
          return { a: da, b: db };
        },
        allowance: name === 'div' ? 24 * divideAllowance(4) : 0,
        halves: {
          between: roundedTerms(name, [shapeA, shapeB]),
          weights: [...(isBroadcast(shapeA) ? ['a'] : []), ...(isBroadcast(shapeB) ? ['b'] : [])],
        },
      };
    }),
  ),
);

describe('elementwise, host numbers and no gradients', () => {
  const x = tensor(tape, [-2, -0.5, 0, 0.5, 3], [5], { label: 'x', requiresGrad: true });
  const p = pointwiseOps;
  const same: Record<string, [() => Tensor, number[], number[]]> = {
    'affine(x, 2, 1)': [() => p.affine(x, 2, 1), [-3, 0, 1, 2, 7], [2, 2, 2, 2, 2]],
    'add(x, 3)': [() => p.add(x, 3), [1, 2.5, 3, 3.5, 6], [1, 1, 1, 1, 1]],
    'sub(x, 3)': [() => p.sub(x, 3), [-5, -3.5, -3, -2.5, 0], [1, 1, 1, 1, 1]],
    'mul(x, −4)': [() => p.mul(x, -4), [8, 2, 0, -2, -12], [-4, -4, -4, -4, -4]],
    'div(x, 4)': [
      () => p.div(x, 4),
      [-0.5, -0.125, 0, 0.125, 0.75],
      [0.25, 0.25, 0.25, 0.25, 0.25],
    ],
    // ties share the gradient
    'maximum(x, 0)': [() => p.maximum(x, 0), [0, 0, 0, 0.5, 3], [0, 0, 0.5, 1, 1]],
    'minimum(x, 0.5)': [() => p.minimum(x, 0.5), [-2, -0.5, 0, 0.5, 0.5], [1, 1, 1, 0.5, 0]],
  };
  test.each(Object.entries(same))('%s is exact', async (_name, [op, values, gradients]) => {
    const y = op();
    expect([...(await y.read())]).toEqual(values);
    expect([...(await grad([sum(y)], [x])[0]!.read())]).toEqual(gradients);
  });

  test('step and greater are 0 or 1 and carry no gradient', async () => {
    expect([...(await p.step(x).read())]).toEqual([0, 0, 0, 1, 1]);
    expect([...(await p.step(x, 0.25).read())]).toEqual([0.25, 0.25, 0.25, 1, 1]);
    expect([...(await p.greater(x, 0).read())]).toEqual([0, 0, 0, 1, 1]);
    expect(p.step(x).requiresGrad).toBe(false);
    expect(p.greater(x, 0).requiresGrad).toBe(false);
  });

  test('a number beside a tensor leaks no memory', () => {
    const before = gpu.pool.stats().liveBytes;
    for (let i = 0; i < 3; i++) gpu.scope(() => p.maximum(x, i));
    expect(gpu.pool.stats().liveBytes).toBe(before);
  });
});

test.skipIf(!gpu.features.has('shader-f16'))(
  'of f16: what passes 65504 is infinite, NaN stays, and a sum is f32',
  async () => {
    const x = tensor(tape, [300, -300, NaN, 200, 0.5], [5], { dtype: 'f16', requiresGrad: true });
    const y = pointwiseOps.mul(x, pointwiseOps.abs(x));
    expect([...(await y.read())]).toEqual([Infinity, -Infinity, NaN, 40000, 0.25]);
    const positive = pointwiseOps.relu(y);
    expect([...(await positive.read())]).toEqual([Infinity, 0, NaN, 40000, 0.25]);
    const many = tensor(tape, new Float32Array(9).fill(40000), [9], { dtype: 'f16' });
    const total = sum(many);
    expect([total.dtype, await total.item()]).toEqual(['f32', 360000]);
    // A bias that was copied to f16 gets the sum as it is.
    const bias = tensor(tape, [0.5], [1], { requiresGrad: true });
    const shifted = pointwiseOps.relu(pointwiseOps.add(many, to(bias, 'f16')));
    const [gradient] = grad([shifted], [bias], { gradOutputs: [many] });
    expect([...(await gradient!.read())]).toEqual([360000]);
    // A number that was computed in f16 goes on in f16.
    const [half] = grad([shifted], [bias], { gradOutputs: [pointwiseOps.affine(many, 0.01, 0)] });
    expect([half!.dtype, await half!.item()]).toEqual(['f32', 3600]);
  },
);

const reductions: readonly [number[], number[] | undefined][] = [
  [[3, 5], undefined],
  [[16, 7], [1]],
  [[7, 5], [0]],
  [
    [2, 3, 4, 5],
    [0, 2, 3],
  ],
  [
    [4, 5, 7],
    [0, 2],
  ],
  [
    [2, 3, 2, 3, 2],
    [0, 2, 4],
  ],
  [[2, 11, 3], [-2]],
  [[1], [0]],
  [[2, 1031], [1]],
];
each(
  'reductions',
  (['sum', 'mean', 'max'] as const).flatMap((name) =>
    reductions.flatMap(([shape, axes]) =>
      [false, true].map((keepdim): OpCase => {
        const op = { sum, mean, max: amax }[name];
        const at = (axes ?? shape.map((_d, i) => i)).map((a) => (a < 0 ? a + shape.length : a));
        const kept = reducedShape(shape, at);
        const squeezed = keepdim ? kept : shape.filter((_d, i) => !at.includes(i));
        // values on a coarse grid: some maxima are ties
        const data = randomData(count(shape), 3, -4, 4).map((v) =>
          name === 'max' ? Math.round(v) : v,
        );
        return {
          name: `${name} [${shape.join(', ')}] over ${axes?.join(', ') ?? 'all'}${keepdim ? ', kept' : ''}`,
          inputs: { x: { shape, data } },
          op: ({ x }) => op(x!, axes, { keepdim }),
          forward: ({ x }, r) => ({
            shape: squeezed,
            data: reduce(name, { x: x!, shape, axes: at }, r),
          }),
          backward: ({ x }, dy, r) => ({
            x: reduceBackward(name, { x: x!, shape, axes: at }, dy, r).dx,
          }),
          allowance: name === 'max' ? divideAllowance(1) : 0,
          halves: name === 'max' ? {} : { result: 'f32' },
        };
      }),
    ),
  ),
);

test('elementwise ops and reductions: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
