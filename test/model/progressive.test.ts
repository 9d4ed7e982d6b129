// Progressive growing: its nets against PyTorch's in a fade and out of one, what a stage leaves alone, and runs across stages.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { memoryDataset } from '../../src/data/memory.ts';
import { hyperIndex } from '../../src/kernels/optim.ts';
import { encodePng, imageGrid } from '../../src/io/png.ts';
import type { GanOptions } from '../../src/models/gan.ts';
import { stageAt, stepsToGrow } from '../../src/models/growth.ts';
import { ProgressiveDiscriminator, ProgressiveGenerator } from '../../src/models/progressive.ts';
import type { Module } from '../../src/nn/module.ts';
import { loadState } from '../../src/nn/state.ts';
import { checkpointFolder, readNewestCheckpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { createGan } from '../../src/train/gan.ts';
import { stepInputs } from '../../src/train/learner.ts';
import { losses } from '../../src/train/losses.ts';
import { readMetrics, runPaths } from '../../src/train/run-folder.ts';
import { sampleCheckpoint } from '../../src/train/sample.ts';
import { Sampler, latents } from '../../src/train/sampler.ts';
import { type TrainEvents, train } from '../../src/train/trainer.ts';
import { HostRng } from '../../src/util/philox.ts';
import { loadGoldenCases } from '../golden/load.ts';
import { maxAbs, softmaxAllowance, tanhAllowance, ulp } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { uniform } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

test('a schedule: 4×4, then each size fades in and stays, the last for good', () => {
  const schedule = { imageSize: 16, stageSteps: 3 };
  const stages = Array.from({ length: 18 }, (_u, step) => stageAt(schedule, step));
  const fade = (index: number) => [0.25, 0.5, 0.75].map((alpha) => ({ index, alpha }));
  const stay = (index: number) => Array.from({ length: 3 }, () => ({ index, alpha: 1 }));
  expect(stages).toEqual([stay(0), fade(1), stay(1), fade(2), stay(2), stay(2)].flat());
  expect(stepsToGrow(schedule)).toBe(15);
});

interface Params {
  readonly imageSize: number;
  readonly width: number;
  readonly latentSize: number;
  readonly slope: number;
  readonly stageSteps: number;
  readonly at: number;
  readonly step: number;
}

test.each(loadGoldenCases<Params>('progressive_step'))(
  'images, scores, losses, every gradient and every buffer are PyTorch’s: $name',
  async (golden) => {
    const { at, step, ...sizes } = golden.params;
    const attention = { attention: 'plain', attentionG: [at], attentionD: [at] } as const;
    const fixed = { channels: 3, init: 'normal', conditional: false, classes: 0 } as const;
    const options: GanOptions = { ...sizes, ...attention, ...fixed };
    const [G, D] = [
      new ProgressiveGenerator(tape, options, new HostRng(1)),
      new ProgressiveDiscriminator(tape, options, new HostRng(2)),
    ];
    const load = (module: Module, prefix: string) => {
      const own = [...golden.tensors].filter(([key]) => key.startsWith(prefix));
      const state = new Map(own.map(([key, t]) => [key.slice(prefix.length), t]));
      loadState(module, state, `golden ${prefix}`);
    };
    load(G, 'g.start.');
    load(D, 'd.start.');
    for (const net of [G, D]) expect(net.growth.begin(step)).toBe(true);
    const given = (name: string, part = 0, parts = 1) => {
      const { shape, data } = golden.tensors.get(name)!;
      const size = data.length / parts;
      return tensor(tape, data.slice(part * size, (part + 1) * size), shape.slice(parts - 1));
    };
    const found = new Map<string, Tensor>();
    const keep = (net: 'g' | 'd', loss: Tensor) => {
      const { growth } = net === 'g' ? G : D;
      const present = new Set(
        growth.parts.filter((p) => growth.has(p)).flatMap((p) => p.parameters()),
      );
      const named = [...(net === 'g' ? G : D).namedParameters()].filter(([, p]) => present.has(p));
      const gradients = grad(
        [loss],
        named.map(([, p]) => p),
      );
      named.forEach(([name], i) => found.set(`${net}.grad.${name}`, gradients[i]!));
      found.set(`${net}_loss`, loss);
    };
    const fake = tape.noGrad(() => G.forward(given('z', 0, 2)));
    const seen = D.growth.show(given('real'));
    const [real, scored] = [D.forward(seen), D.forward(fake)];
    found.set('fake', fake).set('seen', seen).set('d_real', real).set('d_fake', scored);
    keep('d', losses.hinge.discriminator(real, scored));
    keep('g', losses.hinge.generator(D.forward(G.forward(given('z', 1, 2)))));
    for (const [prefix, net] of Object.entries({ g: G, d: D })) {
      for (const [name, value] of net.namedBuffers()) found.set(`${prefix}.after.${name}`, value);
    }

    const told = [...golden.tensors.keys()].filter((key) => key.startsWith('error.'));
    expect([...found.keys()].sort()).toEqual(told.map((key) => key.slice('error.'.length)).sort());
    // A gradient may be 0 but for rounding, of terms as large as the others'.
    const largest = (net: string) =>
      Math.max(
        ...[...found.keys()]
          .filter((key) => key.startsWith(`${net}.grad.`))
          .map((key) => maxAbs(golden.get(key))),
      );
    const scales = { g: largest('g'), d: largest('d') };
    for (const [name, value] of found) {
      const wanted = golden.get(name);
      const scale = name.includes('.grad.')
        ? scales[name[0] as 'g' | 'd']
        : Math.max(maxAbs(wanted), 1);
      const [error] = golden.get(`error.${name}`);
      const abs = 2 * error! + 4 * ulp(scale) + tanhAllowance + softmaxAllowance(64) * scale;
      expectClose(await value.read(), wanted, { abs }, name);
    }
  },
);

const small = {
  ...{ data: 'noise', preset: 'progressive-32', imageSize: 16, width: 2, batch: 2, latentSize: 3 },
  ...{ stageSteps: 2, attentionAt: [8], emaStart: 1, beta1: 0.5, lrG: 1e-3, lrD: 1e-3 },
};

describe('a net that grows', () => {
  const gan = createGan(tape, resolveConfig(small));
  const { generator, average, discriminator, optimizers } = gan;

  /** Everything that a checkpoint keeps, under `net.block.…`: weights, buffers, moments, step counts. */
  async function stateNow(): Promise<Map<string, Float32Array>> {
    const now = new Map<string, Float32Array>();
    for (const [net, module] of Object.entries({ generator, average, discriminator })) {
      for (const [name, value] of module.stateDict()) now.set(`${net}.${name}`, await value.read());
    }
    for (const [net, { groups }] of Object.entries(optimizers)) {
      for (const { slots, hyper } of groups) {
        // The words before are the host's: rates and decays, the same for all.
        const counts = (await hyper.read()).subarray(hyperIndex.beta1Power);
        now.set(`${net}.${slots[0]!.name}.counts`, counts);
        for (const { name, state } of slots) {
          for (const [key, t] of Object.entries(state))
            now.set(`${net}.${name}.${key}`, await t.read());
        }
      }
    }
    return now;
  }

  test('moves what is in a step and nothing else, averages, moments and step counts too', async () => {
    const inputs = stepInputs(gan);
    const { images } = inputs[0]!;
    images.set(Uint32Array.from({ length: images.size }, (_u, i) => i * 2654435761));
    const partsMoved = (from: Map<string, Float32Array>, to: Map<string, Float32Array>) => {
      const bits = (values: Float32Array) => String(new Uint32Array(values.slice().buffer));
      const names = [...to].filter(([name, now]) => bits(now) !== bits(from.get(name)!));
      const parts = names.map(([name]) => name.split('.').slice(0, 3).join('.'));
      return new Set(parts);
    };
    const parts = (blocks: number[], ends: number[]) => {
      const own = (net: string, end: string) => [
        ...blocks.map((i) => `${net}.blocks.${i}`),
        ...ends.map((i) => `${net}.${end}.${i}`),
      ];
      const ofG = ['generator', 'average', 'G'].flatMap((net) => own(net, 'to_image'));
      return new Set([...ofG, ...['discriminator', 'D'].flatMap((net) => own(net, 'from_image'))]);
    };
    let before = await stateNow();
    const stages = [];
    for (let step = 0; step < 10; step += 1) {
      const other = gan.begin(step);
      gpu.scope(() => gan.step(inputs));
      if (step % 2 === 0) continue;
      // Of two steps: both are of one stage.
      expect(other).toBe(false);
      const now = await stateNow();
      stages.push(partsMoved(before, now));
      before = now;
    }
    expect(stages).toEqual([
      ...[parts([0], [0]), parts([0, 1], [0, 1]), parts([0, 1], [1])],
      ...[parts([0, 1, 2], [1, 2]), parts([0, 1, 2], [2])],
    ]);
  });

  test('is another program where a stage begins, and only there', () => {
    const begins = Array.from({ length: 12 }, (_u, step) => gan.begin(step));
    expect(begins.flatMap((other, step) => (other ? [step] : []))).toEqual([0, 2, 4, 6, 8]);
  });

  test('takes the most memory in a fade: a step of the run’s last one', () => {
    const largest = Array.from({ length: 12 }, (_u, i) => generator.growth!.largest(i + 1));
    expect(largest).toEqual([0, 1, 2, 3, 3, 3, 6, 7, 7, 7, 7, 7]);
  });

  test('shows images of its stage in squares of the full size', async () => {
    gan.begin(0);
    const sampler = await Sampler.open(average, { ...gan.config, batch: 2 });
    const images = await sampler.images(latents(1, 3, gan.config.latentSize));
    sampler.close();
    expect(images).toHaveLength(3 * 3 * 16 * 16);
    const rows = Array.from({ length: 9 * 16 }, (_u, i) => [
      ...images.subarray(16 * i, 16 * i + 16),
    ]);
    const squares = rows.map((_r, y) => {
      const row = rows[y - (y % 4)]!;
      return row.map((_v, x) => row[x - (x % 4)]!);
    });
    expect(rows).toEqual(squares);
    expect(new Set(images).size).toBeGreaterThan(9 * 4 * 4 * 0.9);
  });
});

describe('a run across stages', () => {
  const folder = mkdtempSync(join(tmpdir(), 'wgsagan-progressive-'));
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });
  const every = { logEvery: 4, sampleEvery: 3, checkpointEvery: 3 };
  const config = resolveConfig({ ...small, imageSize: 8, attentionAt: [4], ...every });
  const next = uniform(5);
  const dataset = memoryDataset({
    ...{ name: 'noise', description: '', fingerprint: 'noise', channels: 3, imageSize: 8 },
    classes: ['noise'],
    images: Uint8Array.from({ length: 6 * 3 * 8 ** 2 }, () => next() * 256),
    labels: new Uint32Array(6),
  });
  const start = (run: string, events: TrainEvents = {}, more = {}) =>
    train({ gpu, openData: () => Promise.resolve(dataset), config, run, events, ...more });
  const end = (run: string) =>
    readFileSync(join(checkpointFolder(run), 'step-0000006.safetensors'));
  const linesOf = (run: string) =>
    readMetrics(run).map(({ step, lossD, lossG }) => ({ step, lossD, lossG }));
  const whole = join(folder, 'whole');

  test('tells of its stages, and ends where all of them are done', async () => {
    const stages: unknown[] = [];
    const { step } = await start(whole, {
      onReady: ({ stage }) => void stages.push(stage),
      onStage: (stage) => stages.push(stage),
    });
    expect(step).toBe(6);
    const fade = '8×8, fading in over 2 steps';
    expect(stages).toEqual(['4×4, for 2 of the 6 steps to 8×8', fade, '8×8, to the end']);
    expect(linesOf(whole).map((line) => line.step)).toEqual([4, 6]);
  });

  /** Goes on from the newest checkpoint, to the bits of the whole run. */
  async function goOn(run: string): Promise<void> {
    const resume = await readNewestCheckpoint(run);
    const told: boolean[] = [];
    await start(run, { onReady: ({ otherKernels }) => void told.push(otherKernels) }, { resume });
    expect(told).toEqual([false]);
    expect(end(run).equals(end(whole))).toBe(true);
    expect(linesOf(run)).toEqual(linesOf(whole));
  }

  test('killed in a fade it is sampled as it was drawn there, and goes on to the same bits', async () => {
    const run = join(folder, 'in a fade');
    const onStep = (step: number) => {
      if (step === 4) throw new Error('killed');
    };
    await expect(start(run, { onStep })).rejects.toThrow('killed');
    const checkpoint = await readNewestCheckpoint(run);
    expect(checkpoint.progress.step).toBe(3);
    const of = { n: 64, seed: config.seed, weights: 'ema' } as const;
    const images = await sampleCheckpoint(gpu, checkpoint, of);
    const grid = imageGrid(images, { n: 64, channels: 3, height: 8, width: 8 });
    const drawn = readFileSync(join(runPaths(run).samples, 'step-0000003.png'));
    expect(drawn.equals(encodePng(grid.pixels, grid))).toBe(true);
    await goOn(run);
  });

  test('ended with a stage it goes on to the same bits', async () => {
    const run = join(folder, 'with a stage');
    const { step } = await start(run, {}, { config: { ...config, steps: 4 } });
    expect(step).toBe(4);
    await goOn(run);
  });
});
