import { describe, expect, test } from 'vitest';
import {
  powerIteration,
  powerIterationLadder,
  spectralBackward,
  spectralScale,
} from '../../src/kernels/spectral.ts';
import { budget, divideAllowance, f32, f64, maxAbs } from '../reference/naive.ts';
import { permute } from '../reference/shape.ts';
import { spectralNorm, spectralNormBackward } from '../reference/spectral.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const eps = 1e-12;

interface Sizes {
  readonly outer: number;
  readonly rows: number;
  readonly inner: number;
}

const cases: readonly Sizes[] = [
  { outer: 1, rows: 1, inner: 1 },
  { outer: 1, rows: 1, inner: 37 },
  { outer: 1, rows: 29, inner: 1 },
  { outer: 1, rows: 7, inner: 27 },
  { outer: 1, rows: 16, inner: 48 },
  { outer: 5, rows: 3, inner: 16 },
  { outer: 6, rows: 11, inner: 9 },
  // both products are cut into parts here
  { outer: 1, rows: 64, inner: 1024 },
  { outer: 1, rows: 520, inner: 12 },
  { outer: 64, rows: 24, inner: 16 },
];

const rungs = powerIterationLadder.rungs.filter((rung) => rung.fits(gpu, cases[0]!));

const alone = (sizes: Sizes) => ({ matrices: [{ ...sizes, at: 0, u: 0, v: 0 }] });

const name = ({ outer, rows, inner }: Sizes) => `${outer}×${rows}×${inner}`;

/** [outer, rows, inner] as a matrix of rows, and back. */
const toMatrix = (w: ArrayLike<number>, { outer, rows, inner }: Sizes) =>
  permute({ x: w, shape: [outer, rows, inner], order: [1, 0, 2] }, f64);
const fromMatrix = (w: ArrayLike<number>, { outer, rows, inner }: Sizes) =>
  permute({ x: w, shape: [rows, outer, inner], order: [1, 0, 2] }, f64);

function inputs(sizes: Sizes) {
  const { outer, rows, inner } = sizes;
  const cols = outer * inner;
  const w = randomData(rows * cols, rows + cols);
  const [u, v] = [unit(randomData(rows, 2)), unit(randomData(cols, 3))];
  const reference = { w: toMatrix(w, sizes), rows, cols, u, v, eps };
  return { w, u, v, cols, reference };
}

function unit(x: Float64Array): Float64Array {
  const norm = Math.hypot(...x);
  return x.map((a) => Math.fround(a / norm));
}

/** Σ |u·w·v| over the matrix. */
function termsOf({ w, u, v, cols }: ReturnType<typeof inputs>['reference']): number {
  return w.reduce((sum, a, i) => sum + Math.abs(a * u[Math.floor(i / cols)]! * v[i % cols]!), 0);
}

async function iterate(sizes: Sizes, update: boolean, rung: (typeof rungs)[number]) {
  const { w, u, v, cols } = inputs(sizes);
  return execute(
    gpu,
    { w, u, v, sigma: 1, uOut: sizes.rows, vOut: cols },
    (s) => {
      rung.run(gpu, { ...s, batch: alone(sizes), eps, update });
    },
    ['u', 'v', 'sigma', 'uOut', 'vOut'],
  );
}

