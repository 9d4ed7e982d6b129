// Top-k attention against float64 loops: values, gradients, second gradients, ties, the same bits, what it keeps.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { empty, tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { topkForwardLadder } from '../../src/kernels/topk-attention.ts';
import { attention } from '../../src/ops/attention.ts';
import { slice } from '../../src/ops/layout.ts';
import { sum } from '../../src/ops/reduce.ts';
import { topkAttention } from '../../src/ops/topk-attention.ts';
import { f64, softmaxAllowance, type Round } from '../reference/naive.ts';
import {
  chosenKeys,
  topkAttention as reference,
  topkAttentionBackward,
  type TopkAttention,
} from '../reference/topk-attention.ts';
import { eachCase } from '../support/cases.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute } from '../support/execute.ts';
import { type Named, type OpCase, bitsOf, eagerly, leaf, randomInput } from '../support/ops.ts';
import { secondBudget, secondOrder, secondReference } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const scale = 0.5;

interface Sizes {
  readonly B: number;
  readonly Nq: number;
  readonly Nk: number;
  readonly DK: number;
  readonly DV: number;
  readonly top: number;
  readonly halves?: boolean;
}

function caseOf(sizes: Sizes, layout: 'channel' | 'sequence'): OpCase {
  const channelMajor = layout === 'channel';
  const { B, Nq, Nk, DK, DV, top, halves } = sizes;
  const shapeOf = (n: number, d: number) => (channelMajor ? [B, d, n] : [B, n, d]);
  const of = (d: Named): TopkAttention => ({
    ...{ q: d['q']!, k: d['k']!, v: d['v']!, ...sizes, scale, channelMajor },
  });
  return {
    name: `${layout}-major, batch ${B}, ${Nq} queries of ${DK}, ${top} of ${Nk} values of ${DV}`,
    inputs: {
      q: randomInput(shapeOf(Nq, DK), 1, -2, 2),
      k: randomInput(shapeOf(Nk, DK), 2, -2, 2),
      v: randomInput(shapeOf(Nk, DV), 3),
    },
    op: ({ q, k, v }) => topkAttention(q!, k!, v!, { layout, scale, k: top }),
    forward: (d, r: Round) => ({ shape: shapeOf(Nq, DV), data: reference(of(d), r) }),
    backward: (d, dy, r) => {
      const { dq, dk, dv } = topkAttentionBackward(of(d), dy, r);
      return { q: dq, k: dk, v: dv };
    },
    // As attention's: dS is a difference of products of weights, summed over DV and then over keys of up to 2.
    allowance: 8 * DV * softmaxAllowance(top),
    ...(halves === true ? { halves: {} } : {}),
  };
}

const sizes: readonly Sizes[] = [
  { B: 1, Nq: 1, Nk: 1, DK: 1, DV: 1, top: 1 },
  { B: 2, Nq: 5, Nk: 7, DK: 2, DV: 4, top: 3 },
  { B: 3, Nq: 67, Nk: 33, DK: 5, DV: 20, top: 3, halves: true },
  { B: 2, Nq: 16, Nk: 3, DK: 3, DV: 9, top: 3 },
];

eachCase(tape)(
  'top-k attention',
  (['channel', 'sequence'] as const).flatMap((layout) => sizes.map((s) => caseOf(s, layout))),
);

