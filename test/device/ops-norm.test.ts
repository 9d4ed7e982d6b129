// Batch norm and spectral norm: against the float64 references, values, gradients, and replay against eager.
import { expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { LeakyReLU, ReLU, Tanh } from '../../src/nn/activation.ts';
import { Sequential } from '../../src/nn/module.ts';
import { BatchNorm2d } from '../../src/nn/norm.ts';
import { batchNorm } from '../../src/ops/norm.ts';
import { square } from '../../src/ops/pointwise.ts';
import type { Activation } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { spectralNormalize } from '../../src/ops/spectral.ts';
import { divideAllowance, sqrtAllowance } from '../reference/naive.ts';
import { batchNorm as batchNormRef, batchNormBackward } from '../reference/norm.ts';
import { permute as permuteRef } from '../reference/shape.ts';
import { spectralNorm, spectralNormBackward } from '../reference/spectral.ts';
import { eachCase } from '../support/cases.ts';
import { openTestGpu } from '../support/device.ts';
import { count, leaf, type OpCase, randomInput } from '../support/ops.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

each(
  'batch norm',
  (
    [
      { N: 2, C: 1, H: 1, W: 1, mean: 0 },
      { N: 4, C: 3, H: 5, W: 2, mean: 0 },
      { N: 16, C: 7, H: 2, W: 2, mean: 100 },
      { N: 16, C: 5, H: 1, W: 1, mean: 0 },
      { N: 1, C: 3, H: 4, W: 4, mean: 0 },
    ] as const
  ).flatMap(({ mean: centre, ...sizes }) =>
    [true, false].flatMap((training) =>
      [true, false].map((affine): OpCase => {
        const { N, C, H, W } = sizes;
        const shape = H * W === 1 ? [N, C] : [N, C, H, W];
        const running = {
          runningMean: randomData(C, 5).map((v) => Math.fround(v + centre)),
          runningVar: randomData(C, 6, 0.5, 2),
        };
        const of = (d: Readonly<Record<string, Float64Array>>) => ({
          ...{ ...sizes, ...running, training, x: d['x']! },
          ...(affine ? { gamma: d['gamma']!, beta: d['beta']! } : {}),
        });
        return {
          name: `${training ? 'training' : 'evaluation'} ${N}×${C}×${H}×${W} round ${centre}${affine ? ', scaled' : ''}`,
          inputs: {
            x: randomInput(shape, 1, centre - 2, centre + 2),
            ...(affine ? { gamma: randomInput([C], 2, 0.5, 1.5), beta: randomInput([C], 3) } : {}),
          },
          op: ({ x, gamma, beta }) =>
            batchNorm(x!, {
              ...{ weight: gamma, bias: beta, training },
              runningMean: tensor(tape, Float32Array.from(running.runningMean), [C]),
              runningVar: tensor(tape, Float32Array.from(running.runningVar), [C]),
            }),
          forward: (d, r) => ({ shape, data: batchNormRef(of(d), r).y }),
          backward: (d, dy, r) => {
            const { dx, dgamma, dbeta } = batchNormBackward(of(d), dy, r);
            return { x: dx, ...(affine ? { gamma: dgamma, beta: dbeta } : {}) };
          },
          // 1/√ and a division, on values of up to √(N·H·W) standard deviations
          allowance: 4 * sqrtAllowance(4) * Math.sqrt(N * H * W),
          halves: { inputs: ['x'] },
        };
      }),
    ),
  ),
);

each(
  'batch norm, scale or shift alone',
  (['gamma', 'beta'] as const).flatMap((role) =>
    [true, false].map((training): OpCase => {
      const [N, C, H, W] = [4, 3, 5, 2];
      const running = { runningMean: randomData(C, 5), runningVar: randomData(C, 6, 0.5, 2) };
      const of = (d: Readonly<Record<string, Float64Array>>) => ({
        ...{ N, C, H, W, ...running, training, x: d['x']!, [role]: d[role]! },
      });
      return {
        name: `${role}, ${training ? 'training' : 'evaluation'}`,
        inputs: { x: randomInput([N, C, H, W], 1, -2, 2), [role]: randomInput([C], 2, 0.5, 1.5) },
        op: ({ x, gamma, beta }) =>
          batchNorm(x!, {
            ...{ weight: gamma, bias: beta, training },
            runningMean: tensor(tape, Float32Array.from(running.runningMean), [C]),
            runningVar: tensor(tape, Float32Array.from(running.runningVar), [C]),
          }),
        forward: (d, r) => ({ shape: [N, C, H, W], data: batchNormRef(of(d), r).y }),
        backward: (d, dy, r) => {
          const { dx, dgamma, dbeta } = batchNormBackward(of(d), dy, r);
          return { x: dx, [role]: role === 'gamma' ? dgamma : dbeta };
        },
        allowance: 4 * sqrtAllowance(4) * Math.sqrt(N * H * W),
        halves: { inputs: ['x'] },
      };
    }),
  ),
);

const activations: Record<string, { activation: Activation; slope: number }> = {
  relu: { activation: { name: 'relu' }, slope: 0 },
  'leaky relu': { activation: { name: 'leakyRelu', negativeSlope: 0.1 }, slope: 0.1 },
  // too odd to be told by the sign of the result: by an op of its own
  'falling relu': { activation: { name: 'leakyRelu', negativeSlope: -0.5 }, slope: -0.5 },
};

each(
  'batch norm and activation',
  Object.entries(activations).flatMap(([role, { activation, slope }]) =>
    [
      [3, 5, 4, 4],
      [4, 3, 5, 3],
    ].flatMap(([N = 1, C = 1, H = 1, W = 1]) =>
      [true, false].flatMap((training) =>
        [true, false].map((affine): OpCase => {
          const running = { runningMean: randomData(C, 5), runningVar: randomData(C, 6, 0.5, 2) };
          const of = (d: Readonly<Record<string, Float64Array>>) => ({
            ...{ N, C, H, W, ...running, training, x: d['x']! },
            ...(affine ? { gamma: d['gamma']!, beta: d['beta']! } : {}),
          });
          return {
            name: `${role}, ${training ? 'training' : 'evaluation'} ${N}×${C}×${H}×${W}${affine ? ', scaled' : ''}`,
            inputs: {
              x: randomInput([N, C, H, W], 1, -2, 2),
              ...(affine
                ? { gamma: randomInput([C], 2, -1.5, 1.5), beta: randomInput([C], 3) }
                : {}),
            },
            op: ({ x, gamma, beta }) =>
              batchNorm(x!, {
                ...{ weight: gamma, bias: beta, training, activation },
                runningMean: tensor(tape, Float32Array.from(running.runningMean), [C]),
                runningVar: tensor(tape, Float32Array.from(running.runningVar), [C]),
              }),
            forward: (d, r) => {
              const { y } = batchNormRef(of(d), r);
              return { shape: [N, C, H, W], data: y.map((v) => (v > 0 ? v : r(slope * v))) };
            },
            backward: (d, dy, r) => {
              const { y } = batchNormRef(of(d), r);
              const past = y.map((v, i) => (v > 0 ? dy[i]! : r(slope * dy[i]!)));
              const { dx, dgamma, dbeta } = batchNormBackward(of(d), past, r);
              return { x: dx, ...(affine ? { gamma: dgamma, beta: dbeta } : {}) };
            },
            allowance: 4 * sqrtAllowance(4) * Math.sqrt(N * H * W),
            halves: { inputs: ['x'] },
          };
        }),
      ),
    ),
  ),
);

test('batch norm takes an activation into its own launches', async () => {
  const x = leaf(tape, randomInput([2, 4, 4, 4], 1));
  const running = () => tensor(tape, [1, 1, 1, 1], [4]);
  const launchesWith = async (activation: Activation | undefined) => {
    const options = { runningMean: running(), runningVar: running(), training: true };
    let result: Tensor[] = [];
    const capture = gpu.capture(() => {
      const y = batchNorm(x, { ...options, activation });
      result = [y, ...grad([sum(square(y))], [x])];
      return result.map((t) => t.storage);
    });
    (await capture.build()).run();
    return { count: capture.dispatches.length, values: await result[0]!.read() };
  };
  const plain = await launchesWith(undefined);
  for (const { activation, slope } of Object.values(activations)) {
    const found = await launchesWith(activation);
    expect(found.count - plain.count).toBe(slope < 0 ? 2 : 0);
    expect(found.values).toEqual(plain.values.map((v) => (v > 0 ? v : Math.fround(slope) * v + 0)));
  }
});

test('a sequence gives a norm the activation behind it, and leaves any other alone', async () => {
  const x = leaf(tape, randomInput([2, 3, 4, 4], 1));
  const layers = () => [
    new ReLU(tape),
    new BatchNorm2d(tape, 3),
    new LeakyReLU(tape, 0.2),
    new LeakyReLU(tape, 0.5),
    new BatchNorm2d(tape, 3),
    new Tanh(tape),
  ];
  const apart = layers();
  const wanted = apart.reduce<Tensor>((h, layer) => layer.forward(h), x);
  const joined = new Sequential(tape, layers());
  expect(await joined.forward(x).read()).toEqual(await wanted.read());
  expect([...joined.namedParameters()].map(([name]) => name)).toEqual([
    '1.weight',
    '1.bias',
    '4.weight',
    '4.bias',
  ]);
});

test('batch norm moves its running statistics in training, with the unbiased variance', async () => {
  const { shape, data } = randomInput([4, 3, 2, 2], 1, 98, 102);
  const start = { mean: [0, 50, 100], variance: [1, 2, 0.5] };
  const x = tensor(tape, Float32Array.from(data), shape);
  const runningMean = tensor(tape, start.mean, [3]);
  const runningVar = tensor(tape, start.variance, [3]);
  batchNorm(x, { runningMean, runningVar, training: true, momentum: 0.25 });
  const reference = batchNormRef(
    {
      ...{ x: data, N: 4, C: 3, H: 2, W: 2, training: true, momentum: 0.25 },
      ...{ runningMean: start.mean, runningVar: start.variance },
    },
    (v) => v,
  );
  const close = async (t: Tensor, wanted: Float64Array) => {
    (await t.read()).forEach((v, i) => {
      expect(Math.abs(v - wanted[i]!) / wanted[i]!).toBeLessThan(2 ** -19);
    });
  };
  await close(runningMean, reference.runningMean!);
  await close(runningVar, reference.runningVar!);
  batchNorm(x, { runningMean, runningVar, training: false });
  await close(runningMean, reference.runningMean!);
  await close(runningVar, reference.runningVar!);
});

each(
  'spectral norm',
  (
    [
      { shape: [7, 3, 2, 2], axis: 0 },
      { shape: [5, 4, 2, 2], axis: 1 },
      { shape: [1, 6], axis: 0 },
      { shape: [8, 1], axis: 0 },
    ] as const
  ).flatMap(({ shape, axis }) =>
    [true, false].map((update): OpCase => {
      const rows = shape[axis]!;
      const cols = count(shape) / rows;
      const unit = (x: Float64Array) => {
        const norm = Math.sqrt(x.reduce((s, a) => s + a * a, 0));
        return x.map((a) => Math.fround(a / norm));
      };
      const [u, v] = [unit(randomData(rows, 5, 0.1, 1)), unit(randomData(cols, 6, 0.1, 1))];
      // a transposed convolution's matrix has axis 1 for its rows
      const order = [axis, ...shape.map((_d, i) => i).filter((i) => i !== axis)];
      const moved = order.map((i) => shape[i]!);
      const back = order.map((_a, i) => order.indexOf(i));
      const of = (w: Float64Array, r: (x: number) => number) => ({
        ...{ w: permuteRef({ x: w, shape, order }, r), rows, cols, u, v, training: update },
      });
      const home = (x: Float64Array, r: (x: number) => number) =>
        permuteRef({ x, shape: moved, order: back }, r);
      return {
        name: `[${shape.join(', ')}] rows along ${axis}, ${update ? 'one iteration' : 'u and v still'}`,
        inputs: { w: randomInput(shape, 1) },
        stateful: update,
        op: ({ w }, dtype) =>
          spectralNormalize(w!, {
            u: tensor(tape, Float32Array.from(u), [rows]),
            v: tensor(tape, Float32Array.from(v), [cols]),
            ...{ axis, update, dtype },
          }),
        forward: ({ w }, r) => ({ shape, data: home(spectralNorm(of(w!, r), r).weight, r) }),
        backward: ({ w }, dy, r) => {
          const moving = permuteRef({ x: dy, shape, order }, r);
          return { w: home(spectralNormBackward(of(w!, r), moving, r).dw, r) };
        },
        allowance: 16 * divideAllowance(4),
        // what is normalised is f32
        halves: { inputs: [] },
      };
    }),
  ),
);

test('batch norm and spectral norm: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
