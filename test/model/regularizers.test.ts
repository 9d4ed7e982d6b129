// Penalties on the discriminator's slope against PyTorch's double backward, in every combination with a loss, and in f16.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { memoryDataset } from '../../src/data/memory.ts';
import { loadState } from '../../src/nn/state.ts';
import { readNewestCheckpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan, ganStep, reportedBy } from '../../src/train/gan.ts';
import { stepInputs, watchedOf } from '../../src/train/learner.ts';
import type { Gan } from '../../src/train/gan.ts';
import { mul } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { lossNames } from '../../src/train/losses.ts';
import { penaltyOf, regularizerNames } from '../../src/train/regularizers.ts';
import type { RegularizerName } from '../../src/train/regularizers.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import type { MetricLine } from '../../src/train/run-folder.ts';
import { train } from '../../src/train/trainer.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { maxAbs, softmaxAllowance, ulp } from '../reference/naive.ts';
import { expectClose, expectTensorClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { bitsOf, eagerly, replayed } from '../support/ops.ts';
import { uniform } from '../support/random.ts';
import { secondBudget } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const has16 = gpu.features.has('shader-f16');

/** Conv → LeakyReLU → attention → conv, all spectrally normalised: the discriminator of golden/golden_losses.py. */
const tiny = {
  ...{ data: 'noise', preset: 'sagan-32-tiny', imageSize: 8, width: 8, attentionD: [4] },
  ...{ attentionG: [4], batch: 2, latentSize: 3 },
};

describe('a penalty through convolutions, spectral norm and attention, against PyTorch', () => {
  const cases = loadGoldenCases('penalties');
  const { discriminator } = createGan(tape, resolveConfig(tiny));
  const names = [...discriminator.namedParameters()].map(([name]) => name);

  test.each(cases)('$name: its value and the gradient of every parameter', async (golden) => {
    const { name, tensors, get } = golden;
    const input = (key: string) => tensor(tape, get(key), tensors.get(key)!.shape, { label: key });
    const [real, fake] = [input('real'), input('fake')];
    const alpha = golden.has('alpha') ? input('alpha') : real;
    const state = new Map([...tensors].filter(([key]) => key.startsWith('main.')));
    const body = () => {
      const penalty = penaltyOf(name as RegularizerName, {
        ...{ real, fake, score: (x) => discriminator.forward(x) },
        rng: {
          uniform: (shape) => {
            expect(shape).toEqual(alpha.shape);
            return alpha;
          },
        },
      })!;
      return [penalty, ...grad([penalty], discriminator.parameters(), { allowUnused: true })];
    };
    loadState(discriminator, state, 'golden');
    const results = await eagerly(gpu, body);
    // The longest sum is that of a weight's gradient, over batch and positions; scores that were scaled up, of softmax.
    const terms = 3 * 8 * 16;
    const allowance = softmaxAllowance(16);
    expect(results[0]!.shape).toEqual([]);
    const value = secondBudget([get('penalty')], { terms, allowance });
    expectClose(results[0]!.data, get('penalty'), value, 'penalty');
    // A gradient that cancels is off by its terms' rounding: those are no larger than the largest gradient of the net.
    const largest = Math.max(...names.map((key) => maxAbs(get(`grad.${key}`))));
    names.forEach((key, i) => {
      const golden = tensors.get(`grad.${key}`)!;
      const limit = secondBudget([golden.data], { terms, allowance, noise: 4 * ulp(largest) });
      expectTensorClose(results[1 + i]!, golden, limit, key);
    });
    loadState(discriminator, state, 'golden');
    expect(bitsOf(await replayed(gpu, body))).toEqual(bitsOf(results));
  });
});

test('a discriminator that is flat at an image is no error, and gp pushes it nowhere', async () => {
  const images = tensor(tape, new Float32Array(2 * 3 * 4), [2, 3, 2, 2]);
  const weight = tensor(tape, [0], [1], { requiresGrad: true });
  const penalty = penaltyOf('gp', {
    ...{ real: images, fake: images, score: (x) => mul(sum(x, [1, 2, 3]), weight) },
    rng: { uniform: (shape) => tensor(tape, new Float32Array(2).fill(0.5), shape) },
  })!;
  // The norm is held at 10⁻⁶.
  expectClose([await penalty.item()], [1], { abs: 4e-6 }, 'penalty');
  expect([...(await grad([penalty], [weight])[0]!.read())].map(Math.abs)).toEqual([0]);
});

/** Feeds noise, and runs steps. */
async function stepsOf(gan: Gan, count: number): Promise<number[][]> {
  const inputs = stepInputs(gan);
  const next = uniform(7);
  const values: number[][] = [];
  const names = reportedBy(gan.config);
  for (let i = 0; i < count; i++) {
    for (const { images } of inputs) {
      images.set(Uint32Array.from({ length: images.size }, () => next() * 2 ** 32));
    }
    const keep = (out: ReturnType<typeof ganStep>) => names.map((name) => out[name]!);
    const made = gpu.scope(
      () => ganStep(gan, inputs),
      (out) => keep(out).map((t) => t.storage),
    );
    values.push(await Promise.all(keep(made).map((t) => t.item())));
    for (const t of keep(made)) gpu.release(t.storage);
  }
  return values;
}

const readAll = async (gan: Gan) => {
  const nets = [gan.generator, gan.discriminator];
  const all = nets.flatMap((net) => [...net.namedParameters(`${net.path}.`)]);
  return new Map(await Promise.all(all.map(async ([name, p]) => [name, await p.read()] as const)));
};

describe('every loss with every regulariser', () => {
  const pairs = lossNames.flatMap((loss) =>
    regularizerNames.map((regularizer) => ({ loss, regularizer })),
  );

  test.each(pairs)('$loss with $regularizer: two steps move every weight', async (chosen) => {
    const gan = createGan(tape, resolveConfig({ ...tiny, ...chosen }));
    const before = await readAll(gan);
    const values = await stepsOf(gan, 2);
    expect(values.flat().every(Number.isFinite)).toBe(true);
    const penalised = chosen.regularizer !== 'none';
    expect(values[0]).toHaveLength(penalised ? 8 : 7);
    if (penalised) expect(values.every(([, , , , penalty]) => penalty! > 0)).toBe(true);
    for (const [name, now] of await readAll(gan)) {
      expect(now.every(Number.isFinite), name).toBe(true);
      if (/weight|gamma/.test(name)) expect(now, name).not.toEqual(before.get(name));
    }
  });
});

test('the weight of a penalty decides how far it pulls', async () => {
  const end = async (regularizerWeight: number) => {
    const gan = createGan(tape, resolveConfig({ ...tiny, regularizer: 'r1', regularizerWeight }));
    const start = await stepsOf(gan, 1);
    const [lossD, , dReal, dFake, penalty] = start[0]!;
    return { start: { lossD, dReal, dFake, penalty }, weights: await readAll(gan) };
  };
  const [none, one, ten] = [await end(0), await end(1), await end(10)];
  // lossD and penalty are told apart: neither knows of the weight.
  expect(one.start).toEqual(none.start);
  const last = 'discriminator.main.3.weight_orig';
  expect(none.weights.get(last)).not.toEqual(ten.weights.get(last));
  expect(one.weights.get(last)).not.toEqual(ten.weights.get(last));
});

test('the plan of a step counts the maps of attention that a penalty stores', () => {
  const planned = (chosen: object) => {
    const sizes = { imageSize: 32, width: 2, attentionG: [] };
    const gan = createGan(tape, resolveConfig({ ...tiny, ...sizes, ...chosen }));
    const step = () => watchedOf(gan, ganStep(gan, stepInputs(gan, { empty: true })));
    return gpu.capture(step).memory.plannedBytes;
  };
  const map = 4 * tiny.batch * (16 * 16) ** 2;
  const [fused, stored] = [{ attentionD: [16] }, { attentionD: [16], regularizer: 'gp' }];
  expect(planned(fused)).toBeLessThan(map);
  expect(planned({ attentionD: [], regularizer: 'gp' })).toBeLessThan(map);
  expect(planned(stored)).toBeGreaterThan(2 * map);
});

describe.skipIf(!has16).each(['gp', 'r1'] as const)('%s in f16', (regularizer) => {
  test('passes through the discriminator in f32, and trains', async () => {
    const gan = createGan(tape, resolveConfig({ ...tiny, regularizer, precision: 'f16' }));
    const inputs = stepInputs(gan);
    const { images } = inputs[0]!;
    images.set(new Uint32Array(images.size).fill(0x40_80_c0_ff));
    const capture = gpu.capture(() => watchedOf(gan, ganStep(gan, inputs)));
    const halves = (layer: string) =>
      capture.dispatches.filter((d) => d.where.layer === layer && /f16/.test(d.spec.key)).length;
    expect(halves('discriminator.main.0')).toBeGreaterThan(0);
    expect(halves('penalty')).toBe(0);
    const program = await capture.build();
    const before = await readAll(gan);
    for (let i = 0; i < 5; i++) program.run();
    for (const [name, now] of await readAll(gan)) {
      expect(now.every(Number.isFinite), name).toBe(true);
      if (/weight|gamma/.test(name)) expect(now, name).not.toEqual(before.get(name));
    }
    program.destroy();
    const values = await stepsOf(gan, 1);
    expect(values.flat().every(Number.isFinite)).toBe(true);
  });
});

describe('a run with a penalty', () => {
  const folder = mkdtempSync(join(tmpdir(), 'wgsagan-penalty-'));
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });
  const next = uniform(3);
  const dataset = memoryDataset({
    ...{ name: 'noise', description: '', fingerprint: 'noise', channels: 3, imageSize: 8 },
    classes: ['noise'],
    images: Uint8Array.from({ length: 6 * 3 * 8 * 8 }, () => next() * 256),
    labels: new Uint32Array(6),
  });
  const every = { logEvery: 3, sampleEvery: 8, checkpointEvery: 8 };

  /** Trains on to a step; the bits of the checkpoint there, and the metrics without their times. */
  async function trainTo(name: string, steps: number, more: object = {}, resumed = false) {
    const run = join(folder, name);
    const config = resolveConfig({ ...tiny, ...every, regularizer: 'gp', ...more, steps });
    const resume = resumed ? await readNewestCheckpoint(run) : undefined;
    await train({ gpu, openData: () => Promise.resolve(dataset), config, run, resume });
    const { file } = await readNewestCheckpoint(run);
    const lines = readMetrics(run).map((line): MetricLine => ({
      ...line,
      imagesPerSecond: 0,
      seconds: 0,
      wait: 0,
    }));
    return { tensors: file.tensors, lines };
  }

  test('goes on to the same bits, and reports the same penalties, after a stop', async () => {
    const whole = await trainTo('whole', 6);
    await trainTo('parts', 4);
    const parts = await trainTo('parts', 6, {}, true);
    expect(parts.tensors).toEqual(whole.tensors);
    expect(parts.lines).toEqual(whole.lines);
    expect(whole.lines.map((line) => [line.step, line['penalty']! > 0])).toEqual([
      [3, true],
      [6, true],
    ]);
  });

  test('may have begun without one: the line it was stopped in ends there', async () => {
    await trainTo('changed', 4, { regularizer: 'none' });
    const { lines } = await trainTo('changed', 6, { regularizer: 'r1' }, true);
    expect(lines.map((line) => [line.step, line['penalty'] === undefined])).toEqual([
      [3, true],
      [4, true],
      [6, false],
    ]);
  });
});

test('penalties wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
