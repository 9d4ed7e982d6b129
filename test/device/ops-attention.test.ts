// Softmax and attention: against the float64 references, values, gradients, and replay against eager.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { attention } from '../../src/ops/attention.ts';
import { softmax } from '../../src/ops/softmax.ts';
import {
  type Attention,
  attention as attentionRef,
  attentionBackward,
} from '../reference/attention.ts';
import { softmaxAllowance } from '../reference/naive.ts';
import { softmax as softmaxRef, softmaxBackward } from '../reference/softmax.ts';
import { layouts } from '../support/attention.ts';
import { setUpHalves } from '../support/attention-f16.ts';
import { eachCase } from '../support/cases.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { type OpCase, bitsOf, eagerly, randomInput, replayed } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

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
        // and y itself is rounded to f16 before it is used
        halves: { between: 3 * 2 ** -10 },
      };
    }),
  ),
);

// Widths of one tile, so that the cases share their programs: attention.test.ts takes wider ones.
each(
  'attention',
  (['channel', 'sequence'] as const).flatMap((layout) =>
    (
      [
        { B: 1, Nq: 1, Nk: 1, DK: 1, DV: 1 },
        { B: 2, Nq: 5, Nk: 3, DK: 2, DV: 4 },
        { B: 4, Nq: 16, Nk: 16, DK: 2, DV: 8 },
        { B: 16, Nq: 16, Nk: 4, DK: 3, DV: 7 },
        { B: 2, Nq: 67, Nk: 33, DK: 8, DV: 5 },
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

describe('attention of f16', () => {
  const cases = layouts.flatMap((layout) =>
    (
      [
        [2, 5, 3, 2, 4],
        [1, 37, 29, 3, 7],
        [2, 16, 16, 8, 8],
      ] as const
    ).map((sizes) => ({ layout, sizes })),
  );
  test.skipIf(!gpu.features.has('shader-f16')).each(cases)(
    '$layout-major, $sizes: values, gradients, and those of its composition',
    async ({ layout, sizes }) => {
      const { dims, given, expected, allowed } = setUpHalves(sizes, layout, { stored: 'f16' });
      const { B, Nq, Nk, DK, DV, scale } = dims;
      const made = (data: Float64Array, n: number, d: number) =>
        tensor(tape, Float32Array.from(data), layout === 'channel' ? [B, d, n] : [B, n, d], {
          dtype: 'f16',
          requiresGrad: true,
        });
      const inputs = [made(given.q, Nq, DK), made(given.k, Nk, DK), made(given.v, Nk, DV)] as const;
      const dOut = made(given.dOut, Nq, DV);
      for (const createGraph of [false, true]) {
        const body = () => {
          const y = attention(...inputs, { layout, scale });
          const found = [y, ...grad([y], inputs, { gradOutputs: [dOut], createGraph })];
          expect(found.map((t) => t.dtype)).toEqual(['f16', 'f16', 'f16', 'f16']);
          return found;
        };
        const results = await eagerly(gpu, body);
        for (const [i, name] of (['out', 'dq', 'dk', 'dv'] as const).entries()) {
          const what = `${name}, createGraph ${createGraph}`;
          expectClose(results[i]!.data, expected[name], allowed(name), what);
        }
        expect(bitsOf(await replayed(gpu, body, 2))).toEqual(bitsOf(results));
      }
    },
  );

  test.skipIf(!gpu.features.has('shader-f16'))('all of its inputs are f16, or none', () => {
    const [f32, f16] = [undefined, 'f16' as const].map((dtype) =>
      tensor(tape, new Float32Array(4), [1, 2, 2], dtype && { dtype }),
    );
    expect(() => attention(f16!, f16!, f32!)).toThrow(RangeError);
  });
});

test('softmax and attention: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
