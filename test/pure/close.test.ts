import { describe, expect, it } from 'vitest';
import { budget, f32, f64, toF32, ulp } from '../reference/naive.ts';
import { expectClose, expectTensorClose } from '../support/close.ts';

const ref = [1, -2, 3, 0];
const exact = { abs: 0 };

describe('expectClose', () => {
  it('accepts equal values, equal infinities and errors inside abs + rel', () => {
    expectClose(new Float32Array(ref), ref, exact, 'same');
    expectClose(new Float32Array([Infinity, -Infinity]), [Infinity, -Infinity], exact, 'inf');
    expectClose([1.5, 104], [1, 100], { abs: 0.5, rel: 0.035 }, 'inside');
  });

  it('names the worst of several wrong elements', () => {
    const actual = new Float32Array([1.25, -2, 5, 0]);
    expect(() => expectClose(actual, ref, { abs: 0.125 }, 'matmul')).toThrow(
      'matmul: 2 of 4 elements are off; the worst is [2]: 5, expected 3, error 2.00 > budget 0.125',
    );
  });

  it.each([0, 1, 2, 3])('fails on one wrong element, at index %i', (i) => {
    const actual = Float32Array.from(ref);
    actual[i] = actual[i]! + 1e-3;
    expect(() => expectClose(actual, ref, { abs: 9e-4 }, 'x')).toThrow(
      new RegExp(`1 of 4 .*worst is \\[${i}\\]`),
    );
  });

  it('fails on NaN on either side, even on both', () => {
    const wide = { abs: 1e30 };
    expect(() => expectClose([1, NaN], [1, 2], wide, 'x')).toThrow('[1]: NaN, expected 2');
    expect(() => expectClose([1, 2], [1, NaN], wide, 'x')).toThrow('expected NaN');
    expect(() => expectClose([NaN], [NaN], wide, 'x')).toThrow('1 of 1');
    expect(() => expectClose(new Float32Array(3).fill(NaN), [0, 0, 0], wide, 'x')).toThrow(
      '3 of 3',
    );
  });

  it('fails on a missing or wrong infinity', () => {
    const wide = { abs: 1e30 };
    expect(() => expectClose([Infinity], [1], wide, 'x')).toThrow('Infinity, expected 1');
    expect(() => expectClose([1], [Infinity], { abs: 1, rel: 1 }, 'x')).toThrow(
      'expected Infinity',
    );
    expect(() => expectClose([-Infinity], [Infinity], wide, 'x')).toThrow('-Infinity');
  });

  it('reports a NaN before a finite error, however large', () => {
    expect(() => expectClose([1e9, NaN], [0, 0], { abs: 1 }, 'x')).toThrow(
      '2 of 2 elements are off; the worst is [1]',
    );
  });

  it('fails on length, on shape and on nothing at all', () => {
    expect(() => expectClose([1, 2], [1], exact, 'x')).toThrow('x: 2 elements, expected 1');
    expect(() => expectClose([], [1], exact, 'x')).toThrow('0 elements, expected 1');
    expect(() => expectClose([], [], exact, 'x')).toThrow('nothing to compare');
    expect(() =>
      expectTensorClose({ shape: [2, 3], data: ref }, { shape: [3, 2], data: ref }, exact, 'x'),
    ).toThrow('x: shape [2, 3], expected [3, 2]');
  });

  it('refuses a budget that cannot fail', () => {
    expect(() => expectClose([1], [2], { abs: NaN }, 'x')).toThrow('budget abs NaN');
    expect(() => expectClose([1], [2], { abs: Infinity }, 'x')).toThrow('must be finite');
    expect(() => expectClose([1], [2], { abs: 1, rel: -1 }, 'x')).toThrow('not negative');
  });
});

describe('budget', () => {
  it('ulp is the spacing of float32', () => {
    for (const x of [1, 1.5, 2, 3e-20, 1e30, 0.1, 2 ** -126, 16777215]) {
      const bits = new Uint32Array(Float32Array.of(x).buffer);
      const next = new Float32Array(Uint32Array.of(bits[0]! + 1).buffer)[0]!;
      expect(ulp(Math.fround(x))).toBe(next - Math.fround(x));
    }
    expect(ulp(0)).toBe(2 ** -149);
  });

  it('is twice the naive error and a floor', () => {
    const tiny = 2 ** -126;
    expect(budget([1, 2], [1, 2])).toEqual({ abs: 4 * 2 ** -22 + tiny });
    expect(budget([1, 2], [1.5, 2], { ulps: 0 })).toEqual({ abs: 1 + tiny });
    expect(budget([0, 0], [0, 0], { ulps: 2, scale: 8, allowance: 1 }).abs).toBe(1 + 2 ** -19);
  });

  it('throws where float32 cannot hold the case', () => {
    expect(() => budget([1e39], [Infinity])).toThrow('element 0 is 1e+39 in float64 but Infinity');
    expect(() => budget([1], [NaN])).toThrow('NaN');
    expect(() => budget([1], [1, 2])).toThrow('1 elements, naive run 2');
  });

  it('grows with the length of the sum that it is derived from', () => {
    const run = (n: number) => {
      const x = toF32(Float64Array.from({ length: n }, (_, i) => Math.sin(i * i) + 1));
      const sum = (r: (v: number) => number) => x.reduce((s, a) => r(s + a), 0);
      return budget([sum(f64)], [sum(f32)], { ulps: 0 }).abs / sum(f64);
    };
    expect(run(20000)).toBeGreaterThan(4 * run(20));
  });
});
