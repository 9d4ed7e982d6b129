import { describe, expect, test } from 'vitest';
import { chooseReduce, reduce } from '../../src/kernels/reduce.ts';
import type { ReduceRung } from '../../src/kernels/reduce.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { reduce as reference, reducedShape } from '../reference/reduce.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { kept, randomHalves, storedOn } from '../support/half.ts';
import { randomData, randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const rungs: readonly ReduceRung[] = ['thread', 'tree'];

interface Case {
  readonly shape: readonly number[];
  readonly axes: readonly number[];
}

const cases: readonly Case[] = [
  { shape: [1], axes: [0] },
  { shape: [7], axes: [0] },
  { shape: [5, 1], axes: [1] },
  { shape: [1031], axes: [0] },
  { shape: [4096], axes: [0] },
  { shape: [3, 5], axes: [1] },
  { shape: [3, 8], axes: [1] },
  { shape: [300, 17], axes: [0] },
  { shape: [2048, 16], axes: [0] },
  { shape: [3, 1, 5], axes: [0, 2] },
  // bias gradients and batch statistics
  { shape: [4, 6, 8, 8], axes: [0, 2, 3] },
  { shape: [8, 3, 13, 11], axes: [0, 2, 3] },
  { shape: [16, 2, 32, 32], axes: [0, 2, 3] },
  // cut into parts on a software driver too
  { shape: [33, 2, 32, 32], axes: [0, 2, 3] },
  { shape: [33000, 4], axes: [0] },
  { shape: [4, 6, 4, 4], axes: [1] },
  { shape: [4, 6, 3, 3], axes: [1, 3] },
  { shape: [2, 3, 4, 5, 2, 3], axes: [0, 2, 4] },
  { shape: [2, 3, 4, 5, 2, 3], axes: [1, 3, 5] },
  { shape: [2, 3, 4, 5, 2, 3], axes: [5, 0] },
  { shape: [3, 1, 4, 1, 5], axes: [1, 3] },
];

function sizeAfter({ shape, axes }: Case): number {
  return reducedShape(shape, axes).reduce((n, d) => n * d, 1);
}

describe.each(rungs)('the %s rung', (rung) => {
  test.each(cases)('sums and takes maxima of $shape over $axes', async (c) => {
    const { shape, axes } = c;
    const n = shape.reduce((product, d) => product * d, 1);
    const size = sizeAfter(c);
    for (const stored of storedOn(gpu)) {
      const x = (stored === 'f16' ? randomHalves : randomData)(n, shape.length + axes.length);
      for (const op of ['sum', 'max'] as const) {
        const { out } = await execute(
          gpu,
          { x: kept[stored].content(x), out: size },
          (s) => {
            reduce(gpu, op, { ...s, shape, axes, rung, stored });
          },
          ['out'],
        );
        const given = { x, shape, axes };
        const expected = reference(op, given, f64);
        const allowed = budget(expected, reference(op, given, f32));
        expectClose(out, expected, allowed, `${op} ${rung} of ${stored}`);
      }
    }
  });

  test('a scale makes a mean', async () => {
    const x = randomData(6 * 35, 8);
    const { out } = await execute(
      gpu,
      { x, out: 6 },
      (s) => {
        reduce(gpu, 'sum', { ...s, shape: [6, 5, 7], axes: [1, 2], scale: 1 / 35, rung });
      },
      ['out'],
    );
    const given = { x, shape: [6, 5, 7], axes: [1, 2] };
    const expected = reference('mean', given, f64);
    expectClose(out, expected, budget(expected, reference('mean', given, f32)), 'mean');
  });

  test('maxima of numbers far below zero are found', async () => {
    const x = Float32Array.from({ length: 30 }, (_, i) => -1e30 - i * 1e29);
    const { out } = await execute(
      gpu,
      { x, out: 3 },
      (s) => {
        reduce(gpu, 'max', { ...s, shape: [3, 10], axes: [1], rung });
      },
      ['out'],
    );
    expect(out).toEqual(Float32Array.of(x[0]!, x[10]!, x[20]!));
  });

  test('a sum of 2¹⁸ terms is joined from parts', async () => {
    const n = 1 << 18;
    const x = randomData(n, 21, 0, 1);
    const { out } = await execute(
      gpu,
      { x, out: 1 },
      (s) => {
        reduce(gpu, 'sum', { ...s, shape: [n], axes: [0], rung });
      },
      ['out'],
    );
    const given = { x, shape: [n] };
    const expected = reference('sum', given, f64);
    expectClose(out, expected, budget(expected, reference('sum', given, f32)), 'long sum');
  });

  test('gives the same bits twenty times', async () => {
    const x = randomFloats(8 * 3 * 143, 5);
    const shape = [8, 3, 13, 11];
    await expectSameBits(() =>
      execute(
        gpu,
        { x, out: 3 },
        (s) => {
          reduce(gpu, 'sum', { ...s, shape, axes: [0, 2, 3], rung });
        },
        ['out'],
      ),
    );
  });
});

test('no reduced axis of size above 1 is a scaled copy', async () => {
  for (const stored of storedOn(gpu)) {
    const x = randomHalves(15, 2);
    const { out } = await execute(
      gpu,
      { x: kept[stored].content(x), out: 15 },
      (s) => {
        reduce(gpu, 'sum', { ...s, shape: [3, 1, 5], axes: [1], scale: 2, stored });
      },
      ['out'],
    );
    expect(out, stored).toEqual(Float32Array.from(x, (v) => 2 * v));
  }
});

test.skipIf(!storedOn(gpu).includes('f16'))('a sum of f16 goes past the largest f16', async () => {
  const { out } = await execute(
    gpu,
    { x: kept.f16.content(new Float64Array(300).fill(65504)), out: 1 },
    (s) => {
      reduce(gpu, 'sum', { ...s, shape: [300], axes: [0], stored: 'f16' });
    },
    ['out'],
  );
  expect([...out]).toEqual([300 * 65504]);
});

test('software adapters take one thread a result', () => {
  const view = { O: 4, R0: 1, K: 1, R1: 4096, I: 1 };
  const tall = { ...view, I: 8 };
  expect(chooseReduce(gpu, view)).toBe(gpu.adapter.kind === 'software' ? 'thread' : 'tree');
  expect(chooseReduce(gpu, tall)).toBe('thread');
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
