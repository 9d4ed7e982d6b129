// SAGAN itself: sizes that the literature counts, shapes of every preset, state-dict keys, and a training step as a program.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { empty, tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { openGpu } from '../../src/gpu/device.ts';
import { Discriminator, Generator, saganPresets } from '../../src/models/sagan.ts';
import { featureSizes } from '../../src/models/sizes.ts';
import type { GanOptions } from '../../src/models/gan.ts';
import type { Layer } from '../../src/nn/module.ts';
import { compareState, loadState, readState } from '../../src/nn/state.ts';
import { writeSafetensors } from '../../src/io/safetensors.ts';
import { checkBatchFits, createLearnerThatFits, leastBytes } from '../../src/train/capacity.ts';
import {
  checkpointFolder,
  readCheckpoint,
  restoreLearner,
  saveCheckpoint,
} from '../../src/train/checkpoint.ts';
import { configToYaml, resolveConfig } from '../../src/train/config.ts';
import { createGan, ganStep, stepValues } from '../../src/train/gan.ts';
import { stepInputs, watchedOf } from '../../src/train/learner.ts';
import { UserError } from '../../src/util/errors.ts';
import { HostRng } from '../../src/util/philox.ts';
import { openTestGpu } from '../support/device.ts';
import { uniform } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

/** Shapes and counts need no arithmetic: Dawn's null backend holds nets that would take seconds to initialise on a CPU. */
async function paper<T>(use: (tape: Tape) => T | Promise<T>): Promise<T> {
  const own = await openGpu({ backend: 'null' });
  try {
    return await use(new Tape(own));
  } finally {
    own.close();
  }
}

const rng = () => new HostRng(3);
const sagan64: GanOptions = {
  ...saganPresets['sagan-64'],
  init: 'normal',
  attentionG: [16, 32],
  attentionD: [8, 4],
};

/** Small enough for a CPU to start at once. */
const options: GanOptions = {
  ...{ imageSize: 32, channels: 3, latentSize: 3, width: 2, attentionG: [16], attentionD: [16] },
  ...{ attention: 'plain', init: 'orthogonal', slope: 0.1, conditional: false, classes: 0 },
};

/** The shape of a net's output; launches nothing. */
function shapeOf(net: Layer, input: readonly number[]): readonly number[] {
  let shape: readonly number[] = [];
  net.tape.gpu.capture(() => {
    const y = net.forward(empty(net.tape, input));
    shape = y.shape;
    return [y.storage];
  });
  return shape;
}

describe('SAGAN', () => {
  test('has as many parameters as the best known open implementation', async () => {
    // heykeetae/Self-Attention-GAN at 64 pixels: 3,832,885 and 3,175,299
    await paper((on) => {
      expect(new Generator(on, sagan64, rng()).parameterCount()).toBe(3_832_885);
      expect(new Discriminator(on, sagan64, rng()).parameterCount()).toBe(3_175_299);
    });
  });

  test.each(Object.entries(saganPresets))(
    'preset %s maps latents to images to scores',
    async (_name, preset) => {
      await paper((on) => {
        const all: GanOptions = { ...preset, init: 'normal' };
        const { imageSize: S, channels } = all;
        const [g, d] = [new Generator(on, all, rng()), new Discriminator(on, all, rng())];
        for (const batch of [1, 3]) {
          const made = shapeOf(g, [batch, all.latentSize]);
          expect(made).toEqual([batch, channels, S, S]);
          expect(shapeOf(d, made)).toEqual([batch, 1]);
        }
      });
    },
  );

  test('256 pixels stop at 16 widths, and plan a step of one image in less than its weights', async () => {
    await paper((on) => {
      const config = resolveConfig({ data: 'x', preset: 'sagan-256', batch: 1 });
      const gan = createGan(on, config, { blank: true });
      const [inG, inD] = [gan.generator, gan.discriminator].map((net) => net.parameterCount());
      expect([inG, inD]).toEqual([30_048_228, 27_961_442]);
      const { memory } = on.gpu.capture(() =>
        watchedOf(gan, ganStep(gan, stepInputs(gan, { empty: true }))),
      );
      expect(memory.plannedBytes).toBeLessThan(4 * (4 * inG! + 3 * inD!));
    });
  });

  test.each([
    { imageSize: 8, channels: 1, attentionG: [4], attentionD: [4] },
    { imageSize: 16, channels: 3, attentionG: [], attentionD: [8, 4] },
    { imageSize: 256, channels: 1, attentionG: [64], attentionD: [] },
  ] as const)('$imageSize pixels, $channels channels', async (stages) => {
    await paper((on) => {
      const all: GanOptions = { ...options, ...stages, latentSize: 5, width: 4, init: 'normal' };
      const { imageSize: S, channels } = all;
      expect(shapeOf(new Generator(on, all, rng()), [2, 5])).toEqual([2, channels, S, S]);
      expect(shapeOf(new Discriminator(on, all, rng()), [2, channels, S, S])).toEqual([2, 1]);
    });
  });

  test('feature sizes run from 4 to half the image', () => {
    expect(featureSizes(32)).toEqual([4, 8, 16]);
    expect(featureSizes(8)).toEqual([4]);
  });

  test('every convolution but the generator’s last is spectrally normalised, under PyTorch’s keys', async () => {
    await paper((on) => {
      const keys = (net: Layer) => [...net.stateDict().keys()].sort();
      const conv = (at: string) =>
        ['bias', 'weight_orig', 'weight_u', 'weight_v'].map((k) => `main.${at}.${k}`);
      const norm = (at: number) =>
        ['bias', 'running_mean', 'running_var', 'weight'].map((k) => `main.${at}.${k}`);
      const attention = (at: number) => [
        `main.${at}.gamma`,
        ...['query_conv', 'key_conv', 'value_conv'].flatMap((c) => conv(`${at}.${c}`)),
      ];
      expect(keys(new Generator(on, options, rng()))).toEqual(
        [
          ...['0', '3', '6'].flatMap(conv),
          ...[1, 4, 7].flatMap(norm),
          ...attention(9),
          ...['main.10.weight', 'main.10.bias'],
        ].sort(),
      );
      expect(keys(new Discriminator(on, options, rng()))).toEqual(
        [...['0', '3', '5', '7'].flatMap(conv), ...attention(2)].sort(),
      );
    });
  });

  test('the seed decides the weights', async () => {
    const read = async (seed: number) =>
      readState(new Discriminator(tape, options, new HostRng(seed)));
    const [a, b, c] = [await read(1), await read(1), await read(2)];
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
  });
});

