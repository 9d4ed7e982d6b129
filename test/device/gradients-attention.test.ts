// Derivatives of attention to second order, and the gradient penalty (R1) through a discriminator that has it.
import { beforeAll, describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { attention } from '../../src/ops/attention.ts';
import * as p from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { type GoldenCase, loadGolden, loadGoldenCases } from '../golden/load.ts';
import { type Attention, attentionBackward } from '../reference/attention.ts';
import { budget, f32, f64, maxAbs, softmaxAllowance } from '../reference/naive.ts';
import { makeNet, smallDiscriminator as referenceDiscriminator } from '../reference/sagan.ts';
import { expectClose, expectTensorClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { bitsOf, eagerly, leaf, randomInput, replayed } from '../support/ops.ts';
import { randomData } from '../support/random.ts';
import { secondBudget, secondOrder } from '../support/second.ts';
import { loadPart, smallDiscriminator } from '../support/small-sagan.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

interface Params extends Omit<Attention, 'q' | 'k' | 'v'> {
  readonly inputs: readonly string[];
}

describe('attention against PyTorch', () => {
  const cases = loadGoldenCases<Params>('double_backward').filter(({ name }) =>
    name.startsWith('attention'),
  );
  test.each(cases)('$name, twice differentiated', async (golden: GoldenCase<Params>) => {
    const { inputs, scale, channelMajor } = golden.params;
    expect(inputs).toEqual(['q', 'k', 'v']);
    const [q, k, v, dy] = [...inputs, 'dy'].map((name) =>
      leaf(tape, golden.tensors.get(name)!, name),
    );
    const layout = channelMajor ? ('channel' as const) : ('sequence' as const);
    const body = () => {
      const { y, first, second } = secondOrder(
        () => attention(q!, k!, v!, { layout, scale }),
        [q!, k!, v!],
        dy!,
      );
      return [y, ...first, ...second];
    };
    const results = await eagerly(gpu, body);
    const names = [
      'y',
      ...inputs.map((name) => `grad.${name}`),
      ...[...inputs, 'dy'].map((name) => `second.${name}`),
    ];
    const allowance = softmaxAllowance(golden.params.Nk);
    for (const order of ['y', 'grad.', 'second.']) {
      const own = names.filter((name) => name.startsWith(order));
      const data = own.map((name) => golden.get(name));
      const limit = secondBudget(data, { terms: golden.params.Nq * golden.params.DV, allowance });
      for (const name of own) {
        const found = results[names.indexOf(name)]!;
        expectTensorClose(found, golden.tensors.get(name)!, limit, name);
      }
    }
    expect(bitsOf(await replayed(gpu, body, 2))).toEqual(bitsOf(results));
  });
});

describe('the fused kernel and its composition', () => {
  const sizes = { B: 4, Nq: 9, Nk: 5, DK: 3, DV: 7 };
  const inputs = {
    q: randomInput([4, 3, 9], 1),
    k: randomInput([4, 3, 5], 2),
    v: randomInput([4, 7, 5], 3),
  };
  const [q, k, v] = [leaf(tape, inputs.q), leaf(tape, inputs.k), leaf(tape, inputs.v)];
  const upstream = randomInput([4, 7, 9], 4);
  const dy = leaf(tape, upstream);

  test('give the same gradients, within what float32 loses', async () => {
    const o: Attention = {
      ...{ q: inputs.q.data, k: inputs.k.data, v: inputs.v.data, ...sizes },
      ...{ scale: 1, channelMajor: true },
    };
    const gradients = (createGraph: boolean) => () =>
      grad([attention(q, k, v)], [q, k, v], { gradOutputs: [dy], createGraph });
    const [exact, naive] = [
      attentionBackward(o, upstream.data, f64),
      attentionBackward(o, upstream.data, f32),
    ];
    for (const createGraph of [false, true]) {
      const found = await eagerly(gpu, gradients(createGraph));
      (['dq', 'dk', 'dv'] as const).forEach((name, i) => {
        const allowance = 8 * softmaxAllowance(sizes.Nk);
        const limit = budget(exact[name], naive[name], { allowance });
        expectClose(found[i]!.data, exact[name], limit, `${name}, createGraph ${createGraph}`);
      });
    }
  });

  test('one tensor as query, key and value gets each gradient once', async () => {
    const data = randomInput([2, 3, 6], 5);
    const x = leaf(tape, data, 'x');
    const [a, b, c] = [leaf(tape, data), leaf(tape, data), leaf(tape, data)];
    const up = leaf(tape, randomInput([2, 3, 6], 6));
    for (const createGraph of [false, true]) {
      const options = { gradOutputs: [up], createGraph };
      const [together] = grad([attention(x, x, x)], [x], options);
      const apart = grad([attention(a, b, c)], [a, b, c], options);
      const expected = await apart.reduce((s, g) => p.add(s, g)).read();
      const limit = { abs: 16 * 2 ** -24 * maxAbs(expected) };
      expectClose(await together!.read(), expected, limit, `createGraph ${createGraph}`);
    }
  });

  test('second derivatives of x attending to itself are the sum of those of three tensors', async () => {
    const data = randomInput([2, 3, 6], 5);
    const up = leaf(tape, randomInput([2, 3, 6], 6));
    const ofGradient = (g: Tensor) => sum(p.square(g));
    const x = leaf(tape, data, 'x');
    const [g] = grad([attention(x, x, x)], [x], { gradOutputs: [up], createGraph: true });
    const [together] = grad([ofGradient(g!)], [x]);
    const three = [leaf(tape, data), leaf(tape, data), leaf(tape, data)] as const;
    const gs = grad([attention(...three)], three, { gradOutputs: [up], createGraph: true });
    const apart = grad([ofGradient(gs.reduce((s, t) => p.add(s, t)))], three);
    const expected = await apart.reduce((s, t) => p.add(s, t)).read();
    const limit = { abs: 64 * 2 ** -24 * maxAbs(expected) };
    expectClose(await together!.read(), expected, limit, 'second derivative');
  });
});

describe('R1 through a discriminator with convolutions, spectral norm and attention', () => {
  const golden = loadGolden('sagan_step');
  const state = [...golden]
    .filter(([key]) => key.startsWith('d.start.'))
    .map(([key, t]) => [key.slice('d.start.'.length), t.data] as const);
  const net = smallDiscriminator(tape);
  loadPart(net, golden, 'd.start.');
  net.eval();
  const names = [...net.namedParameters()].map(([name]) => name);

  /** Σ |d score / d image|² of the reference, with u and v still; parameters may be moved along a direction. */
  function penalty(images: Float64Array, moved: ReadonlyMap<string, Float64Array>): number {
    const start = state.map(([key, data]) => [key, moved.get(key) ?? data] as const);
    const layer = referenceDiscriminator(makeNet(start, f64, true), images);
    const dx = layer.back(new Float64Array(layer.y.length).fill(1));
    return dx.reduce((s, g) => s + g * g, 0);
  }

  /** R1 and its gradients by every parameter, as a training step would take them. */
  const body = (images: Tensor) => () => {
    const [g] = grad([sum(net.forward(images))], [images], { createGraph: true });
    const r1 = sum(p.square(g!));
    return [r1, ...grad([r1], net.parameters(), { allowUnused: true })];
  };

  let reals: Float32Array;
  beforeAll(() => {
    reals = golden.get('real')!.data;
  });

  // One public engine was right at 16 images and wrong at 1, 2 and 4.
  test.each([1, 2, 4, 16])(
    'batch %d: the penalty and every parameter’s gradient',
    async (batch) => {
      const data = reals.slice(0, batch * 3 * 256);
      const images = leaf(tape, { shape: [batch, 3, 16, 16], data }, 'images');
      const results = await eagerly(gpu, body(images));
      const exact = penalty(Float64Array.from(data), new Map());
      // 768·batch squares of gradients that each sum over at most 32·16 products in three layers
      const rel = 4 * 3 * 32 * 16 * 2 ** -24;
      expectClose(results[0]!.data, [exact], { abs: 0, rel }, 'R1');

      // Along a direction the difference quotient sums over all entries of all gradients.
      for (const seed of [1, 2]) {
        const directions = new Map(
          names.map((name, i) => {
            const start = state.find(([key]) => key === name)![1];
            return [name, randomData(start.length, 100 * seed + i)] as const;
          }),
        );
        // Small, so that no leaky relu crosses its kink on the way: there the penalty jumps.
        const eps = 1e-8;
        const at = (sign: number) =>
          penalty(
            Float64Array.from(data),
            new Map(
              state
                .filter(([key]) => directions.has(key))
                .map(([key, start]) => [
                  key,
                  Float64Array.from(start, (a, i) => a + sign * eps * directions.get(key)![i]!),
                ]),
            ),
          );
        const quotient = (at(1) - at(-1)) / (2 * eps);
        const terms = names.flatMap((name, k) =>
          Array.from(results[1 + k]!.data, (g, i) => g * directions.get(name)![i]!),
        );
        const size = Math.sqrt(terms.reduce((s, a) => s + a * a, 0));
        const found = terms.reduce((s, a) => s + a, 0);
        const noise = (4 * 2 ** -53 * exact) / eps;
        expectClose(
          [found],
          [quotient],
          { abs: rel * size + noise + 1e-7 * size },
          `direction ${seed}`,
        );
      }
      expect(bitsOf(await replayed(gpu, body(images), 2))).toEqual(bitsOf(results));
    },
  );

  test('a bias that no gradient of the image sees has a penalty gradient of 0', async () => {
    const images = leaf(tape, { shape: [2, 3, 16, 16], data: reals.slice(0, 2 * 768) }, 'images');
    const results = await eagerly(gpu, body(images));
    const last = results[1 + names.indexOf('last.0.bias')]!;
    expect([...last.data]).toEqual([0]);
  });
});

test('attention gradients: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
  expect(tensor(tape, [1], [1]).size).toBe(1);
});
