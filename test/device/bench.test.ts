// The harness and the tuner on a device: right rungs are timed, wrong ones refused, and what was tuned is what runs.
import { describe, expect, inject, test } from 'vitest';
import { convFamily } from '../../bench/families/conv.ts';
import { matmulFamily } from '../../bench/families/matmul.ts';
import { normFamily } from '../../bench/families/norm.ts';
import { softmaxFamily } from '../../bench/families/softmax.ts';
import { spectralFamily } from '../../bench/families/spectral.ts';
import { measure } from '../../bench/harness.ts';
import type { Task } from '../../bench/harness.ts';
import { resultSchema } from '../../bench/results.ts';
import { runFamily } from '../../bench/run.ts';
import { resolveCases } from '../../bench/cases.ts';
import { tune } from '../../bench/tune.ts';
import type { Choice } from '../../src/gpu/choices.ts';
import { openGpu } from '../../src/gpu/device.ts';
import { ladderNamed } from '../../src/kernels/ladders.ts';
import type { AnyLadder, AnyRung } from '../../src/kernels/ladders.ts';
import { matmulLadder } from '../../src/kernels/matmul.ts';
import { halfRung } from '../../src/kernels/matmul-matrix.ts';
import type { MatmulArgs, MatmulDims, MatmulRung } from '../../src/kernels/matmul.ts';
import type { NormGradsArgs } from '../../src/kernels/norm-sums.ts';
import { choose, choiceKey } from '../../src/kernels/rung.ts';
import { openTestGpu } from '../support/device.ts';
import { openMatrixGpu } from '../support/matrices.ts';

const gpu = await openTestGpu({ guard: false });

const dims: MatmulDims = {
  ...{ M: 20, N: 36, K: 12, batch: 1, strideA: 0, strideB: 0 },
  ...{ transA: false, transB: false },
};
const quick = { rounds: 3, seconds: 1 };
const task: Task = { ladder: ladderNamed('matmul'), dims, label: 'a small product' };

/** A rung of matmul with something wrong about its arguments. */
const spoilt = (name: string, spoil: (args: MatmulArgs) => MatmulArgs): MatmulRung => {
  const [naive] = matmulLadder.rungs;
  return { ...naive!, name, run: (device, args) => naive!.run(device, spoil(args)) };
};
/** The same of the rung that reads tensors of f16 as they lie. */
const spoiltHalf = (name: string, spoil: (args: MatmulArgs) => MatmulArgs): MatmulRung => ({
  ...halfRung,
  name,
  run: (device, args) => {
    halfRung.run(device, spoil(args));
  },
});
const wrong = spoilt('matmul/0_wrong', (args) => ({ ...args, alpha: 1.0001 }));
/** Leaves the last row as it was. */
const short = spoilt('matmul/0_short', (args) => ({ ...args, M: args.M - 1 }));

const withRung = (rung: MatmulRung): AnyLadder => ({
  ...matmulLadder,
  rungs: [...matmulLadder.rungs, rung],
});

