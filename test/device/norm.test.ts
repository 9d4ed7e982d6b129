import { describe, expect, test } from 'vitest';
import type { Stored } from '../../src/gpu/wgsl.ts';
import { batchNormApply, batchNormBackward, invStdOf } from '../../src/kernels/norm.ts';
import { normGradsLadder, normStatsLadder } from '../../src/kernels/norm-sums.ts';
import type { NormSizes } from '../../src/kernels/norm-sums.ts';
import { budget, divideAllowance, f32, f64, maxAbs, sqrtAllowance } from '../reference/naive.ts';
import { batchNorm, batchNormBackward as backwardReference } from '../reference/norm.ts';
import type { BatchNorm } from '../reference/norm.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { kept, roundedToHalf, storedOn } from '../support/half.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();
const anySizes: NormSizes = { N: 1, C: 1, L: 1 };
const statsRungs = normStatsLadder.rungs.filter((rung) => rung.fits(gpu, anySizes));
const gradsRungs = normGradsLadder.rungs.filter((rung) => rung.fits(gpu, anySizes));
const eps = 1e-5;

interface Case {
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
  readonly mean?: number;
}

const cases: readonly Case[] = [
  { N: 2, C: 1, H: 1, W: 1 },
  { N: 7, C: 5, H: 1, W: 1 },
  { N: 1, C: 3, H: 3, W: 5 },
  { N: 3, C: 7, H: 4, W: 4 },
  { N: 4, C: 6, H: 8, W: 8, mean: 100 },
  { N: 5, C: 2, H: 13, W: 11, mean: -100 },
  { N: 16, C: 3, H: 16, W: 16 },
  { N: 1, C: 2, H: 64, W: 64 },
];

const name = ({ N, C, H, W, mean = 0 }: Case) => `${N}×${C}×${H}×${W} about ${mean}`;

const eachKind = cases.flatMap((c) => storedOn(gpu).map((stored) => [name(c), stored, c] as const));

function inputs(c: Case, stored: Stored = 'f32') {
  const { N, C, H, W, mean = 0 } = c;
  const held = (values: Float64Array) => (stored === 'f16' ? roundedToHalf(values) : values);
  const n = N * C * H * W;
  const x = randomData(n, n, mean - 1, mean + 1);
  // Channels differ in place and width, so that one taken for another is seen.
  const L = H * W;
  const data = held(x.map((v, i) => Math.fround(v * (1 + (Math.floor(i / L) % C) / 4))));
  return {
    x: data,
    dy: held(randomData(n, n + 1)),
    gamma: randomData(C, 3, 0.5, 1.5),
    beta: randomData(C, 4),
    sizes: { N, C, L, stored },
    reference: { x: data, N, C, H, W, training: true, eps } satisfies BatchNorm,
  };
}

type StatsRung = (typeof statsRungs)[number];

async function stats(c: Case, rung: StatsRung, stored: Stored = 'f32') {
  const { x, sizes } = inputs(c, stored);
  const { C } = sizes;
  return execute(
    gpu,
    { x: kept[stored].content(x), mean: C, invStd: C, variance: C },
    (s) => {
      rung.run(gpu, { ...s, ...sizes, eps });
    },
    ['mean', 'invStd', 'variance'],
  );
}

describe.each(statsRungs)('statistics, $name', (rung) => {
  test.each(eachKind)('%s of %s', async (_name, stored, c) => {
    const { reference } = inputs(c, stored);
    const found = await stats(c, rung, stored);
    const expected = batchNorm(reference, f64);
    const naive = batchNorm(reference, f32);
    expectClose(found.mean, expected.mean, budget(expected.mean, naive.mean), 'mean');
    const largest = maxAbs(expected.invStd);
    const allowance = sqrtAllowance(largest) + divideAllowance(largest);
    const allowed = budget(expected.invStd, naive.invStd, { allowance });
    expectClose(found.invStd, expected.invStd, allowed, 'invStd');
    const { variance } = expected;
    const divided = { allowance: divideAllowance(maxAbs(variance)) };
    expectClose(found.variance, variance, budget(variance, naive.variance, divided), 'variance');
  });

  test('a constant channel has variance 0', async () => {
    const x = new Float32Array(2 * 3 * 25).fill(100.25);
    const found = await execute(
      gpu,
      { x, mean: 3, invStd: 3, variance: 3 },
      (s) => {
        rung.run(gpu, { ...s, N: 2, C: 3, L: 25, eps });
      },
      ['mean', 'invStd', 'variance'],
    );
    expect(found.mean).toEqual(Float32Array.of(100.25, 100.25, 100.25));
    expectClose(found.variance, [0, 0, 0], { abs: 1e-9 }, 'variance');
  });

  test('gives the same bits twenty times', async () => {
    await expectSameBits(() => stats({ N: 5, C: 2, H: 13, W: 11, mean: 100 }, rung));
  });
});

