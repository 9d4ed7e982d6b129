// What reading the data and writing the metrics add to a step: short blocks of the same captured step, in turn with both,
// without the loader (the same batch again) and without metrics, so that whatever else the machine does hits all alike.
// The time spent in either is measured too. Writes test/soak/results/overhead.json.
//   npx tsx test/soak/overhead.ts [--rounds 40] [--adapter software] [--out FILE]
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Tape } from '../../src/autograd/tape.ts';
import { openDataset } from '../../src/data/dataset.ts';
import { Loader } from '../../src/data/loader.ts';
import { openGpu } from '../../src/gpu/device.ts';
import { ReadbackRing } from '../../src/gpu/readback.ts';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import { build } from '../../src/train/built.ts';
import { createLearnerThatFits } from '../../src/train/capacity.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { stepInputs } from '../../src/train/learner.ts';
import { Meter } from '../../src/train/meter.ts';
import { appendMetrics } from '../../src/train/run-folder.ts';
import { median } from '../../src/util/statistics.ts';
import { writeImages } from '../support/images.ts';

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '40' },
    adapter: { type: 'string', default: 'software' },
    out: { type: 'string', default: 'test/soak/results/overhead.json' },
  },
});
const rounds = Number(flags.rounds);
const stepsInBlock = 5;
const modes = ['whole', 'no loader', 'no metrics'] as const;
type Mode = (typeof modes)[number];

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-overhead-'));
const gpu = await openGpu({ adapter: flags.adapter });
try {
  const images = join(folder, 'images');
  const run = join(folder, 'run');
  mkdirSync(run);
  await writeImages(images, 200);
  const config = resolveConfig({ data: images, preset: 'sagan-32-tiny', flip: true, logEvery: 1 });
  const learner = createLearnerThatFits(new Tape(gpu), config);
  const dataset = await openDataset(images, { ...config, cacheDir: join(folder, 'cache') });
  const loader = new Loader(dataset, { batch: config.batch, seed: 0, flip: true });
  const inputs = stepInputs(learner);
  learner.begin(0);
  const { program, readings, sampler } = await build(learner, inputs);
  const meter = new Meter(learner, { steps: 0, sums: learner.reports.map(() => 0) }, 0);
  let logging = true;
  const spent = { loader: 0, metrics: 0, all: 0 };
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
  const same = await loader.next();

  /** Milliseconds of a block of steps. */
  async function block(mode: Mode): Promise<number> {
    logging = mode !== 'no metrics';
    const before = spent.metrics;
    const started = performance.now();
    for (let i = 0; i < stepsInBlock; i++) {
      await ring.ready();
      for (const input of inputs) {
        const asked = performance.now();
        const batch = mode === 'no loader' ? same : await loader.next();
        if (mode === 'whole') spent.loader += performance.now() - asked;
        gpu.write(input.images.storage, batch.images);
      }
      program.run(ring);
    }
    await ring.drain();
    const ms = performance.now() - started;
    if (mode !== 'whole') spent.metrics = before;
    if (mode === 'whole') spent.all += ms;
    return ms;
  }

  for (const mode of modes) await block(mode);
  const times: Record<Mode, number[]> = { whole: [], 'no loader': [], 'no metrics': [] };
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < modes.length; i++) {
      const mode = modes[(round + i) % modes.length]!;
      times[mode].push(await block(mode));
    }
    if (round % 10 === 9) process.stderr.write(`round ${round + 1} of ${rounds}\n`);
  }
  /** What the whole step takes over one without a part, as a share of the whole; the median of the rounds. */
  const share = (without: Mode) =>
    median(times.whole.map((whole, i) => (whole - times[without][i]!) / whole));
  const result = {
    ...{ adapter: gpu.adapter.name, cpus: os.availableParallelism(), load: os.loadavg()[0] },
    ...{ preset: config.preset, batch: config.batch, rounds, stepsInBlock },
    stepMs: median(times.whole) / stepsInBlock,
    /** Time in which the step waited for its batch, and wrote its line, of all the time of whole steps. */
    waited: { loader: spent.loader / spent.all, metrics: spent.metrics / spent.all },
    differences: { loader: share('no loader'), metrics: share('no metrics') },
    /** That of a step's time by which rounds differ: what is smaller than this cannot be told. */
    spread: median(times.whole.map((t) => Math.abs(t / median(times.whole) - 1))),
  };
  await writeFileAtomic(flags.out, `${JSON.stringify(result, null, 1)}\n`);
  process.stdout.write(`${JSON.stringify(result)}\n`);
  ring.destroy();
  sampler.close();
  program.destroy();
  await loader.close();
} finally {
  gpu.close();
  rmSync(folder, { recursive: true, force: true });
}