describe('the harness', () => {
  test('verifies and times every rung that fits, and marks what ships', async () => {
    const measured = await measure(gpu, task, quick);
    const fitting = matmulLadder.rungs.filter((rung) => rung.fits(gpu, dims));
    expect(measured.map(({ rung }) => rung)).toEqual(fitting.map(({ name }) => name));
    for (const one of measured) {
      expect(one.ms?.median).toBeGreaterThan(0);
      expect(one.ms?.samples).toBe(3);
      expect(one.verified).toBe(512);
      expect(one.memoryBytes).toBe(4 * (20 * 12 + 12 * 36 + 20 * 36));
    }
    const shipped = measured.filter((one) => one.shipped).map(({ rung }) => rung);
    expect(shipped).toEqual([choose(gpu, matmulLadder, dims).rung.name]);
  });

  test('takes every legal tile when asked to', async () => {
    const measured = await measure(gpu, task, { ...quick, everyTile: true });
    const legal = matmulLadder.rungs.filter((rung) => rung.fits(gpu, dims));
    const tiles = legal.reduce((sum, rung) => sum + rung.tiles(gpu, dims).length, 0);
    expect(tiles).toBeGreaterThan(legal.length);
    expect(measured).toHaveLength(tiles);
    expect(measured.filter((one) => one.shipped)).toHaveLength(1);
  });

  test('refuses a kernel that is wrong by a ten-thousandth, naming rung, case and worst element', async () => {
    const ladder = withRung(wrong);
    await expect(measure(gpu, { ...task, ladder }, quick)).rejects.toThrow(
      /^matmul\/0_wrong is wrong at a small product: out\[\d+\] is \S+, expected \S+ \(error .*, allowed /,
    );
  });

  test('refuses a kernel that leaves elements out', async () => {
    const ladder = withRung(short);
    await expect(measure(gpu, { ...task, ladder }, quick)).rejects.toThrow(
      'matmul/0_short is wrong at a small product: out[684] is NaN or was never written',
    );
  });

  test('leaves out, with the reason, what passes a limit of the device', async () => {
    const greedy: MatmulRung = {
      ...matmulLadder.rungs[0]!,
      name: 'matmul/0_greedy',
      run: (device) => device.alloc(2 ** 40, 'a map of everything'),
    };
    const measured = await measure(gpu, { ...task, ladder: withRung(greedy) }, quick);
    const last = measured.at(-1);
    expect(last?.left).toMatch(/^a map of everything needs 1099511627776 bytes/);
    expect(last?.ms).toBeUndefined();
    expect(measured.filter((one) => one.ms !== undefined).length).toBeGreaterThan(1);
  });

  test('gives its memory back', async () => {
    const before = gpu.pool.stats().liveBytes;
    await measure(gpu, task, quick);
    await measure(gpu, { ...task, ladder: withRung(wrong) }, quick).catch(() => undefined);
    expect(gpu.pool.stats().liveBytes).toBe(before);
  });

  test('makes whole results of a family, with rates under measured roofs', async () => {
    const cases = resolveCases(matmulFamily, { sizes: '48,16x16x16x3' }, true);
    const places: number[] = [];
    const result = await runFamily(gpu, matmulFamily, cases, {
      ...quick,
      onCase: (_one, { done }) => places.push(done),
    });
    expect(resultSchema.parse(result)).toEqual(result);
    expect(places).toEqual([1, 2]);
    const [first] = result.cases;
    expect(first).toMatchObject({ label: '48×48×48', flops: 2 * 48 ** 3, bytes: 12 * 48 ** 2 });
    for (const { ms, gflops, gbs, percentOfPeak } of first!.rungs) {
      expect(gflops).toBeCloseTo((2 * 48 ** 3) / ms!.median / 1e6, 6);
      expect(gbs).toBeCloseTo((12 * 48 ** 2) / ms!.median / 1e6, 6);
      const roofs = [gflops! / result.peaks.fmaGflops, gbs! / result.peaks.copyGBs];
      expect(percentOfPeak).toBeCloseTo(100 * Math.max(...roofs), 6);
    }
    expect(result.environment).toMatchObject({ adapter: gpu.adapter.name, robustness: 'on' });
  });

  test('measures what changes its operands, as a power iteration does', async () => {
    const cases = resolveCases(spectralFamily, { sizes: '12x20' }, true);
    const result = await runFamily(gpu, spectralFamily, cases, quick);
    const { rungs } = ladderNamed('power-iteration');
    const fitting = rungs.filter((rung) => rung.fits(gpu, { outer: 1, rows: 12, inner: 20 }));
    expect(result.cases[0]?.rungs.map(({ rung }) => rung)).toEqual(fitting.map(({ name }) => name));
  });

  // By luck a plain loop over one channel is far nearer than its order of adding deserves.
  test('does not take a long sum that cancels for wrong, nor a lost image for right', async () => {
    const cases = resolveCases(normFamily, { sizes: '1x1x32,1x1x64,5x1x2,5x1x10' }, true);
    const result = await runFamily(gpu, normFamily, cases, quick);
    expect(result.cases).toHaveLength(8);
    const ladder = ladderNamed('norm-grads');
    const [naive] = ladder.rungs;
    const lossy: AnyRung = {
      ...naive!,
      run: (device, args) => naive!.run(device, { ...(args as NormGradsArgs), N: 63 }),
    };
    const lost = { ladder: { ...ladder, rungs: [...ladder.rungs, lossy] }, label: 'sagan-64' };
    await expect(measure(gpu, { ...lost, dims: { N: 64, C: 64, L: 256 } }, quick)).rejects.toThrow(
      /^norm\/grads_1_naive is wrong at sagan-64: /,
    );
  });
});

describe('tensors of f16', () => {
  const halves: MatmulDims = { ...dims, M: 19, N: 35, K: 11, stored: 'f16' };
  const f16 = gpu.features.has('shader-f16');

  test.skipIf(!f16)(
    'are measured on rungs that read them, and on rungs of f32 with copies',
    async () => {
      const measured = await measure(gpu, { ...task, dims: halves }, quick);
      const floats = { ...halves, stored: undefined };
      const serving = matmulLadder.rungs.filter(
        (rung) => rung.fits(gpu, halves) || rung.fits(gpu, floats),
      );
      expect(measured.map(({ rung }) => rung)).toEqual(serving.map(({ name }) => name));
      const shipped = choose(gpu, matmulLadder, halves);
      expect(measured.find((one) => one.shipped)?.rung).toBe(shipped.rung.name);
      const operands = 2 * (19 * 11 + 11 * 35 + 19 * 35);
      for (const { rung, verified, memoryBytes } of measured) {
        expect(verified).toBe(512);
        const [native] = matmulLadder.rungs.filter(({ name }) => name === rung);
        // The copies are scratch of the rungs that need them.
        if (native!.fits(gpu, halves)) expect(memoryBytes, rung).toBe(operands);
        else expect(memoryBytes, rung).toBeGreaterThan(2.9 * operands);
      }
    },
  );

  test.skipIf(!f16)(
    'a wrong kernel and one that leaves elements out are refused in f16 too',
    async () => {
      const off = spoiltHalf('matmul/0_off', (args) => ({ ...args, alpha: 1.002 }));
      const cut = spoiltHalf('matmul/0_cut', (args) => ({ ...args, M: args.M - 1 }));
      const of = (rung: MatmulRung) => ({ ...task, dims: halves, ladder: withRung(rung) });
      await expect(measure(gpu, of(off), quick)).rejects.toThrow(
        /^matmul\/0_off \(BM .*\) is wrong at a small product: out\[\d+\] is /,
      );
      await expect(measure(gpu, of(cut), quick)).rejects.toThrow(
        /^matmul\/0_cut \(BM .*\) is wrong at a small product: out\[630\] is NaN or was never written$/,
      );
    },
  );

  test.skipIf(!f16)('come to a family by its axis, and operands that may be rounded', async () => {
    const axes = { precision: 'f16,stored-f16' };
    const cases = resolveCases(convFamily, { sizes: '2x3x5x7x3', axes }, true);
    const result = await runFamily(gpu, convFamily, cases, { ...quick, passes: ['forward'] });
    expect(resultSchema.parse(result)).toEqual(result);
    expect(result.cases).toHaveLength(2);
    const [rounded, stored] = [result.cases[0]!, result.cases[1]!];
    expect(stored.label).toBe(`${rounded.label.slice(0, -' f16'.length)} stored-f16`);
    expect(stored.bytes).toBe(rounded.bytes / 2);
    expect(stored.rungs.map(({ rung }) => rung)).toEqual(rounded.rungs.map(({ rung }) => rung));
  });

  test.skipIf(!f16)('come to tensor cores where a device has them', async () => {
    const device = await openMatrixGpu();
    // The emulated device says more lanes than its subgroups have.
    const rungs = matmulLadder.rungs.filter(({ name }) => !name.endsWith('lanes'));
    const ladder: AnyLadder = { ...matmulLadder, rungs };
    const rounded = { ...dims, precision: 'f16' as const };
    const measured = await measure(device!, { ...task, ladder, dims: rounded }, quick);
    const shipped = measured.find((one) => one.shipped);
    expect(shipped).toMatchObject({ rung: 'matmul/7_tensor_cores', verified: 512 });
    expect(measured.map(({ rung }) => rung)).toContain('matmul/6_f16');
  });

  test.skipIf(!f16)('are verified on every rung of softmax and of batch norm', async () => {
    for (const [family, sizes] of [
      [softmaxFamily, '7x36'],
      [normFamily, '3x5x6'],
    ] as const) {
      const cases = resolveCases(family, { sizes, axes: { precision: 'f32,stored-f16' } }, true);
      const { cases: measured } = await runFamily(gpu, family, cases, quick);
      expect(measured).toHaveLength(2 * family.passes.length);
      for (const [i, floats] of measured.slice(0, family.passes.length).entries()) {
        const halves = measured[family.passes.length + i]!;
        expect(halves.label).toBe(`${floats.label} stored-f16`);
        expect(halves.bytes).toBe(floats.bytes / 2);
        expect(halves.rungs.map(({ rung }) => rung)).toEqual(floats.rungs.map(({ rung }) => rung));
      }
    }
  });

  test.skipIf(f16)('are refused where the device has none, in a line', async () => {
    await expect(measure(gpu, { ...task, dims: halves }, quick)).rejects.toThrow(
      'a small product: tensors of f16 need shader-f16, which this device lacks',
    );
  });

  test.skipIf(!f16)(
    'are tuned, and a rung that needs copies is among what is tried and runs',
    async () => {
      gpu.choices.forget();
      choose(gpu, matmulLadder, halves);
      const key = choiceKey(matmulLadder, halves);
      const [found] = await tune(gpu, new Map(gpu.choices.asked), { limit: 60, rounds: 3 });
      expect(found).toMatchObject({ key, ladder: 'matmul' });
      const [naive] = matmulLadder.rungs;
      const tuned = await openGpu({
        driver: inject('driver'),
        tuned: () => new Map([[key, { rung: naive!.name, tile: {} }]]),
      });
      try {
        expect(choose(tuned, matmulLadder, halves)).toEqual({
          rung: naive,
          tile: {},
          widened: true,
        });
        const measured = await measure(tuned, { ...task, dims: halves }, quick);
        expect(measured.find((one) => one.shipped)?.rung).toBe(naive!.name);
      } finally {
        tuned.close();
      }
    },
  );
});

describe('tuning', () => {
  const key = choiceKey(matmulLadder, dims);
  const asked = () => {
    gpu.choices.forget();
    choose(gpu, matmulLadder, dims);
    return new Map(gpu.choices.asked);
  };

  test('finds a rung and a legal tile, no slower than the usual one', async () => {
    const [found] = await tune(gpu, asked(), { limit: 60, rounds: 3 });
    expect(found).toMatchObject({ key, ladder: 'matmul' });
    expect(found!.ms).toBeLessThanOrEqual(found!.usualMs);
    expect(found!.tried).toBeGreaterThan(1);
    const rung = matmulLadder.rungs.find(({ name }) => name === found!.best.rung);
    expect(rung?.tiles(gpu, dims)).toContainEqual(found!.best.tile);
  });

  test('what was tuned is what runs, and is said to be tuned', async () => {
    const usual = choose(gpu, matmulLadder, dims);
    const other = matmulLadder.rungs.find((rung) => rung !== usual.rung && rung.fits(gpu, dims))!;
    const tile = other.tiles(gpu, dims).at(-1)!;
    // As it comes back from a file.
    const kept = JSON.parse(JSON.stringify({ rung: other.name, tile })) as Choice;
    const names: string[] = [];
    const tuned = await openGpu({
      driver: inject('driver'),
      tuned: ({ name }) => {
        names.push(name);
        return new Map([[key, kept]]);
      },
    });
    try {
      expect(names).toEqual([gpu.adapter.name]);
      expect(choose(tuned, matmulLadder, dims)).toEqual({ rung: other, tile, widened: false });
      expect(tuned.choices.asked.get(key)?.tuned).toBe(true);
      const other2 = { ...dims, M: 21 };
      choose(tuned, matmulLadder, other2);
      expect(tuned.choices.asked.get(choiceKey(matmulLadder, other2))?.tuned).toBe(false);
      const measured = await measure(tuned, task, quick);
      expect(measured.find((one) => one.shipped)).toMatchObject({ rung: other.name, tile });
    } finally {
      tuned.close();
    }
  });

  test('tells of a wrong rung and never chooses it', async () => {
    const told: string[] = [];
    // Wrong, and the fastest: it does next to nothing.
    const fast = spoilt('matmul/0_fast', (args) => ({ ...args, M: 1 }));
    const ladder = withRung(fast);
    const measured = await measure(
      gpu,
      { ...task, ladder },
      { ...quick, everyTile: true, onWrong: (error) => told.push(error.message) },
    );
    expect(told).toEqual([expect.stringMatching(/^matmul\/0_fast is wrong at a small product: /)]);
    const left = measured.find(({ rung }) => rung === 'matmul/0_fast');
    expect(left).toMatchObject({ left: 'computes something else' });
    expect(left?.ms).toBeUndefined();
  });

  test('ends at its limit, with what it has', async () => {
    expect(await tune(gpu, asked(), { limit: 0 })).toEqual([]);
    expect(await tune(gpu, asked(), { limit: 60, stop: () => true })).toEqual([]);
  });
});
