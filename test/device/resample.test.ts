import { describe, expect, test } from 'vitest';
import {
  avgPool2d,
  avgPool2dBackward,
  maxPool2d,
  maxPool2dBackward,
  maxPool2dGather,
  resizeBilinear,
  resizeBilinearBackward,
  upsampleNearest2x,
  upsampleNearest2xBackward,
} from '../../src/kernels/resample.ts';
import type { PoolSizes } from '../../src/kernels/resample.ts';
import { budget, divideAllowance, f32, f64, maxAbs } from '../reference/naive.ts';
import * as pool from '../reference/pool.ts';
import { bilinear, bilinearBackward, nearest, nearestBackward } from '../reference/resize.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits, wordsOf } from '../support/execute.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();

interface PoolCase {
  readonly N: number;
  readonly H: number;
  readonly W: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly countIncludePad?: boolean;
}

const poolCases: readonly PoolCase[] = [
  { N: 1, H: 1, W: 1, kernel: 1, stride: 1, padding: 0 },
  { N: 6, H: 8, W: 8, kernel: 2, stride: 2, padding: 0 },
  { N: 3, H: 7, W: 5, kernel: 2, stride: 2, padding: 0 },
  { N: 2, H: 9, W: 11, kernel: 3, stride: 2, padding: 1 },
  { N: 2, H: 7, W: 6, kernel: 3, stride: 1, padding: 1 },
  { N: 1, H: 10, W: 13, kernel: 4, stride: 3, padding: 2 },
  { N: 2, H: 9, W: 8, kernel: 2, stride: 3, padding: 0 },
  { N: 5, H: 4, W: 4, kernel: 4, stride: 4, padding: 0 },
];

function poolInputs(c: PoolCase) {
  const out = (n: number) => Math.floor((n + 2 * c.padding - c.kernel) / c.stride) + 1;
  const sizes: PoolSizes = { ...c, OH: out(c.H), OW: out(c.W) };
  const x = randomData(c.N * c.H * c.W, c.H * c.W);
  const outputs = c.N * sizes.OH * sizes.OW;
  const square = (n: number) => [n, n] as const;
  const reference = {
    ...{ x, N: c.N, C: 1, H: c.H, W: c.W },
    ...{ kernel: square(c.kernel), stride: square(c.stride), pad: square(c.padding) },
    ...(c.countIncludePad === undefined ? {} : { countIncludePad: c.countIncludePad }),
  };
  return { sizes, x, outputs, reference, dOut: randomData(outputs, 5) };
}

const poolName = ({ N, H, W, kernel, stride, padding }: PoolCase) =>
  `${N} planes ${H}×${W}, window ${kernel} stride ${stride} padding ${padding}`;

describe('pooling', () => {
  test.each(poolCases.map((c) => [poolName(c), c] as const))('max: %s', async (_name, c) => {
    const { sizes, x, outputs, reference, dOut } = poolInputs(c);
    const found = await execute(
      gpu,
      { x, dOut, out: outputs, index: outputs, dx: x.length, gathered: outputs },
      (s) => {
        maxPool2d(gpu, { ...s, ...sizes });
        maxPool2dBackward(gpu, { ...s, ...sizes });
        maxPool2dGather(gpu, { ...s, out: s.gathered, ...sizes });
      },
      ['out', 'index', 'dx', 'gathered'],
    );
    expect(found.out).toEqual(Float32Array.from(pool.maxPool2d(reference, f64)));
    expect(found.gathered).toEqual(found.out);
    const plane = c.H * c.W;
    const chosen = wordsOf(found.index);
    chosen.forEach((at, o) => {
      const n = Math.floor(o / (sizes.OH * sizes.OW));
      expect(Math.fround(x[n * plane + at]!)).toBe(found.out[o]);
    });
    const dx = pool.maxPool2dBackward(reference, dOut, f64);
    const naive = pool.maxPool2dBackward(reference, dOut, f32);
    expectClose(found.dx, dx.dx, budget(dx.dx, naive.dx), 'dx');
  });

  test('of equal values the first is chosen', async () => {
    const sizes = { N: 1, H: 4, W: 4, OH: 3, OW: 3, kernel: 2, stride: 1, padding: 0 };
    const x = Float32Array.of(1, 1, 0, 2, 1, 1, 2, 2, 0, 0, 0, 0, -1, -1, -1, -1);
    const { index } = await execute(
      gpu,
      { x, out: 9, index: 9 },
      (s) => {
        maxPool2d(gpu, { ...s, ...sizes });
      },
      ['index'],
    );
    expect([...wordsOf(index)]).toEqual([0, 6, 3, 4, 6, 6, 8, 9, 10]);
  });

  const inside = [poolCases[3]!, poolCases[4]!, poolCases[5]!].map((c) => ({
    ...c,
    countIncludePad: false,
  }));
  const meanCases = [
    ...poolCases.map((c) => [poolName(c), c] as const),
    ...inside.map((c) => [`${poolName(c)} that is not counted`, c] as const),
  ];
  test.each(meanCases)('mean: %s', async (_name, c) => {
    const { sizes, x, outputs, reference, dOut } = poolInputs(c);
    const found = await execute(
      gpu,
      { x, dOut, out: outputs, dx: x.length },
      (s) => {
        avgPool2d(gpu, { ...s, ...sizes });
        avgPool2dBackward(gpu, { ...s, ...sizes });
      },
      ['out', 'dx'],
    );
    const y = pool.avgPool2d(reference, f64);
    const allowance = divideAllowance(maxAbs(y));
    const allowed = budget(y, pool.avgPool2d(reference, f32), { allowance });
    expectClose(found.out, y, allowed, 'mean');
    const dx = pool.avgPool2dBackward(reference, dOut, f64).dx;
    const naive = pool.avgPool2dBackward(reference, dOut, f32).dx;
    expectClose(found.dx, dx, budget(dx, naive, { allowance, scale: maxAbs(dOut) }), 'dx');
  });

  test('gives the same bits twenty times', async () => {
    const { sizes, x, outputs, dOut } = poolInputs(poolCases[3]!);
    await expectSameBits(() =>
      execute(
        gpu,
        { x, dOut, out: outputs, index: outputs, dx: x.length },
        (s) => {
          maxPool2d(gpu, { ...s, ...sizes });
          maxPool2dBackward(gpu, { ...s, ...sizes });
        },
        ['out', 'dx'],
      ),
    );
  });
});