describe('apply', () => {
  test.each(eachKind)('%s of %s', async (_name, stored, c) => {
    const { x, gamma, beta, sizes, reference } = inputs(c, stored);
    const n = x.length;
    for (const [scale, shift] of [
      [true, true],
      [false, true],
      [true, false],
      [false, false],
    ]) {
      const { mean, invStd } = batchNorm(reference, f32);
      const { out } = await execute(
        gpu,
        { x: kept[stored].content(x), mean, invStd, gamma, beta, out: kept[stored].words(n) },
        (s) => {
          const { gamma: g, beta: b, ...rest } = s;
          batchNormApply(gpu, {
            ...rest,
            ...sizes,
            ...(scale ? { gamma: g } : {}),
            ...(shift ? { beta: b } : {}),
          });
        },
        ['out'],
      );
      const given = { ...reference, ...(scale ? { gamma } : {}), ...(shift ? { beta } : {}) };
      const expected = batchNorm(given, f64).y;
      const float = budget(expected, batchNorm(given, f32).y);
      const found = kept[stored].values(out, n);
      expectClose(found, expected, kept[stored].budget(float), `${scale} ${shift}`);
    }
  });
});

describe.each(gradsRungs)('gradients, $name', (rung) => {
  test.each(eachKind)('%s of %s', async (_name, stored, c) => {
    const { x, dy, gamma, sizes, reference } = inputs(c, stored);
    const { content, words, values } = kept[stored];
    const { C } = sizes;
    for (const scale of [true, false]) {
      const given = { ...reference, ...(scale ? { gamma } : {}) };
      const { mean, invStd } = batchNorm(given, f32);
      const found = await execute(
        gpu,
        {
          ...{ x: content(x), dy: content(dy), mean, invStd, gamma },
          ...{ dx: words(x.length), dgamma: C, dbeta: C },
        },
        (s) => {
          const { gamma: g, ...rest } = s;
          batchNormBackward(gpu, { ...rest, ...sizes, ...(scale ? { gamma: g } : {}), rung });
        },
        ['dx', 'dgamma', 'dbeta'],
      );
      const expected = backwardReference(given, dy, f64);
      const naive = backwardReference(given, dy, f32);
      for (const key of ['dx', 'dgamma', 'dbeta'] as const) {
        // Terms cancel: the floor is set by their size, not by the result's.
        const options = {
          scale: maxAbs(dy) * (key === 'dx' ? 2 * maxAbs(invStd) : sizes.N * sizes.L),
        };
        const float = budget(expected[key], naive[key], options);
        if (key === 'dx') {
          const dx = values(found.dx, x.length);
          expectClose(dx, expected.dx, kept[stored].budget(float), key);
        } else expectClose(found[key], expected[key], float, key);
      }
    }
  });

  test('outputs that nobody asks for are not needed', async () => {
    const { x, dy, sizes, reference } = inputs({ N: 3, C: 7, H: 4, W: 4 });
    const { mean, invStd } = batchNorm(reference, f32);
    const contents = { x, dy, mean, invStd };
    const only = await execute(
      gpu,
      { ...contents, dbeta: 7 },
      (s) => {
        batchNormBackward(gpu, { ...s, ...sizes, rung });
      },
      ['dbeta'],
    );
    const expected = backwardReference(reference, dy, f64);
    const naive = backwardReference(reference, dy, f32);
    expectClose(only.dbeta, expected.dbeta, budget(expected.dbeta, naive.dbeta), 'dbeta');
    const { dx } = await execute(
      gpu,
      { ...contents, dx: x.length },
      (s) => {
        batchNormBackward(gpu, { ...s, ...sizes, rung });
      },
      ['dx'],
    );
    expectClose(dx, expected.dx, budget(expected.dx, naive.dx, { scale: 4 }), 'dx');
  });
});

test.each(statsRungs)('running statistics move by the unbiased variance, $name', async (rung) => {
  const { x, reference, sizes } = inputs({ N: 3, C: 7, H: 3, W: 5 });
  const start = { runningMean: randomData(7, 1), runningVar: randomData(7, 2, 0.5, 2) };
  const momentum = 0.1;
  const found = await execute(
    gpu,
    { x, mean: 7, invStd: 7, variance: 7, ...start },
    ({ runningMean, runningVar, ...s }) => {
      const running = { mean: runningMean, variance: runningVar, momentum };
      rung.run(gpu, { ...s, ...sizes, eps, running });
    },
    ['runningMean', 'runningVar'],
  );
  const given = { ...reference, ...start, momentum };
  const expected = batchNorm(given, f64);
  const naive = batchNorm(given, f32);
  for (const key of ['runningMean', 'runningVar'] as const) {
    expectClose(found[key], expected[key]!, budget(expected[key]!, naive[key]!), key);
  }
});

test('invStdOf is 1/√(variance + eps)', async () => {
  const variance = Float32Array.of(0, 1e-6, 0.25, 1, 7, 1e4);
  const { invStd } = await execute(
    gpu,
    { variance, invStd: 6 },
    (s) => {
      invStdOf(gpu, { ...s, C: 6, eps });
    },
    ['invStd'],
  );
  const expected = Float64Array.from(variance, (v) => 1 / Math.sqrt(v + eps));
  expectClose(invStd, expected, { abs: 0, rel: 1e-6 }, 'invStd');
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