describe('top-k attention', () => {
  const whole = { q: [2, 3, 16], k: [2, 3, 16], v: [2, 9, 16] };
  const [q, k, v] = [whole.q, whole.k, whole.v].map((shape, i) =>
    leaf(tape, randomInput(shape, 10 + i, -2, 2)),
  ) as [Tensor, Tensor, Tensor];

  test('with all keys it is plain attention', async () => {
    const few = [k, v].map((t) => slice(t, 2, 0, 3)) as [Tensor, Tensor];
    const [some, all] = await eagerly(gpu, () => [
      topkAttention(q, ...few, { k: 3 }),
      attention(q, ...few),
    ]);
    expectClose(some!.data, all!.data, { abs: 8 * softmaxAllowance(3) }, 'k = Nk');
  });

  test('second gradients are those of central differences', async () => {
    const s = { B: 1, Nq: 4, Nk: 5, DK: 2, DV: 3, top: 3 };
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
      const [q0, k0, v0] = leaves;
      const f = () => topkAttention(q0!, k0!, v0!, { scale, k: s.top });
      return secondOrder(f, leaves, leaf(tape, dy, 'dy')).second;
    });
    const limit = secondBudget(second, { terms: 16, allowance: 8 * softmaxAllowance(3), noise });
    second.forEach((wanted, i) => {
      expectClose(found[i]!.data, wanted, limit, `second gradient ${i}`);
    });
  });

  test('of equal scores the lowest keys are chosen, wherever they stand', async () => {
    // Scores 1 0 1 1 0 1 2 1: of five ones, those of keys 0 and 2 remain beside the two; values name their key.
    const key = [1, 0, 1, 1, 0, 1, 2, 1];
    const o = { q: [1], k: key, v: key.map((_s, j) => j), B: 1, Nq: 1, Nk: 8, DK: 1, DV: 1 };
    const rest = { scale: 1, channelMajor: true, top: 3 };
    expect(chosenKeys({ ...o, ...rest }, f64)).toEqual([[6, 0, 2]]);
    const of = (data: readonly number[]) =>
      tensor(tape, Float32Array.from(data), [1, 1, data.length]);
    const [found] = await eagerly(gpu, () => [topkAttention(of(o.q), of(o.k), of(o.v), { k: 3 })]);
    const [two, one] = [Math.exp(0), Math.exp(-1)];
    const wanted = (6 * two + 2 * one) / (two + 2 * one);
    expectClose(found!.data, [wanted], { abs: 6 * softmaxAllowance(3) }, 'ties');
  });

  test('gives the same bits ten times, gradients of crowded keys too', async () => {
    const none = tensor(tape, new Float32Array(96), [2, 3, 16]);
    const body = () => [
      ...grad([sum(topkAttention(q, k, v, { k: 3 }))], [q, k, v]),
      // every score is equal: all queries crowd on three keys
      ...grad([sum(topkAttention(q, none, v, { k: 3 }))], [v]),
    ];
    const first = bitsOf(await eagerly(gpu, body));
    for (let i = 0; i < 9; i++) {
      expect(bitsOf(await eagerly(gpu, body))).toEqual(first);
    }
  });

  test.each(['channel', 'sequence'] as const)(
    'with keys in workgroup memory it chooses the same keys by the same bits, %s-major',
    async (layout) => {
      // More than a workgroup of queries, and more dims than a tile.
      const dims = { B: 2, Nq: 70, Nk: 21, DK: 35, DV: 1, scale, layout, top: 3 };
      const [a, b, c] = [70 * 35, 21 * 35, 21].map((n, i) =>
        Float32Array.from(randomInput([2, n], 30 + i, -2, 2).data),
      ) as [Float32Array, Float32Array, Float32Array];
      const made = { out: 2 * 70, index: 2 * 3 * 70, weight: 2 * 3 * 70 };
      const [threads, tiles] = await Promise.all(
        topkForwardLadder.rungs.map((rung) =>
          execute(
            gpu,
            { q: a, k: b, v: c, ...made },
            (s) => {
              rung.run(gpu, { ...dims, ...s });
            },
            ['index', 'weight', 'out'],
          ),
        ),
      );
      for (const name of ['index', 'weight', 'out'] as const) {
        expect(new Uint32Array(tiles![name].buffer)).toEqual(
          new Uint32Array(threads![name].buffer),
        );
      }
      expect(new Set(new Uint32Array(tiles!.index.buffer)).size).toBeGreaterThan(3);
    },
  );

  test('a NaN in a query makes its row NaN and no other', async () => {
    const data = Float32Array.from(randomInput([1, 1, 4], 5).data);
    data[2] = NaN;
    const [found] = await eagerly(gpu, () => {
      const x = tensor(tape, data, [1, 1, 4]);
      const fine = leaf(tape, randomInput([1, 1, 4], 6));
      return [topkAttention(x, fine, fine, { k: 3 })];
    });
    expect([...found!.data].map(Number.isNaN)).toEqual([false, false, true, false]);
  });

  test('of 16384 positions it allocates nothing of their square, gradients included', () => {
    const N = 16_384;
    const capture = gpu.capture(() => {
      const inputs = [4, 4, 5].map((d) => empty(tape, [1, d, N], { requiresGrad: true }));
      const [a, b, c] = inputs as [Tensor, Tensor, Tensor];
      return grad([sum(topkAttention(a, b, c, { k: 3 }))], inputs).map((t) => t.storage);
    });
    const held = capture.dispatches.flatMap((d) => d.storages.map(({ bytes }) => bytes));
    // 32 chunks of counts are the largest
    expect(Math.max(...held)).toBe(4 * 32 * N);
  });

  test.each([0, 1.5, 17, 65])('k of %s is refused', (top) => {
    expect(() => topkAttention(q, k, v, { k: top })).toThrow(
      `topkAttention: k is ${top} of 16 keys (key is [2, 3, 16]); it must be a whole number from 1 to 16`,
    );
  });
});

test('top-k attention wrote nothing outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
