import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  biasLike,
  initialisers,
  kaimingUniform,
  normal,
  ones,
  orthogonal,
  orthonormalise,
  xavierUniform,
  zeros,
} from '../../src/nn/init.ts';
import type { Init } from '../../src/nn/init.ts';
import { HostRng } from '../../src/util/philox.ts';

const rng = (seed = 1) => new HostRng(seed);
const shapes = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 2, maxLength: 4 });
const count = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1);

function moments(values: Float32Array) {
  const mean = values.reduce((s, x) => s + x, 0) / values.length;
  const variance = values.reduce((s, x) => s + (x - mean) ** 2, 0) / values.length;
  return {
    mean,
    std: Math.sqrt(variance),
    largest: values.reduce((m, x) => Math.max(m, Math.abs(x)), 0),
  };
}

/** Dot products of the rows of an r × c matrix. */
function gram(values: Float32Array, rows: number): number[] {
  const cols = values.length / rows;
  const out: number[] = [];
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rows; j++) {
      let s = 0;
      for (let k = 0; k < cols; k++) s += values[i * cols + k]! * values[j * cols + k]!;
      out.push(s);
    }
  }
  return out;
}

function transposed(values: Float32Array, rows: number): Float32Array {
  const cols = values.length / rows;
  return values.map((_x, i) => values[(i % rows) * cols + Math.floor(i / rows)]!);
}

describe('initialisers', () => {
  test('orthogonal: rows of a wide weight, columns of a tall one, are orthonormal', () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const values = orthogonal()(shape, rng());
        const rows = shape[0]!;
        const cols = values.length / rows;
        const wide = rows <= cols;
        const vectors = gram(wide ? values : transposed(values, rows), wide ? rows : cols);
        const side = wide ? rows : cols;
        // each of the products is a sum of at most 216 f32 roundings of numbers below 1
        vectors.forEach((dot, i) => {
          const expected = i % (side + 1) === 0 ? 1 : 0;
          expect(Math.abs(dot - expected)).toBeLessThan(2 ** -20);
        });
      }),
    );
  });

  test('orthogonal: the weights of a seed stay what they were', () => {
    // Made by Gram–Schmidt of one vector after the other, twice over. Odd sizes leave blocks that are not full.
    const hash = (shape: readonly number[]) =>
      createHash('sha256')
        .update(new Uint8Array(orthogonal()(shape, rng()).buffer))
        .digest('hex')
        .slice(0, 16);
    const shapes = [
      [64, 128, 4, 4],
      [64, 32, 4, 4],
      [32, 3, 4, 4],
      [1, 128, 4, 4],
      [7, 3],
      [3, 7],
    ];
    expect([...shapes, [100, 100]].map(hash)).toEqual([
      'a7c27506d4e6fed6',
      '9a90bb5d168ce5d0',
      'c029098d07ab03bb',
      '04381997396b2576',
      '9c63141f7207a619',
      'ae51a01b9fe220a4',
      '9b464003ed40ff68',
    ]);
  });

  test('orthogonal: vectors that nearly agree are made orthogonal all the same', () => {
    const length = 50;
    const base = Float64Array.from({ length }, (_u, i) => Math.sin(i + 1));
    const vectors = Array.from({ length: 21 }, (_u, k) =>
      base.map((x, i) => x + 1e-9 * Math.cos((k + 1) * (i + 1))),
    );
    orthonormalise(vectors);
    vectors.forEach((a, i) => {
      vectors.slice(0, i + 1).forEach((b, j) => {
        const dot = a.reduce((s, x, k) => s + x * b[k]!, 0);
        expect(Math.abs(dot - Number(i === j)), `${i}, ${j}`).toBeLessThan(1e-9);
      });
    });
  });

  test('orthogonal: a large weight is made in seconds', () => {
    const shape = [512, 2048];
    const started = performance.now();
    const values = orthogonal()(shape, rng());
    // 2 GFLOP: about 0.7 s, where one vector after the other took 3.
    expect(performance.now() - started).toBeLessThan(20_000);
    const row = (i: number) => values.subarray(i * 2048, (i + 1) * 2048);
    for (const [i, j] of [
      [0, 511],
      [7, 8],
      [255, 256],
      [511, 511],
    ] as const) {
      const dot = row(i).reduce((s, x, k) => s + x * row(j)[k]!, 0);
      expect(Math.abs(dot - Number(i === j))).toBeLessThan(2 ** -20);
    }
  });

  test('orthogonal: gain scales it', () => {
    const [plain, twice] = [orthogonal()([4, 9], rng()), orthogonal(2)([4, 9], rng())];
    expect(twice).toEqual(plain.map((x) => 2 * x));
  });

  test('xavier: uniform between ±√(6/(fan in + fan out)), kernel area counted in both', () => {
    const bound = Math.sqrt(6 / (32 * 9 + 64 * 9));
    const { mean, std, largest } = moments(xavierUniform()([64, 32, 3, 3], rng()));
    expect(largest).toBeLessThanOrEqual(bound);
    expect(largest).toBeGreaterThan(0.999 * bound);
    // 18,432 samples: four standard errors
    expect(Math.abs(mean)).toBeLessThan((4 * bound) / Math.sqrt(3 * 18432));
    expect(std).toBeCloseTo(bound / Math.sqrt(3), 3);
    expect(moments(xavierUniform(2)([64, 32, 3, 3], rng())).largest).toBeGreaterThan(bound);
  });

  test("default: PyTorch's bound 1/√fan_in for weight and bias", () => {
    const bound = 1 / Math.sqrt(32 * 9);
    const weight = moments(kaimingUniform([64, 32, 3, 3], rng()));
    expect(weight.largest).toBeLessThanOrEqual(bound);
    expect(weight.largest).toBeGreaterThan(0.999 * bound);
    const bias = moments(biasLike([64, 32, 3, 3])([4096], rng()));
    expect(bias.largest).toBeLessThanOrEqual(bound);
    expect(bias.largest).toBeGreaterThan(0.99 * bound);
  });

  test('normal: mean and standard deviation', () => {
    const { mean, std } = moments(normal(0.02, 1)([100, 100], rng()));
    expect(Math.abs(mean - 1)).toBeLessThan((4 * 0.02) / 100);
    // the standard deviation's own error is σ/√(2n)
    expect(Math.abs(std - 0.02)).toBeLessThan((4 * 0.02) / Math.sqrt(2e4));
  });

  test('zeros and ones are that', () => {
    expect(zeros([2, 3], rng())).toEqual(new Float32Array(6));
    expect(ones([2], rng())).toEqual(new Float32Array([1, 1]));
  });

  test.each(Object.entries(initialisers) as [string, Init][])(
    '%s: every value is filled and finite, and the seed decides it',
    (_name, init) => {
      fc.assert(
        fc.property(shapes, (shape) => {
          const values = init(shape, rng());
          expect(values).toHaveLength(count(shape));
          expect(values.every((x) => Number.isFinite(x))).toBe(true);
          expect(init(shape, rng())).toEqual(values);
        }),
      );
      expect(init([8, 8], rng(1))).not.toEqual(init([8, 8], rng(2)));
    },
  );
});
