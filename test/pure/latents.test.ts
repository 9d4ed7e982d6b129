// Latents by seed and index, and the plans of what `sample` makes of them.
import { describe, expect, test } from 'vitest';
import { latentOf, latents, slerp } from '../../src/train/latents.ts';
import { classSweep, interpolation, rangePlan } from '../../src/train/sampling/plan.ts';
import { HostRng } from '../../src/util/philox.ts';

const size = 6;
const source = { seed: 5, latentSize: size };
const norm = (x: Float32Array) => Math.hypot(...x);

describe('latents', () => {
  test('are the normal numbers of a seed’s stream in order, whichever are asked for', () => {
    const rng = new HostRng(5, { stream: [3, 0] });
    const all = Float32Array.from({ length: 9 * size }, () => rng.normal());
    expect(latents(5, 9, size)).toEqual(all);
    expect(latents(5, 4, size, { first: 3 })).toEqual(all.subarray(3 * size, 7 * size));
    expect(latentOf(5, 8, size)).toEqual(all.subarray(8 * size));
  });

  test('truncated lie within ±ψ, and keep what lay there already', () => {
    for (const truncation of [0.1, 0.5, 1.5]) {
      const plain = latents(5, 50, size);
      const cut = latents(5, 50, size, { truncation });
      expect(Math.max(...cut.map(Math.abs))).toBeLessThanOrEqual(truncation);
      const inside = [...plain].map((v) => Math.abs(v) <= truncation);
      expect(inside).toContain(true);
      expect(inside).toContain(false);
      expect(inside.every((kept, i) => kept === (cut[i] === plain[i]))).toBe(true);
      expect(latentOf(5, 49, size, { truncation })).toEqual(cut.subarray(49 * size));
    }
  });

  test('truncated are spread as a normal number cut at ±ψ is', () => {
    const cut = [...latents(1, 4000, size, { truncation: 1 })];
    // Var = 1 − 2ψφ(ψ)/(2Φ(ψ) − 1) = 0.2912 at ψ = 1, of which 24000 draws lie within 5 deviations
    const variance = cut.reduce((sum, v) => sum + v * v, 0) / cut.length;
    expect(Math.abs(variance - 0.2911)).toBeLessThan((5 * 0.2911 * Math.SQRT2) / Math.sqrt(24000));
    const mean = cut.reduce((sum, v) => sum + v, 0) / cut.length;
    expect(Math.abs(mean)).toBeLessThan(5 * Math.sqrt(0.2911 / 24000));
  });
});

describe('slerp', () => {
  const [a, b] = [latentOf(1, 0, 64), latentOf(1, 1, 64)];

  test('begins and ends at its ends, and turns by equal angles', () => {
    const unit = (x: Float32Array) => x.map((v) => v / norm(x));
    const [u, v] = [unit(a), unit(b)];
    const way = [0, 0.25, 0.5, 0.75, 1].map((t) => slerp(u, v, t));
    const angles = way
      .slice(1)
      .map((x, i) => Math.acos(x.reduce((s, w, j) => s + w * way[i]![j]!, 0)));
    for (const x of way) expect(norm(x)).toBeCloseTo(1, 6);
    for (const angle of angles) expect(angle).toBeCloseTo(angles[0]!, 5);
    way[0]!.forEach((w, j) => {
      expect(w).toBeCloseTo(u[j]!, 6);
    });
    way[4]!.forEach((w, j) => {
      expect(w).toBeCloseTo(v[j]!, 6);
    });
  });

  test('keeps the length of latents, where a straight line loses it', () => {
    const [low, high] = [Math.min(norm(a), norm(b)), Math.max(norm(a), norm(b))];
    expect(norm(slerp(a, b, 0.5))).toBeGreaterThan(0.95 * low);
    expect(norm(slerp(a, b, 0.5))).toBeLessThan(1.05 * high);
    expect(norm(a.map((v, i) => (v + b[i]!) / 2))).toBeLessThan(0.8 * high);
  });

  test('of vectors on one line is straight', () => {
    const way = slerp(Float32Array.of(1, 2), Float32Array.of(2, 4), 0.5);
    expect([...way]).toEqual([1.5, 3]);
  });
});

describe('plans', () => {
  const rows = (plan: { n: number; latent: (i: number) => Float32Array }) =>
    Array.from({ length: plan.n }, (_u, i) => plan.latent(i));

  test('a range begins where it is told, and is named by index; seeds by themselves', () => {
    const range = rangePlan({ ...source, first: 41 }, 2);
    expect(rows(range)).toEqual([latentOf(5, 41, size), latentOf(5, 42, size)]);
    expect([0, 1].map((i) => range.name(i))).toEqual(['0000041', '0000042']);
    const seeds = rangePlan({ ...source, seeds: [9, 2] }, 2);
    expect(rows(seeds)).toEqual([latentOf(9, 0, size), latentOf(2, 0, size)]);
    expect([0, 1].map((i) => seeds.name(i))).toEqual(['seed-9', 'seed-2']);
  });

  test('a sweep has a row a latent and a column a class', () => {
    const sweep = classSweep(source, 2, 3);
    expect(sweep).toMatchObject({ n: 6, columns: 3 });
    const [first, second] = [latentOf(5, 0, size), latentOf(5, 1, size)];
    expect(rows(sweep)).toEqual([first, first, first, second, second, second]);
    expect([0, 1, 2, 3, 4, 5].map((i) => sweep.label!(i))).toEqual([0, 1, 2, 0, 1, 2]);
    expect(sweep.name(5)).toBe('0000001-class-2');
  });

  test('an interpolation has both ends in each row; a loop has each once and closes', () => {
    const ends = [0, 1, 2].map((i) => latentOf(5, i, size));
    const close = (x: Float32Array, y: Float32Array) =>
      x.every((v, i) => Math.abs(v - y[i]!) < 1e-6);
    const way = interpolation(source, { n: 3, steps: 4 });
    expect(way).toMatchObject({ n: 8, columns: 4 });
    const made = rows(way);
    expect([0, 3, 4, 7].map((i) => ends.findIndex((end) => close(end, made[i]!)))).toEqual([
      0, 1, 1, 2,
    ]);
    const loop = interpolation(source, { n: 3, steps: 4, loop: true });
    expect(loop.n).toBe(12);
    const round = rows(loop).map((x) => ends.findIndex((end) => close(end, x)));
    expect(round).toEqual([0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1]);
    expect(close(rows(loop)[10]!, slerp(ends[2]!, ends[0]!, 0.5))).toBe(true);
  });
});
