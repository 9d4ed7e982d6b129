import { describe, expect, test } from 'vitest';
import { stridedCopy } from '../../src/kernels/layout.ts';
import type { CopyRung } from '../../src/kernels/layout.ts';
import { concat, permute, slice, strides } from '../reference/shape.ts';
import { f64 } from '../reference/naive.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { storedOn } from '../support/half.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const product = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1);
const toF32 = (x: ArrayLike<number>) => Float32Array.from(x);

/** Equal bits, but for the payload of NaN, which a driver may make quiet. */
function expectHalves(found: Uint16Array, expected: Uint16Array): void {
  const quiet = (h: number) => ((h & 0x7fff) > 0x7c00 ? h | 0x0200 : h);
  expect(found.map(quiet)).toEqual(expected.map(quiet));
}

interface PermuteCase {
  readonly shape: readonly number[];
  readonly order: readonly number[];
}

const permutes: readonly PermuteCase[] = [
  { shape: [5], order: [0] },
  { shape: [1, 1], order: [1, 0] },
  { shape: [7, 3], order: [1, 0] },
  { shape: [8, 12], order: [1, 0] },
  { shape: [3, 8, 16], order: [0, 2, 1] },
  { shape: [3, 33, 65], order: [0, 2, 1] },
  { shape: [2, 5, 36], order: [0, 2, 1] },
  { shape: [4, 8, 4], order: [1, 2, 0] },
  { shape: [2, 3, 4, 5], order: [0, 2, 3, 1] },
  { shape: [2, 4, 8, 4], order: [1, 0, 2, 3] },
  { shape: [4, 4, 4, 4], order: [3, 2, 1, 0] },
  { shape: [2, 3, 2, 3, 2, 3], order: [5, 3, 1, 4, 2, 0] },
  { shape: [4, 2, 4, 2, 4, 2], order: [5, 4, 3, 2, 1, 0] },
];

function runPermute({ shape, order }: PermuteCase, x: Float32Array, rung?: CopyRung) {
  const own = strides(shape);
  const to = order.map((axis) => shape[axis]!);
  return execute(
    gpu,
    { x, out: product(shape) },
    (s) => {
      stridedCopy(gpu, {
        ...s,
        shape: to,
        inStrides: order.map((axis) => own[axis]!),
        outStrides: strides(to),
        ...(rung === undefined ? {} : { rung }),
      });
    },
    ['out'],
  );
}

describe('permute', () => {
  test.each(permutes)('$shape by $order, every rung', async (c) => {
    const x = randomFloats(product(c.shape), 3);
    const expected = toF32(permute({ x, ...c }, f64));
    for (const rung of [undefined, 'strided', 'blocks', 'tile'] as const) {
      const { out } = await runPermute(c, x, rung);
      expect(out, rung).toEqual(expected);
    }
  });

  test('a batch of transposes with row gaps keeps its offsets', async () => {
    // rows of 12 words, of which 8 are moved, from word 4 on; into a tensor with 4 words before and 20 after
    const x = randomFloats(2 * 8 * 12 + 4, 6);
    for (const rung of ['strided', 'blocks', 'tile'] as const) {
      const start = new Float32Array(4 + 128 + 20).fill(9);
      const { out } = await execute(
        gpu,
        { x, out: start },
        (s) => {
          stridedCopy(gpu, {
            ...s,
            shape: [2, 8, 8],
            inStrides: [96, 1, 12],
            outStrides: [64, 8, 1],
            inOffset: 4,
            outOffset: 4,
            rung,
          });
        },
        ['out'],
      );
      const expected = start.slice();
      for (let b = 0; b < 2; b++) {
        for (let c = 0; c < 8; c++) {
          for (let r = 0; r < 8; r++)
            expected[4 + b * 64 + c * 8 + r] = x[4 + b * 96 + r * 12 + c]!;
        }
      }
      expect(out, rung).toEqual(expected);
    }
  });

  test('gives the same bits twenty times', async () => {
    const x = randomFloats(3 * 33 * 65, 4);
    const shape = [3, 33, 65];
    for (const rung of ['strided', 'tile'] as const) {
      await expectSameBits(() => runPermute({ shape, order: [0, 2, 1] }, x, rung));
    }
  });
});

/** Halves of every kind, as bits: numbers, denormals, infinities, NaN. */
const halvesOf = (n: number) => Uint16Array.from({ length: n }, (_, i) => (i * 40503 + 7) & 0xffff);

describe.skipIf(!storedOn(gpu).includes('f16'))('halves', () => {
  const bytesOf = (bits: Uint16Array) =>
    new Uint8Array(Uint16Array.from([...bits, ...(bits.length % 2 === 0 ? [] : [0])]).buffer);

  test.each(permutes)('$shape by $order, every rung', async ({ shape, order }) => {
    const n = product(shape);
    const own = strides(shape);
    const to = order.map((axis) => shape[axis]!);
    const bits = halvesOf(n);
    const expected = Uint16Array.from(permute({ x: bits, shape, order }, f64));
    for (const rung of [undefined, 'strided', 'blocks', 'tile'] as const) {
      const { out } = await execute(
        gpu,
        { x: bytesOf(bits), out: Math.ceil(n / 2) },
        (s) => {
          stridedCopy(gpu, {
            ...s,
            shape: to,
            inStrides: order.map((axis) => own[axis]!),
            outStrides: strides(to),
            stored: 'f16',
            ...(rung === undefined ? {} : { rung }),
          });
        },
        ['out'],
      );
      expectHalves(new Uint16Array(out.buffer, 0, n), expected);
    }
  });

  test('a slice may begin and end within a word, its neighbours stay', async () => {
    const bits = halvesOf(35);
    const start = Uint16Array.from({ length: 20 }, () => 0x1234);
    const { out } = await execute(
      gpu,
      { x: bytesOf(bits), out: bytesOf(start) },
      (s) => {
        const steps = { inStrides: [7, 1], outStrides: [3, 1], inOffset: 3, outOffset: 1 };
        stridedCopy(gpu, { ...s, shape: [5, 3], ...steps, stored: 'f16' });
      },
      ['out'],
    );
    const expected = start.slice();
    for (let i = 0; i < 15; i++) expected[1 + i] = bits[7 * Math.floor(i / 3) + 3 + (i % 3)]!;
    expectHalves(new Uint16Array(out.buffer, 0, 20), expected);
  });
});

