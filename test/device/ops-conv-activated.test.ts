// conv2d with an activation: against the float64 references, and against conv2d followed by the activation.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { LeakyReLU, ReLU, Tanh } from '../../src/nn/activation.ts';
import { Conv2d } from '../../src/nn/conv.ts';
import { Sequential } from '../../src/nn/module.ts';
import { spectralNorm } from '../../src/nn/weighted.ts';
import { conv2d } from '../../src/ops/conv.ts';
import { activate, square } from '../../src/ops/pointwise.ts';
import type { Activation } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { HostRng } from '../../src/util/philox.ts';
import { conv2d as conv2dRef, conv2dBackward, conv2dSize } from '../reference/conv.ts';
import { eachCase } from '../support/cases.ts';
import { openTestGpu } from '../support/device.ts';
import { storedOn } from '../support/half.ts';
import { bitsOf, eagerly, leaf, randomInput, type OpCase } from '../support/ops.ts';
import { secondOrder } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

const activations: Record<string, { activation: Activation; slope: number }> = {
  relu: { activation: { name: 'relu' }, slope: 0 },
  // f16 holds the products with a power of two
  'leaky relu': { activation: { name: 'leakyRelu', negativeSlope: 0.25 }, slope: 0.25 },
  // too odd to be told by the sign of the result: by an op of its own
  'falling relu': { activation: { name: 'leakyRelu', negativeSlope: -0.5 }, slope: -0.5 },
};

each(
  'conv2d and activation',
  Object.entries(activations).flatMap(([role, { activation, slope }]) =>
    (
      [
        { N: 2, C: 3, H: 5, W: 7, K: 5, R: 3, S: 3, stride: [1, 1], pad: [1, 1] },
        { N: 4, C: 3, H: 8, W: 8, K: 7, R: 4, S: 4, stride: [2, 2], pad: [1, 1] },
        { N: 5, C: 5, H: 4, W: 4, K: 3, R: 4, S: 4, stride: [1, 1], pad: [0, 0] },
        { N: 3, C: 6, H: 5, W: 3, K: 2, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
      ] as const
    ).map((o): OpCase => {
      const { N, C, H, W, K, R, S, stride, pad } = o;
      const of = (d: Readonly<Record<string, Float64Array>>) => ({
        ...{ ...o, x: d['x']!, w: d['w']!, bias: d['b']! },
      });
      return {
        name: `${role}, N${N} ${C}→${K} ${H}×${W} window ${R}×${S}`,
        inputs: {
          x: randomInput([N, C, H, W], 1),
          w: randomInput([K, C, R, S], 2),
          b: randomInput([K], 3),
        },
        ...(slope < 0 ? {} : { halves: { inputs: ['x', 'w'], weights: ['w'] } }),
        op: ({ x, w, b }) => conv2d(x!, w!, { bias: b, stride, padding: pad, activation }),
        forward: (d, r) => ({
          shape: [N, K, ...conv2dSize(o)],
          data: conv2dRef(of(d), r).map((v) => (v > 0 ? v : r(slope * v))),
        }),
        backward: (d, dy, r) => {
          const y = conv2dRef(of(d), r);
          const past = y.map((v, i) => (v > 0 ? dy[i]! : r(slope * dy[i]!)));
          const { dx, dw, dbias } = conv2dBackward(of(d), past, r);
          return { x: dx, w: dw, b: dbias };
        },
      };
    }),
  ),
);

const options = { stride: 2, padding: 1 };
const image = randomInput([2, 3, 8, 8], 1);
const filter = randomInput([4, 3, 4, 4], 2);
const shift = randomInput([4], 3);

describe.each(Object.entries(activations))('%s', (_role, { activation, slope }) => {
  const inputs = [leaf(tape, image), leaf(tape, filter), leaf(tape, shift)] as const;
  const [x, w, bias] = inputs;

  test('value, gradients and their gradients have the bits of two ops', async () => {
    const dy = leaf(tape, randomInput([2, 4, 4, 4], 4));
    const results = (f: () => Tensor) =>
      eagerly(gpu, () => {
        const { y, first, second } = secondOrder(f, inputs, dy);
        return [y, ...first, ...second];
      });
    const joined = await results(() => conv2d(x, w, { ...options, bias, activation }));
    const apart = await results(() => activate(conv2d(x, w, { ...options, bias }), activation));
    expect(bitsOf(joined)).toEqual(bitsOf(apart));
  });

  test('a launch and a tensor less', async () => {
    const step = (f: () => Tensor) =>
      gpu.capture(() => {
        const y = f();
        return [y, ...grad([sum(square(y))], inputs)].map((t) => t.storage);
      });
    const joined = step(() => conv2d(x, w, { ...options, bias, activation }));
    const apart = step(() => activate(conv2d(x, w, { ...options, bias }), activation));
    const fused = slope < 0 ? 0 : 1;
    expect(apart.dispatches.length - joined.dispatches.length).toBe(fused);
    const { unplannedBytes } = apart.memory;
    const result = 4 * 2 * 4 * 4 * 4;
    expect(unplannedBytes - joined.memory.unplannedBytes).toBe(fused * result);
  });

  test.each(storedOn(gpu))('NaN stays NaN, and stops no gradient, in %s', async (dtype) => {
    const given = (values: readonly number[], shape: readonly number[]) =>
      tensor(tape, values, shape, { dtype, requiresGrad: true });
    const point = given([NaN, 2, -3, 0], [1, 1, 2, 2]);
    const one = given([1], [1, 1, 1, 1]);
    const y = conv2d(point, one, { activation });
    expect([...(await y.read())]).toEqual([NaN, 2, slope * -3 + 0, slope * 0]);
    const upstream = given([1, Infinity, 1, NaN], y.shape);
    const [dx] = grad([y], [point], { gradOutputs: [upstream] });
    const [apart] = grad([activate(conv2d(point, one), activation)], [point], {
      gradOutputs: [upstream],
    });
    expect([...(await dx!.read())]).toEqual([...(await apart!.read())]);
  });
});

test('a sequence gives a convolution the activation behind it, and leaves any other alone', async () => {
  const x = leaf(tape, image);
  const layers = () => {
    const rng = new HostRng(1);
    const conv = (from: number, to: number) =>
      new Conv2d(tape, from, to, { rng, kernelSize: 3, padding: 1 });
    return [
      new ReLU(tape),
      spectralNorm(conv(3, 4), { rng }),
      new LeakyReLU(tape, 0.2),
      new LeakyReLU(tape, 0.5),
      conv(4, 2),
      new Tanh(tape),
    ];
  };
  const apart = layers();
  const joined = new Sequential(tape, layers());
  const wanted = apart.reduce<Tensor>((h, layer) => layer.forward(h), x);
  expect(await joined.forward(x).read()).toEqual(await wanted.read());
  const launches = (body: () => Tensor) => gpu.capture(() => [body().storage]).dispatches.length;
  const before = launches(() => apart.reduce<Tensor>((h, layer) => layer.forward(h), x));
  expect(before - launches(() => joined.forward(x))).toBe(1);
  expect([...joined.namedParameters()].map(([name]) => name)).toEqual([
    ...['1.weight_orig', '1.bias', '4.weight', '4.bias'],
  ]);
});

test('convolutions and activations: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
