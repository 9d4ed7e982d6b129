// The measures of generators against NumPy's and SciPy's: test/golden/golden_metrics.py.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { lacksEvaluation } from '../../src/train/eval/during.ts';
import { dotTiles, rowsOf, transposed } from '../../src/train/eval/dots.ts';
import { frechetDistance } from '../../src/train/eval/frechet.ts';
import { labelsOf } from '../../src/train/eval/evaluate.ts';
import { inceptionScore } from '../../src/train/eval/inception-score.ts';
import { drawSubsets, kernelDistance } from '../../src/train/eval/kernel-distance.ts';
import { momentsOf, pivotedCholesky } from '../../src/train/eval/factor.ts';
import { measure, mostPaired } from '../../src/train/eval/measure.ts';
import { measureThreaded } from '../../src/train/eval/measure-threaded.ts';
import { neighbourMeasures } from '../../src/train/eval/neighbours.ts';
import { nuclearNorm } from '../../src/train/eval/nuclear.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { HostRng } from '../../src/util/philox.ts';
import { loadGoldenCases } from '../golden/load.ts';

type Result =
  'fd' | 'kid' | 'kidStd' | 'is' | 'isStd' | 'precision' | 'recall' | 'density' | 'coverage';

const cases = loadGoldenCases<Record<Result, number>>('metrics');

/** Rows of integers from a golden tensor [n, m]. */
function integerRows(data: Float32Array, n: number): Uint32Array[] {
  const m = data.length / n;
  return Array.from({ length: n }, (_u, i) => Uint32Array.from(data.subarray(i * m, (i + 1) * m)));
}

function normals(n: number, d: number, seed: number): Float32Array {
  const rng = new HostRng(seed);
  return Float32Array.from({ length: n * d }, () => rng.normal());
}

test('a step that was measured in another way, or not, lacks its evaluation', () => {
  const run = mkdtempSync(join(tmpdir(), 'wgsagan-lacks-'));
  try {
    const config = resolveConfig({ data: 'none', steps: 4, evalEvery: 2, evalSamples: 20 });
    const lacks = () => [1, 2, 4].map((step) => lacksEvaluation(run, step, config));
    expect(lacks()).toEqual([false, true, true]);
    const lines = [
      { step: 2, n: 20, generator: 'ema' },
      { step: 4, n: 10, generator: 'ema' },
      { step: 4, n: 20, generator: 'raw' },
    ];
    const texts = [...lines.map((line) => JSON.stringify(line)), 'null', '7', '{'];
    writeFileSync(join(run, 'eval.jsonl'), texts.join('\n'));
    expect(lacks()).toEqual([false, false, true]);
  } finally {
    rmSync(run, { recursive: true });
  }
});