describe('state dicts', () => {
  test('a state goes out and comes back to the same bits', async () => {
    const [from, to] = [
      new Generator(tape, options, rng()),
      new Generator(tape, options, new HostRng(9)),
    ];
    const state = await readState(from);
    expect(await readState(to)).not.toEqual(state);
    loadState(to, state, 'checkpoint');
    expect(await readState(to)).toEqual(state);
    // PyTorch's counter of batches is dropped
    const counter = { shape: [], data: Float32Array.of(7) };
    loadState(to, new Map([...state, ['main.1.num_batches_tracked', counter]]), 'checkpoint');
  });

  test('another architecture is told by name, and nothing is changed', async () => {
    const net = new Generator(tape, options, rng());
    const before = await readState(net);
    const other = await readState(new Generator(tape, { ...options, latentSize: 4 }, rng()));
    expect(() => {
      loadState(net, other, 'run/step-1.safetensors');
    }).toThrow(
      'run/step-1.safetensors is of another architecture: main.0.weight_orig is [4, 8, 4, 4], needed [3, 8, 4, 4]; main.0.weight_v is [64], needed [48]',
    );
    const fewer = new Map([...before].filter(([key]) => !key.startsWith('main.9.')));
    fewer.set('extra', before.get('main.0.bias')!);
    expect(() => {
      loadState(net, fewer, 'x');
    }).toThrow(
      /^x is of another architecture: missing main\.9\.gamma, .* and 9 more; not in this architecture: extra$/,
    );
    expect(compareState(net, before)).toEqual({ missing: [], surplus: [], misshapen: [] });
    expect(await readState(net)).toEqual(before);
  });

  test('training and evaluation reach every module', () => {
    const net = new Generator(tape, options, rng());
    const modes = () => new Set([...net.namedModules()].map(([, module]) => module.training));
    expect(modes()).toEqual(new Set([true]));
    net.eval();
    expect(modes()).toEqual(new Set([false]));
    expect([...net.namedModules()].map(([path]) => path)).toContain('main.9.query_conv');
  });

  test('evaluation is the same for every image of a batch and moves no state', async () => {
    const net = new Generator(tape, options, rng()).eval();
    const before = await readState(net);
    const z = Float32Array.of(0.5, -1, 2);
    const twice = Float32Array.of(0.5, -1, 2, 3, 3, 3);
    const alone = await net.forward(tensor(tape, z, [1, 3])).read();
    const both = await net.forward(tensor(tape, twice, [2, 3])).read();
    const apart = alone.map((x, i) => Math.abs(x - both[i]!));
    // the same sums, perhaps in another order
    expect(Math.max(...apart)).toBeLessThan(2 ** -20);
    expect(alone.every((x) => Math.abs(x) <= 1)).toBe(true);
    expect(await readState(net)).toEqual(before);
  });
});

