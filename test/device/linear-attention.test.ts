// Linear attention against float64 loops over the map that it never forms: values, gradients, second gradients, memory.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { empty, tensor } from '../../src/autograd/tensor.ts';
import { linearAttention, linearAttentionMap } from '../../src/ops/linear-attention.ts';
import { matmul } from '../../src/ops/matmul.ts';
import { sum } from '../../src/ops/reduce.ts';
import {
  linearAttention as reference,
  linearAttentionBackward,
  type LinearAttention,
} from '../reference/linear-attention.ts';
import { divideAllowance, expAllowance, f64 } from '../reference/naive.ts';
import { eachCase } from '../support/cases.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { type Named, type OpCase, eagerly, leaf, randomInput } from '../support/ops.ts';
import { secondBudget, secondOrder, secondReference } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

/** Features of |x| ≤ 2 are e⁻² to 3: a weight is off by what two of them are, and by its quotient. */
const weightAllowance = 2 * expAllowance(2) + divideAllowance(1);

function caseOf(
  sizes: Readonly<Record<'B' | 'Nq' | 'Nk' | 'DK' | 'DV', number>>,
  layout: 'channel' | 'sequence',
): OpCase {
  const channelMajor = layout === 'channel';
  const { B, Nq, Nk, DK, DV } = sizes;
  const shapeOf = (n: number, d: number) => (channelMajor ? [B, d, n] : [B, n, d]);
  const of = (d: Named): LinearAttention => ({
    ...{ q: d['q']!, k: d['k']!, v: d['v']!, ...sizes, channelMajor },
  });
  return {
    name: `${layout}-major, batch ${B}, ${Nq} queries of ${DK}, ${Nk} values of ${DV}`,
    inputs: {
      q: randomInput(shapeOf(Nq, DK), 1, -2, 2),
      k: randomInput(shapeOf(Nk, DK), 2, -2, 2),
      v: randomInput(shapeOf(Nk, DV), 3),
    },
    op: ({ q, k, v }) => linearAttention(q!, k!, v!, { layout }),
    forward: (d, r) => ({ shape: shapeOf(Nq, DV), data: reference(of(d), r) }),
    backward: (d, dy, r) => {
      const { dq, dk, dv } = linearAttentionBackward(of(d), dy, r);
      return { q: dq, k: dk, v: dv };
    },
    // As softmax attention's: products of weights summed over DV and then over positions.
    allowance: 8 * DV * weightAllowance,
    halves: {},
  };
}

const sizes = [
  { B: 1, Nq: 1, Nk: 1, DK: 1, DV: 1 },
  { B: 2, Nq: 5, Nk: 7, DK: 2, DV: 4 },
  { B: 3, Nq: 67, Nk: 33, DK: 5, DV: 20 },
];

eachCase(tape)(
  'linear attention',
  (['channel', 'sequence'] as const).flatMap((layout) => sizes.map((s) => caseOf(s, layout))),
);

describe('linear attention', () => {
  test('second gradients are those of central differences', async () => {
    const s = { B: 1, Nq: 4, Nk: 5, DK: 2, DV: 3 };
    const one = caseOf(s, 'channel');
    const inputs = Object.fromEntries(
      Object.entries(one.inputs).map(([key, { data }]) => [key, Float64Array.from(data)]),
    );
    const dy = randomInput([s.B, s.DV, s.Nq], 9);
    const { second, noise } = secondReference(
      (t, g) => one.backward(t, g, f64),
      inputs,
      Float64Array.from(dy.data),
    );
    const leaves = Object.entries(one.inputs).map(([key, input]) => leaf(tape, input, key));
    const found = await eagerly(gpu, () => {
      const [q, k, v] = leaves;
      return secondOrder(() => linearAttention(q!, k!, v!), leaves, leaf(tape, dy, 'dy')).second;
    });
    const limit = secondBudget(second, { terms: 16, allowance: 8 * weightAllowance, noise });
    second.forEach((wanted, i) => {
      expectClose(found[i]!.data, wanted, limit, `second gradient ${i}`);
    });
  });

  test('the map of a viewer gathers the same values', async () => {
    const shapes = [
      [2, 3, 5],
      [2, 3, 7],
      [2, 4, 7],
    ];
    const [q, k, v] = shapes.map((shape, i) => leaf(tape, randomInput(shape, 20 + i, -2, 2)));
    const [direct, gathered] = await eagerly(gpu, () => [
      linearAttention(q!, k!, v!),
      matmul(v!, linearAttentionMap(q!, k!), { transB: true }),
    ]);
    expectClose(gathered!.data, direct!.data, { abs: 16 * weightAllowance }, 'map');
  });

  test('far logits neither overflow nor vanish', async () => {
    const of = (data: readonly number[]) =>
      tensor(tape, Float32Array.from(data), [1, 1, data.length]);
    const [found] = await eagerly(gpu, () => [
      linearAttention(of([1e4, -80]), of([-1e4, 1e4]), of([1, 2])),
    ]);
    expectClose(found!.data, [2, 2], { abs: 1e-6 }, 'far');
  });

  test('of 16384 positions it allocates nothing of their square, gradients included', () => {
    const N = 16_384;
    const capture = gpu.capture(() => {
      const inputs = [1, 2, 3].map(() => empty(tape, [1, 4, N], { requiresGrad: true }));
      const [q, k, v] = inputs;
      return grad([sum(linearAttention(q!, k!, v!))], inputs).map((t) => t.storage);
    });
    const largest = Math.max(
      ...capture.dispatches.flatMap((d) => d.storages.map(({ bytes }) => bytes)),
    );
    expect(largest).toBe(4 * 4 * N);
  });

  test('shapes that do not go together are refused', () => {
    const [q, k] = [leaf(tape, randomInput([1, 2, 3], 1)), leaf(tape, randomInput([1, 3, 3], 1))];
    expect(() => linearAttention(q, k, k)).toThrow(
      'linearAttention: query is [1, 2, 3], key [1, 3, 3], value [1, 3, 3] (channel-major); query and key widths must agree: 2 ≠ 3',
    );
  });
});

test('linear attention wrote nothing outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