describe('nearest ×2', () => {
  test.each([
    { N: 1, H: 1, W: 1 },
    { N: 6, H: 4, W: 4 },
    { N: 3, H: 5, W: 7 },
    { N: 2, H: 16, W: 1 },
  ])('$N planes $H×$W', async ({ N, H, W }) => {
    const n = N * H * W;
    const x = randomData(n, 1);
    const dOut = randomData(4 * n, 2);
    const found = await execute(
      gpu,
      { x, dOut, out: 4 * n, dx: n },
      (s) => {
        upsampleNearest2x(gpu, { ...s, N, H, W });
        upsampleNearest2xBackward(gpu, { ...s, N, H, W });
      },
      ['out', 'dx'],
    );
    const given = { x, N, C: 1, H, W };
    expect(found.out).toEqual(Float32Array.from(nearest(given, f64)));
    const dx = nearestBackward(given, dOut, f64).dx;
    const allowed = budget(dx, nearestBackward(given, dOut, f32).dx, { scale: 4 });
    expectClose(found.dx, dx, allowed, 'dx');
  });
});

describe('bilinear', () => {
  const cases = [
    { N: 1, H: 1, W: 1, P: 1, Q: 1 },
    { N: 2, H: 1, W: 1, P: 5, Q: 3 },
    { N: 2, H: 4, W: 4, P: 8, Q: 8 },
    { N: 3, H: 8, W: 8, P: 4, Q: 4 },
    { N: 2, H: 5, W: 7, P: 11, Q: 3 },
    { N: 2, H: 13, W: 2, P: 3, Q: 17 },
    { N: 1, H: 9, W: 9, P: 1, Q: 1 },
    { N: 1, H: 3, W: 4, P: 3, Q: 4 },
    { N: 1, H: 7, W: 3, P: 64, Q: 50 },
  ];
  for (const alignCorners of [false, true]) {
    test.each(cases)(`$N planes $H×$W to $P×$Q, corners ${alignCorners}`, async (c) => {
      const { N, H, W, P, Q } = c;
      const n = N * H * W;
      const x = randomData(n, 1);
      const dOut = randomData(N * P * Q, 2);
      const sizes = { planes: N, H, W, OH: P, OW: Q, alignCorners };
      const found = await execute(
        gpu,
        { x, dOut, out: N * P * Q, dx: n },
        (s) => {
          resizeBilinear(gpu, { ...s, ...sizes });
          resizeBilinearBackward(gpu, { ...s, ...sizes });
        },
        ['out', 'dx'],
      );
      const given = { ...c, x, C: 1, alignCorners };
      const y = bilinear(given, f64);
      // A weight is a source position less its floor: it carries the rounding of a number up to the image's size.
      const scale = Math.max(H, W) * maxAbs(x);
      expectClose(found.out, y, budget(y, bilinear(given, f32), { scale }), 'resized');
      const dx = bilinearBackward(given, dOut, f64).dx;
      const gradient = budget(dx, bilinearBackward(given, dOut, f32).dx, { scale: 2 * scale });
      expectClose(found.dx, dx, gradient, 'dx');
    });
  }
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