test('the average begins as a copy of the generator, and a blank state takes a checkpoint’s bits', async () => {
  const run = mkdtempSync(join(tmpdir(), 'wgsagan-model-'));
  try {
    const config = resolveConfig({ data: 'x', preset: 'sagan-32-tiny', width: 4, batch: 2 });
    const gan = createGan(tape, config);
    const host = new HostRng(config.seed, { stream: [1, 0] });
    const alone = await readState(new Generator(tape, config, host));
    expect(await readState(gan.generator)).toEqual(alone);
    expect(await readState(gan.average)).toEqual(alone);
    await mkdir(checkpointFolder(run));
    const progress = { step: 7, loader: { epoch: 0, cursor: 0, seed: 0, batch: 2, size: 8 } };
    const path = await saveCheckpoint(run, gan, progress);
    const blank = createGan(tape, config, { blank: true });
    expect(await readState(blank.generator)).not.toEqual(alone);
    restoreLearner(blank, await readCheckpoint(path));
    for (const net of ['generator', 'discriminator', 'average'] as const) {
      expect(await readState(blank[net])).toEqual(await readState(gan[net]));
    }
  } finally {
    rmSync(run, { recursive: true });
  }
});

test('a state of other metadata than its own is refused', async () => {
  const run = mkdtempSync(join(tmpdir(), 'wgsagan-model-'));
  try {
    const path = join(run, 'a.safetensors');
    const config = resolveConfig({ data: 'x', preset: 'sagan-32-tiny' });
    const good = {
      ...{ format: '1', step: '7', config: configToYaml(config) },
      loader: '{"epoch":0,"cursor":0,"seed":0,"batch":2,"size":8}',
    };
    await writeSafetensors(path, new Map(), good);
    // As those of before there were fingerprints of data and sums of metrics.
    expect((await readCheckpoint(path)).progress.metrics).toBeUndefined();
    for (const bad of [
      { loader: '{"epoch":0' },
      { loader: '{"epoch":0}' },
      { metrics: '{"steps":-1,"sums":[0,0,0,0]}' },
      { metrics: '{"steps":1}' },
      { metrics: '{"steps":1,"sums":[0,null]}' },
    ]) {
      await writeSafetensors(path, new Map(), { ...good, ...bad });
      await expect(readCheckpoint(path)).rejects.toThrow(
        new UserError(
          `checkpoint ${path} is damaged: ${Object.values(bad)[0]} is no state of a run`,
        ),
      );
    }
  } finally {
    rmSync(run, { recursive: true });
  }
});

describe('what cannot fit', () => {
  const tiny = { data: 'x', preset: 'sagan-32-tiny', width: 4, batch: 2 };

  test.each([tiny, { ...tiny, preset: 'sagan-64', width: 2, channels: 1, latentSize: 7 }])(
    '%j: a state is at least as large as the bound on it says, and most of it is that',
    async (options) => {
      await paper((on) => {
        const config = resolveConfig({ ...options, init: 'normal' });
        const gan = createGan(on, config);
        const count = gan.generator.parameterCount() * 4 + gan.discriminator.parameterCount() * 3;
        expect(leastBytes(config)).toBeLessThan(4 * count);
        expect(leastBytes(config)).toBeGreaterThan(0.5 * 4 * count);
      });
    },
  );

  test('is refused before its weights are made', async () => {
    const own = await openGpu({ backend: 'null', memoryBytes: 2 ** 30 });
    try {
      const config = resolveConfig({ ...tiny, width: 1024 });
      const started = performance.now();
      expect(() => createLearnerThatFits(new Tape(own), config)).toThrow(
        new UserError(
          'sagan-32-tiny at --width 1024 does not fit in 1.0 GiB, whatever the batch; choose a smaller preset, --width or --image-size',
        ),
      );
      expect(performance.now() - started).toBeLessThan(1000);
    } finally {
      own.close();
    }
  });

  test('a batch that passes a limit of the kernels is too large, and the largest that does not is named', async () => {
    await paper((on) => {
      const gan = createGan(on, resolveConfig({ ...tiny, init: 'normal', batch: 64 }));
      const launch = on.gpu.launch.bind(on.gpu);
      const z = gan.config.latentSize;
      vi.spyOn(on.gpu, 'launch').mockImplementation((dispatch) => {
        const batch = Math.max(...dispatch.storages.map((s) => s.bytes / 4 / z));
        const isNoise = dispatch.spec.name.startsWith('random/');
        if (isNoise && batch > 23) throw new Error('random: grid 24 passes the limit of 23');
        launch(dispatch);
      });
      expect(() => {
        checkBatchFits(gan);
      }).toThrow(
        new UserError(
          '--batch 64 does not fit this device (random: grid 24 passes the limit of 23); the largest that does is --batch 23',
        ),
      );
      // What fails for the smallest batches too is no matter of size.
      vi.spyOn(on.gpu, 'launch').mockImplementation(() => {
        throw new Error('no entry main');
      });
      expect(() => {
        checkBatchFits(gan);
      }).toThrow(new Error('no entry main'));
      expect(on.gpu.pool.budgetBytes).toBeGreaterThan(0);
    });
  });
});