describe.each(rungs)('power iteration, $name', (rung) => {
  test.each(cases.map((c) => [name(c), c] as const))('%s', async (_name, sizes) => {
    const { u, v, reference } = inputs(sizes);
    for (const update of [true, false]) {
      const found = await iterate(sizes, update, rung);
      const expected = spectralNorm({ ...reference, training: update }, f64);
      const naive = spectralNorm({ ...reference, training: update }, f32);
      const allowance = divideAllowance(1);
      for (const key of ['u', 'v'] as const) {
        const allowed = budget(expected[key], naive[key], { allowance });
        expectClose(found[key], expected[key], allowed, `${key}, update ${update}`);
        expect(found[`${key}Out`]).toEqual(found[key]);
      }
      const sigma = [expected.sigma];
      // With u and v as they come the terms of σ cancel: their sizes set the floor.
      const scale = update ? expected.sigma : termsOf(reference);
      expectClose(found.sigma, sigma, budget(sigma, [naive.sigma], { scale }), 'sigma');
      if (!update) {
        expect(found.u).toEqual(Float32Array.from(u));
        expect(found.v).toEqual(Float32Array.from(v));
      }
    }
  });

  test('a weight of zeros keeps u, v, and the scaled weight at 0', async () => {
    const sizes = { outer: 2, rows: 3, inner: 5 };
    const found = await execute(
      gpu,
      {
        ...{ w: new Float32Array(30), u: unit(randomData(3, 1)), v: unit(randomData(10, 2)) },
        ...{ sigma: 1, uOut: 3, vOut: 10, out: 30 },
      },
      (s) => {
        const { out, ...rest } = s;
        rung.run(gpu, { ...rest, batch: alone(sizes), eps, update: true });
        spectralScale(gpu, { w: s.w, sigma: s.sigma, out, batch: alone(sizes) });
      },
      ['u', 'v', 'sigma', 'out'],
    );
    for (const values of Object.values(found)) expect(values.every((x) => x === 0)).toBe(true);
  });

  test('gives the same bits twenty times', async () => {
    await expectSameBits(() => iterate({ outer: 1, rows: 64, inner: 1024 }, true, rung));
  });
});

test('twenty iterations find the largest singular value', async () => {
  // diag(5, 2, 1): σ must become 5
  const w = Float32Array.of(5, 0, 0, 0, 2, 0, 0, 0, 1);
  const found = await execute(
    gpu,
    { w, u: Float32Array.of(0.5, 0.5, 0.7), v: 3, sigma: 1, uOut: 3, vOut: 3 },
    (s) => {
      const batch = alone({ outer: 1, rows: 3, inner: 3 });
      for (let i = 0; i < 20; i++) powerIteration(gpu, { ...s, batch, eps, update: true });
    },
    ['sigma'],
  );
  expectClose(found.sigma, [5], { abs: 1e-5 }, 'sigma');
});

describe('the normalised weight and its gradient', () => {
  test.each(cases.map((c) => [name(c), c] as const))('%s', async (_name, sizes) => {
    const { w, u, v, cols, reference } = inputs(sizes);
    const n = w.length;
    const dwn = randomData(n, 77);
    const found = await execute(
      gpu,
      { w, u, v, dwn, sigma: 1, uOut: sizes.rows, vOut: cols, out: n, dw: n },
      (s) => {
        const batch = alone(sizes);
        powerIteration(gpu, { ...s, batch, eps, update: true });
        spectralScale(gpu, { ...s, batch });
        spectralBackward(gpu, { ...s, u: s.uOut, v: s.vOut, batch });
      },
      ['out', 'dw'],
    );
    const given = { ...reference, training: true };
    const weight = fromMatrix(spectralNorm(given, f64).weight, sizes);
    const naive = fromMatrix(spectralNorm(given, f32).weight, sizes);
    const allowance = 2 * divideAllowance(maxAbs(weight));
    expectClose(found.out, weight, budget(weight, naive, { allowance }), 'weight');

    const dy = toMatrix(dwn, sizes);
    const dw = fromMatrix(spectralNormBackward(given, dy, f64).dw, sizes);
    const dwNaive = fromMatrix(spectralNormBackward(given, dy, f32).dw, sizes);
    // dŴ/σ and the part along u·vᵀ cancel (wholly so for one row or column).
    const { sigma } = spectralNorm(given, f64);
    const scale = 2 * (maxAbs(dwn) / sigma);
    expectClose(found.dw, dw, budget(dw, dwNaive, { scale, ulps: 16 }), 'dw');
  });
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
