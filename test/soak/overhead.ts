// What reading the data and writing the metrics add to a step: short blocks of the same captured step, in turn with the
// images in memory, in the cache on disk and decoded again for every batch, without the loader (the same batch again) and
// without metrics, so that whatever else the machine does hits all alike. The time spent in either is measured too. On a
// software adapter a decode takes time from the step itself, on the same cores. Writes test/soak/results/overhead.json.
//   npx tsx test/soak/overhead.ts [--rounds 40] [--adapter software] [--out FILE]
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { Tape } from '../../src/autograd/tape.ts';
import { Loader } from '../../src/data/loader.ts';
import { openThreaded } from '../../src/data/threaded.ts';
import { openGpu } from '../../src/gpu/device.ts';
import { ReadbackRing } from '../../src/gpu/readback.ts';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import { build } from '../../src/train/built.ts';
import { createLearnerThatFits } from '../../src/train/capacity.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { stepInputs } from '../../src/train/learner.ts';
import { Meter } from '../../src/train/meter.ts';
import { appendMetrics } from '../../src/train/run-folder.ts';
import { HostRng } from '../../src/util/philox.ts';
import { median } from '../../src/util/statistics.ts';

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '40' },
    adapter: { type: 'string', default: 'software' },
    out: { type: 'string', default: 'test/soak/results/overhead.json' },
  },
});
const rounds = Number(flags.rounds);
const stepsInBlock = 5;
/** Where the images come from. `memory` is the whole that the modes without a part are held against. */
const sources = ['memory', 'cache', 'decoding'] as const;
const modes = [...sources, 'no loader', 'no metrics'] as const;
type Mode = (typeof modes)[number];
/** Pixels of a side of the files. */
const fileSize = 256;

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-overhead-'));
const gpu = await openGpu({ adapter: flags.adapter });
try {
  const images = join(folder, 'images');
  const run = join(folder, 'run');
  mkdirSync(run);
  await writePhotographs(images, 200);
  const config = resolveConfig({ data: images, preset: 'sagan-32-tiny', flip: true, logEvery: 1 });
  const learner = createLearnerThatFits(new Tape(gpu), config);
  const cacheDir = join(folder, 'cache');
  const options = {
    memory: {},
    cache: { cacheBytes: 2 ** 30 },
    decoding: { memoryBytes: 0 },
  };
  const datasets = await Promise.all(
    sources.map((source) => openThreaded(images, { ...config, cacheDir, ...options[source] })),
  );
  const loaders = datasets.map(
    (dataset) => new Loader(dataset, { batch: config.batch, seed: 0, flip: true }),
  );
  const inputs = stepInputs(learner);
  learner.begin(0);
  const { program, readings, sampler } = await build(learner, inputs);
  const meter = new Meter(learner, { steps: 0, sums: learner.reports.map(() => 0) }, 0);
  let logging = true;
  const waited = { memory: 0, cache: 0, decoding: 0 };
  const spent = { metrics: 0, all: 0 };
  let step = 0;
  const ring = new ReadbackRing(
    gpu,
    readings.map(({ of }) => of.storage),
    {
      floats: readings.map(({ names }) => names.length),
      onValues: (values) => {
        step += 1;
        if (!logging) return;
        const started = performance.now();
        meter.add(step, values, readings);
        const line = meter.line(step, 0);
        if (line !== undefined) appendMetrics(run, line);
        meter.clear();
        spent.metrics += performance.now() - started;
      },
    },
  );
  const same = await loaders[0]!.next();

  /** Milliseconds of a block of steps. */
  async function block(mode: Mode): Promise<number> {
    logging = mode !== 'no metrics';
    const before = spent.metrics;
    const source = sources.find((one) => one === mode);
    const loader = loaders[source === undefined ? 0 : sources.indexOf(source)]!;
    const started = performance.now();
    for (let i = 0; i < stepsInBlock; i++) {
      await ring.ready();
      for (const input of inputs) {
        const asked = performance.now();
        const batch = mode === 'no loader' ? same : await loader.next();
        if (source !== undefined) waited[source] += performance.now() - asked;
        gpu.write(input.images.storage, batch.images);
      }
      program.run(ring);
    }
    await ring.drain();
    const ms = performance.now() - started;
    if (mode === 'memory') spent.all += ms;
    else spent.metrics = before;
    return ms;
  }

  for (const mode of modes) await block(mode);
  Object.assign(waited, { memory: 0, cache: 0, decoding: 0 });
  Object.assign(spent, { metrics: 0, all: 0 });
  const times = Object.fromEntries(modes.map((mode): [Mode, number[]] => [mode, []])) as Record<
    Mode,
    number[]
  >;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < modes.length; i++) {
      const mode = modes[(round + i) % modes.length]!;
      times[mode].push(await block(mode));
    }
    if (round % 10 === 9) process.stderr.write(`round ${round + 1} of ${rounds}\n`);
  }
  /** What a step takes over another, as a share of it; the median of the rounds. */
  const share = (mode: Mode, without: Mode) =>
    median(times[mode].map((ms, i) => (ms - times[without][i]!) / ms));
  const all = (mode: Mode) => times[mode].reduce((sum, ms) => sum + ms, 0);
  const result = {
    ...{ adapter: gpu.adapter.name, cpus: os.availableParallelism(), load: os.loadavg()[0] },
    ...{ preset: config.preset, batch: config.batch, rounds, stepsInBlock, fileSize },
    stepMs: median(times.memory) / stepsInBlock,
    /** Time in which the step waited for its batch, and wrote its line, of all the time of such steps. */
    waited: {
      ...Object.fromEntries(sources.map((source) => [source, waited[source] / all(source)])),
      metrics: spent.metrics / spent.all,
    },
    differences: {
      ...Object.fromEntries(sources.map((source) => [source, share(source, 'no loader')])),
      metrics: share('memory', 'no metrics'),
    },
    /** That of a step's time by which rounds differ: what is smaller than this cannot be told. */
    spread: median(times.memory.map((t) => Math.abs(t / median(times.memory) - 1))),
  };
  await writeFileAtomic(flags.out, `${JSON.stringify(result, null, 1)}\n`);
  process.stdout.write(`${JSON.stringify(result)}\n`);
  ring.destroy();
  sampler.close();
  program.destroy();
  for (const loader of loaders) await loader.close();
  for (const dataset of datasets) await dataset.close?.();
} finally {
  gpu.close();
  rmSync(folder, { recursive: true, force: true });
}

/** Noise under a blur, as JPEG: about as many bytes a pixel as a photograph. */
async function writePhotographs(to: string, n: number): Promise<void> {
  mkdirSync(to);
  const raw = { width: fileSize, height: fileSize, channels: 3 } as const;
  for (let i = 0; i < n; i++) {
    const rng = new HostRng(i);
    const noise = Buffer.from(Array.from({ length: 3 * fileSize ** 2 }, () => rng.int(256)));
    await sharp(noise, { raw })
      .blur(2)
      .jpeg()
      .toFile(join(to, `${i}.jpg`));
  }
}