test('a state with a value that is no number is not saved', async () => {
  const run = mkdtempSync(join(tmpdir(), 'wgsagan-model-'));
  try {
    const config = resolveConfig({ data: 'x', preset: 'sagan-32-tiny', width: 4, batch: 2 });
    const gan = createGan(tape, config);
    const progress = { step: 7, loader: { epoch: 0, cursor: 0, seed: 0, batch: 2, size: 8 } };
    await mkdir(checkpointFolder(run));
    await saveCheckpoint(run, gan, progress);
    const [, weight] = [...gan.generator.stateDict()].find(([name]) => name.includes('main.0'))!;
    const values = await weight.read();
    values[3] = NaN;
    weight.set(values);
    const failure = saveCheckpoint(run, gan, { ...progress, step: 8 });
    await expect(failure).rejects.toThrow(/^after step 8 generator\.main\.0\S* holds NaN or infin/);
    expect(readdirSync(checkpointFolder(run))).toEqual(['step-0000007.safetensors']);
  } finally {
    rmSync(run, { recursive: true });
  }
});

describe('a training step as a program', () => {
  const config = resolveConfig({
    ...{ data: 'none', preset: 'sagan-32-tiny', batch: 2, width: 4, imageSize: 16 },
    ...{ attentionG: [8], attentionD: [8], dSteps: 2, emaStart: 0 },
  });

  function open() {
    const gan = createGan(tape, config);
    gan.optimizers.G.groups[0]!.set({ emaDecay: 0.9 });
    const inputs = stepInputs(gan);
    const next = uniform(5);
    const feed = () => {
      for (const { images } of inputs) {
        images.set(Uint32Array.from({ length: images.size }, () => next() * 2 ** 32));
      }
    };
    const state = async () => {
      const nets = [gan.generator, gan.discriminator, gan.average];
      const states = await Promise.all(nets.map((net) => readState(net)));
      const moments: Float32Array[] = [];
      for (const optimiser of [gan.optimizers.G, gan.optimizers.D]) {
        for (const [, t] of optimiser.namedState()) moments.push(await t.read());
      }
      return { states, moments };
    };
    return { gan, inputs, feed, state };
  }

  test('eager and replayed give the same bits, and replay makes nothing', async () => {
    const [a, b] = [open(), open()];
    const start = await a.state();
    expect(await b.state()).toEqual(start);
    let values: Readonly<Record<string, Tensor>> = {};
    const capture = gpu.capture(() => {
      values = ganStep(b.gan, b.inputs);
      return stepValues.map((name) => values[name]!.storage);
    });
    expect(capture.memory.plannedBytes).toBeLessThan(0.5 * capture.memory.unplannedBytes);
    const program = await capture.build();
    const made = () => ({
      buffers: gpu.pool.stats().created,
      pipelines: gpu.pipelines.created,
      bindGroups: gpu.recorder.created,
    });
    const replays: number[][] = [];
    let before = made();
    for (let i = 0; i < 3; i++) {
      b.feed();
      program.run();
      replays.push(await Promise.all(stepValues.map((name) => values[name]!.item())));
      expect(made()).toEqual(before);
    }
    before = made();
    const eager: number[][] = [];
    for (let i = 0; i < 3; i++) {
      a.feed();
      const out = gpu.scope(
        () => ganStep(a.gan, a.inputs),
        (r) => Object.values(r).map((t) => t.storage),
      );
      eager.push(await Promise.all(stepValues.map((name) => out[name].item())));
      for (const t of Object.values(out)) gpu.release(t.storage);
    }
    expect(replays).toEqual(eager);
    expect(replays.flat().every(Number.isFinite)).toBe(true);
    const end = await a.state();
    expect(await b.state()).toEqual(end);
    expect(end).not.toEqual(start);
    program.destroy();
  });

  // Biases may stand still: that of the last score cancels while both hinges are active.
  test('two steps move every weight of both nets and the average', async () => {
    const { gan, inputs, feed, state } = open();
    const start = await state();
    for (let i = 0; i < 2; i++) {
      feed();
      gpu.scope(() => {
        ganStep(gan, inputs);
      });
    }
    const end = await state();
    const parameters = [gan.generator, gan.discriminator, gan.average].map((net) => [
      ...net.namedParameters(),
    ]);
    parameters.forEach((own, k) => {
      for (const [name] of own.filter(([key]) => /weight|gamma/.test(key))) {
        expect(end.states[k]!.get(name)!.data, name).not.toEqual(start.states[k]!.get(name)!.data);
      }
    });
  });
});

test('SAGAN wrote nothing outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