describe('measures of generators', () => {
  test.each(cases)('$name: what NumPy and SciPy say', ({ params, tensors, get }) => {
    const d = tensors.get('real')?.shape[1] ?? 0;
    const [real, made] = [get('real'), get('made')];
    const [a, b] = [momentsOf(real, d), momentsOf(made, d)];
    // Rounding is of the size of what is added up, not of what is left of it.
    const scale = a.trace + b.trace + Math.hypot(...a.mean.map((m, k) => m - (b.mean[k] ?? NaN)));
    // Variances that rounding hides in a covariance are left out of it, and it is their roots that are added up.
    const hidden = [a, b].some((m) => m.n > d && m.factor.n > 0 && m.factor.n < d);
    const rounding = hidden ? Math.sqrt(d * Number.EPSILON) : 1e-12;
    expect(Math.abs(frechetDistance(a, b) - params.fd)).toBeLessThanOrEqual(rounding * (1 + scale));

    const [x, y] = [rowsOf(real, d), rowsOf(made, d)];
    const count = tensors.get('real_rows')?.shape[0] ?? 0;
    const ofMade = integerRows(get('made_rows'), count);
    const subsets = integerRows(get('real_rows'), count).map((rows, i) => ({
      real: rows,
      made: ofMade[i] ?? rows,
    }));
    const { kid, kidStd } = kernelDistance(x, y, subsets);
    const kernel = Math.max(...[x, y].map((rows) => largestKernel(rows.data, d)));
    expect(Math.abs(kid - params.kid)).toBeLessThanOrEqual(1e-13 * kernel);
    expect(Math.abs(kidStd - params.kidStd)).toBeLessThanOrEqual(1e-13 * kernel);

    const { is, isStd } = inceptionScore(get('probabilities'), 5, 3);
    expect(is).toBeCloseTo(params.is, 12);
    expect(isStd).toBeCloseTo(params.isStd, 12);

    const { precision, recall, density, coverage } = neighbourMeasures(x, y);
    expect({ precision, recall, density, coverage }).toEqual({
      precision: params.precision,
      recall: params.recall,
      density: expect.closeTo(params.density, 12) as number,
      coverage: params.coverage,
    });
  });

  test('a set is at no distance from itself, and moved by v at |v|²', () => {
    const set = normals(300, 20, 1);
    const moved = set.map((v) => Math.fround(v + 2));
    const [a, b] = [momentsOf(set, 20), momentsOf(moved, 20)];
    expect(frechetDistance(a, a)).toBeLessThan(1e-12);
    // Adding 2 rounds each feature of its own.
    expect(frechetDistance(a, b)).toBeCloseTo(80, 4);
  });

  test('normals of other widths are at the distance that the formula has for them', () => {
    const one = normals(4000, 3, 2);
    const [a, b] = [
      momentsOf(one, 3),
      momentsOf(
        one.map((v) => 3 * v),
        3,
      ),
    ];
    const apart = a.mean.reduce((sum, m) => sum + (2 * m) ** 2, 0);
    expect(frechetDistance(a, b)).toBeCloseTo(apart + 4 * a.trace, 4);
  });

  test('a sum of singular values is that of the eigenvalues of AᵀA, and of a diagonal the diagonal', () => {
    const diagonal = new Float64Array(35);
    [3, -2, 0, 1e-9, 5].forEach((v, i) => (diagonal[i * 5 + i] = v));
    expect(nuclearNorm({ n: 7, d: 5, data: diagonal })).toBeCloseTo(10 + 1e-9, 13);
    expect(nuclearNorm({ n: 0, d: 4, data: new Float64Array(0) })).toBe(0);
    const wide = rowsOf(normals(11, 30, 3), 30);
    expect(nuclearNorm(wide)).toBeCloseTo(nuclearNorm(transposed(wide)), 11);
    // An orthogonal matrix has a 1 for each row.
    const [c, s] = [Math.cos(0.7), Math.sin(0.7)];
    expect(nuclearNorm({ n: 2, d: 2, data: Float64Array.of(c, -s, s, c) })).toBeCloseTo(2, 14);
    const broken = { n: 1, d: 2, data: Float64Array.of(1, NaN) };
    expect(() => nuclearNorm(broken)).toThrow('a matrix with NaN or infinity in it');
  });

  test('the factor of a covariance makes it again, with as many rows as it has rank', () => {
    const d = 9;
    const low = rowsOf(normals(3, d, 4), d);
    const columns = transposed(low);
    const matrix = new Float64Array(d * d);
    for (const tile of dotTiles(columns, columns)) matrix.set(tile.values.subarray(0, d * d));
    const factor = pivotedCholesky(matrix, d);
    expect(factor.n).toBe(3);
    const back = transposed(factor);
    for (const { values } of dotTiles(back, back)) {
      matrix.forEach((v, i) => expect(values[i]).toBeCloseTo(v, 12));
    }
  });

  test('subsets are drawn by their seed, no row twice, and of half the rows where there are few', () => {
    const [one, two] = drawSubsets({ real: 50, made: 60 }, { count: 2, size: 20 });
    expect(drawSubsets({ real: 50, made: 60 }, { count: 2, size: 20 })).toEqual([one, two]);
    expect(one).not.toEqual(two);
    expect(new Set(one?.real).size).toBe(20);
    expect(drawSubsets({ real: 50, made: 7 }, { count: 1 })[0]?.made.length).toBe(3);
  });

  test('a score of classes that are sure and even is their number, of unsure ones 1', () => {
    const sure = Float32Array.from({ length: 40 }, (_u, i) =>
      Number(i % 4 === Math.floor(i / 4) % 4),
    );
    expect(inceptionScore(sure, 4, 2).is).toBeCloseTo(inceptionScore(sure, 4, 2).is, 12);
    expect(inceptionScore(sure.subarray(0, 32), 4, 2)).toEqual({
      is: expect.closeTo(4, 6) as number,
      isStd: 0,
    });
    expect(inceptionScore(new Float32Array(40).fill(0.25), 4).is).toBeCloseTo(1, 12);
  });

  test('too few rows are refused by name', () => {
    const few = normals(1, 4, 5);
    expect(() => momentsOf(few, 4)).toThrow(
      'a covariance needs two rows at least, and there are 1',
    );
    const rows = rowsOf(normals(5, 4, 6), 4);
    expect(() => neighbourMeasures(rows, rows)).toThrow(
      'neighbours are counted among 6 images at least',
    );
    const subsets = [{ real: Uint32Array.of(0), made: Uint32Array.of(0) }];
    expect(() => kernelDistance(rows, rows, subsets)).toThrow('needs two rows at least');
  });

  test('the classes of made images have the shares of the real ones in every stretch, though those lie class by class', () => {
    const classes = ['a', 'b', 'c', 'd'];
    const dataset = { name: 'four', classes, size: 400, label: (i: number) => Math.floor(i / 100) };
    const config = resolveConfig({
      ...{ data: 'x', preset: 'sagan-resnet-32', conditional: true, classes: 4 },
    });
    const checkpoint = { config, progress: { step: 1, loader: undefined }, path: 'p' };
    for (const n of [40, 41, 2048]) {
      const labels = labelsOf(checkpoint, dataset, n) ?? new Uint32Array();
      const split = Math.floor(n / 10);
      for (let from = 0; from + split <= n; from += split) {
        const counts = classes.map(
          (_c, k) => labels.subarray(from, from + split).filter((label) => label === k).length,
        );
        for (const count of counts) expect(Math.abs(count - split / 4)).toBeLessThanOrEqual(2);
      }
    }
    // Files that were found to be bad since, in whose place images of another class stand, change none of them.
    const found = { ...dataset, label: () => 0, listedLabel: dataset.label };
    expect(labelsOf(checkpoint, found, 41)).toEqual(labelsOf(checkpoint, dataset, 41));
    expect(() =>
      labelsOf({ ...checkpoint, config: { ...config, classes: 3 } }, dataset, 40),
    ).toThrow('four has images of class d, and checkpoint p knows a, b, c');
  });

  test('of more rows than are paired some are taken from everywhere', () => {
    const n = 2 * mostPaired;
    const sorted = Float32Array.from({ length: n }, (_u, i) => (i < mostPaired ? 0 : 1));
    const extractor = { name: 'x', isInception: false, featureSize: 1, classCount: undefined };
    const made = sorted.map((_v, i) => ((i * 7) % n < mostPaired ? 0 : 1));
    const { kid } = measure(extractor, { real: { features: sorted }, made: { features: made } }, [
      'kid',
    ]);
    // Half of either are 0 and half 1: the same distribution. The first rows of the sorted ones alone would be 1 away from it.
    expect(Math.abs(kid ?? NaN)).toBeLessThan(0.05);
  });

  test('clips are not evaluated while training', () => {
    const clips = { data: 'moving-shapes', preset: 'video-32-tiny', evalEvery: 5 };
    expect(() => resolveConfig(clips)).toThrow(
      '--eval-every 5 measures stills, and video-32-tiny makes clips: leave it out',
    );
  });

  describe('in a thread of their own', { timeout: 60_000 }, () => {
    const seen = { name: 'x', isInception: true, featureSize: 24, classCount: undefined };
    const features = () => ({
      real: { features: normals(300, 24, 1) },
      made: { features: normals(200, 24, 2) },
    });

    test('are the same numbers, and it tells how far it is', async () => {
      const told: string[] = [];
      const onWork = (what: string) => (done: number, total: number) =>
        done === total ? told.push(what) : 0;
      const measures = await measureThreaded(seen, features(), ['fd', 'kid', 'pr'], onWork);
      expect(measures).toEqual(measure(seen, features(), ['fd', 'kid', 'pr']));
      expect(told).toEqual(expect.arrayContaining(['kernel distance', 'neighbours']));
      // The thread is kept: the next asks it, tells its own, and may ask another beside it.
      const [again, quiet] = await Promise.all([
        measureThreaded(seen, features(), ['kid'], (what) => () => void told.push(`again ${what}`)),
        measureThreaded(seen, features(), ['fd']),
      ]);
      expect([again, quiet]).toEqual([
        measure(seen, features(), ['kid']),
        measure(seen, features(), ['fd']),
      ]);
      expect(told.filter((what) => what === 'again kernel distance')).not.toEqual([]);
    });

    test('end at once where they are told to, and their errors come back', async () => {
      const onWork = () => () => {
        throw new Error('enough');
      };
      await expect(measureThreaded(seen, features(), ['fd', 'pr'], onWork)).rejects.toThrow(
        'enough',
      );
      const bad = { ...features(), made: { features: new Float32Array(24).fill(NaN) } };
      await expect(measureThreaded(seen, bad, ['fd'])).rejects.toThrow(
        'x sees NaN or infinity in the made images',
      );
    });
  });

  test('long work tells how far it is, and ends at all of it', () => {
    const told: string[] = [];
    const rows = rowsOf(normals(130, 3, 7), 3);
    neighbourMeasures(rows, rows, (done, total) => told.push(`${done}/${total}`));
    expect(told[0]).toBe('1/21');
    expect(told.at(-1)).toBe('21/21');
  });
});

/** The largest k(x, x) of some rows: what rounding is measured by. */
function largestKernel(data: Float64Array, d: number): number {
  let most = 0;
  for (let at = 0; at < data.length; at += d) {
    let sum = 0;
    for (let k = at; k < at + d; k++) sum += (data[k] ?? 0) ** 2;
    most = Math.max(most, (sum / d + 1) ** 3);
  }
  return most;
}
