// Softmax and attention: against the float64 references, values, gradients, and replay against eager.
import { describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { attention } from '../../src/ops/attention.ts';
import { softmax } from '../../src/ops/softmax.ts';
import {
  type Attention,
  attention as attentionRef,
  attentionBackward,
} from '../reference/attention.ts';
import { softmaxAllowance } from '../reference/naive.ts';
import { softmax as softmaxRef, softmaxBackward } from '../reference/softmax.ts';
import { openTestGpu } from '../support/device.ts';
import { checkOp, type OpCase, randomInput } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

/** Runs cases one by one, each a test of its name. */
function each(family: string, cases: readonly OpCase[]): void {
  describe(family, () => {
    test.each(cases)('$name', async (check) => {
      await checkOp(tape, check);
    });
  });
}

each(
  'softmax',
  (
    [
      [1, 1],
      [16, 7],
      [2, 3, 8],
      [4, 130],
    ] as const
  ).flatMap((shape) =>
    [1, 1e4].map((size): OpCase => {
      const cols = shape.at(-1)!;
      const of = (x: Float64Array) => ({ x, rows: x.length / cols, cols });
      return {
        name: `[${shape.join(', ')}], logits of ±${size}`,
        inputs: { x: randomInput(shape, 1, -size, size) },
        op: ({ x }) => softmax(x!),
        forward: ({ x }, r) => ({ shape, data: softmaxRef(of(x!), r) }),
        backward: ({ x }, dy, r) => ({ x: softmaxBackward(of(x!), dy, r).dx }),
        // dx = y·(dy − Σ y·dy): two factors with y's own allowance, |dy| ≤ 1
        allowance: 3 * softmaxAllowance(cols),
      };
    }),
  ),
);

each(
  'attention',
  (['channel', 'sequence'] as const).flatMap((layout) =>
    (
      [
        { B: 1, Nq: 1, Nk: 1, DK: 1, DV: 1 },
        { B: 2, Nq: 5, Nk: 3, DK: 2, DV: 4 },
        { B: 4, Nq: 16, Nk: 16, DK: 2, DV: 16 },
        { B: 16, Nq: 16, Nk: 4, DK: 3, DV: 7 },
        { B: 2, Nq: 67, Nk: 33, DK: 8, DV: 20 },
      ] as const
    ).map((sizes): OpCase => {
      const channelMajor = layout === 'channel';
      const scale = 0.5;
      const { B, Nq, Nk, DK, DV } = sizes;
      const shapeOf = (n: number, d: number) => (channelMajor ? [B, d, n] : [B, n, d]);
      const of = (d: Readonly<Record<string, Float64Array>>): Attention => ({
        ...{ q: d['q']!, k: d['k']!, v: d['v']!, ...sizes, scale, channelMajor },
      });
      return {
        name: `${layout}-major, batch ${B}, ${Nq} queries of ${DK}, ${Nk} values of ${DV}`,
        inputs: {
          q: randomInput(shapeOf(Nq, DK), 1, -2, 2),
          k: randomInput(shapeOf(Nk, DK), 2, -2, 2),
          v: randomInput(shapeOf(Nk, DV), 3),
        },
        op: ({ q, k, v }) => attention(q!, k!, v!, { layout, scale }),
        forward: (d, r) => ({ shape: shapeOf(Nq, DV), data: attentionRef(of(d), r).o }),
        backward: (d, dy, r) => {
          const { dq, dk, dv } = attentionBackward(of(d), dy, r);
          return { q: dq, k: dk, v: dv };
        },
        // weights carry softmax's allowance; a gradient sums Nq of them times |dO·V| ≤ DV, |K| ≤ 2
        allowance: 2 * Math.sqrt(Nq * DV) * softmaxAllowance(Nk),
      };
    }),
  ),
);

test('softmax and attention: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