describe('expand', () => {
  test.each([
    { from: [1], to: [13] },
    { from: [1], to: [16] },
    { from: [3, 1], to: [3, 8] },
    { from: [1, 8], to: [5, 8] },
    { from: [1, 7], to: [5, 7] },
    { from: [1, 6, 1, 1], to: [4, 6, 8, 8] },
    { from: [2, 1, 3, 1], to: [2, 5, 3, 4] },
    { from: [1, 3, 1, 2, 1, 3], to: [2, 3, 2, 2, 2, 3] },
  ])('$from to $to', async ({ from, to }) => {
    const x = randomFloats(product(from), 8);
    const own = strides(from);
    const inStrides = own.map((stride, i) => (from[i] === 1 ? 0 : stride));
    const { out } = await execute(
      gpu,
      { x, out: product(to) },
      (s) => {
        stridedCopy(gpu, { ...s, shape: to, inStrides, outStrides: strides(to) });
      },
      ['out'],
    );
    const expected = Float32Array.from({ length: product(to) }, (_, flat) => {
      let at = 0;
      strides(to).forEach((stride, i) => {
        at += (Math.floor(flat / stride) % to[i]!) * inStrides[i]!;
      });
      return x[at]!;
    });
    expect(out).toEqual(expected);
  });
});

describe('slice, concat, flip', () => {
  test.each([
    { shape: [9], start: [2], end: [7] },
    { shape: [16], start: [4], end: [12] },
    { shape: [4, 12, 8], start: [0, 4, 0], end: [4, 8, 8] },
    { shape: [4, 12, 8], start: [1, 3, 2], end: [3, 10, 7] },
    { shape: [2, 5, 3, 3], start: [0, 1, 0, 0], end: [2, 4, 3, 3] },
  ])('slice $start to $end of $shape', async ({ shape, start, end }) => {
    const x = randomFloats(product(shape), 1);
    const expected = toF32(slice({ x, shape, start, end }, f64));
    const to = start.map((v, i) => end[i]! - v);
    const own = strides(shape);
    const { out } = await execute(
      gpu,
      { x, out: product(to) },
      (s) => {
        stridedCopy(gpu, {
          ...s,
          shape: to,
          inStrides: own,
          outStrides: strides(to),
          inOffset: start.reduce((n, v, i) => n + v * own[i]!, 0),
        });
      },
      ['out'],
    );
    expect(out).toEqual(expected);
  });

  test.each([
    { shapes: [[3], [5], [1]], axis: 0 },
    {
      shapes: [
        [4, 8],
        [4, 4],
      ],
      axis: 1,
    },
    {
      shapes: [
        [2, 3, 3, 3],
        [2, 2, 3, 3],
      ],
      axis: 1,
    },
    {
      shapes: [
        [2, 4, 4, 4],
        [2, 8, 4, 4],
        [2, 1, 4, 4],
      ],
      axis: 1,
    },
  ])('concat of $shapes along $axis', async ({ shapes, axis }) => {
    const xs = shapes.map((shape, i) => randomFloats(product(shape), i + 1));
    const expected = toF32(concat({ xs, shapes, axis }, f64));
    const whole = shapes[0]!.slice();
    whole[axis] = shapes.reduce((n, shape) => n + shape[axis]!, 0);
    const contents: Record<string, Float32Array | number> = { out: product(whole) };
    xs.forEach((x, i) => (contents[`x${i}`] = x));
    const { out } = await execute(
      gpu,
      contents,
      (s) => {
        let before = 0;
        shapes.forEach((shape, i) => {
          stridedCopy(gpu, {
            x: s[`x${i}`]!,
            out: s['out']!,
            shape,
            inStrides: strides(shape),
            outStrides: strides(whole),
            outOffset: before * strides(whole)[axis]!,
          });
          before += shape[axis]!;
        });
      },
      ['out'],
    );
    expect(out).toEqual(expected);
  });

  test('flip walks backwards', async () => {
    for (const n of [5, 8]) {
      const x = randomFloats(3 * n, n);
      const { out } = await execute(
        gpu,
        { x, out: 3 * n },
        (s) => {
          const steps = { inStrides: [n, -1], outStrides: [n, 1], inOffset: n - 1 };
          stridedCopy(gpu, { ...s, shape: [3, n], ...steps });
        },
        ['out'],
      );
      expect(out).toEqual(x.map((_v, i) => x[i - (i % n) + (n - 1 - (i % n))]!));
    }
  });

  test('words that are no numbers pass unchanged', async () => {
    const x = Uint32Array.of(0x7fc0_1234, 0xffff_ffff, 1, 0x8000_0001, 7);
    const { out } = await execute(
      gpu,
      { x, out: 5 },
      (s) => {
        stridedCopy(gpu, { ...s, shape: [5], inStrides: [1], outStrides: [1] });
      },
      ['out'],
    );
    expect(new Uint32Array(out.buffer)).toEqual(x);
  });
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
