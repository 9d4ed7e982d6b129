// A long run of tiny steps through the real trainer, from a folder of images, with all that a run can have on: sampling,
// checkpoints, logging, evaluations, a report, TensorBoard's files. Grids and lines come so often that what a report and the
// charts keep (100 pictures, 2000 lines) is full early. What it holds and what a step takes must not grow. Writes test/soak/results/long-run.json; exit code 1 where a series is
// not flat from step 1,000 on.
//   node --expose-gc --import tsx test/soak/long-run.ts [--steps 20000] [--adapter software] [--out FILE]
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Dataset } from '../../src/data/dataset.ts';
import { openThreaded } from '../../src/data/threaded.ts';
import { openGpu } from '../../src/gpu/device.ts';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import { keepReport } from '../../src/report/observer.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { evaluationDuring } from '../../src/train/eval/during.ts';
import { together } from '../../src/train/observers.ts';
import { unlockRun } from '../../src/train/run-lock.ts';
import { type TrainEvents, train } from '../../src/train/trainer.ts';
import { median } from '../../src/util/statistics.ts';
import { writeImages } from '../support/images.ts';
import { flatnessOf } from './flat.ts';

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '20000' },
    adapter: { type: 'string', default: 'software' },
    out: { type: 'string', default: 'test/soak/results/long-run.json' },
  },
});
const steps = Number(flags.steps);
const [every, from] = steps >= 5000 ? [500, 1000] : [Math.ceil(steps / 10), Math.ceil(steps / 10)];

/** What is watched, its unit, and how much of itself it may gain from step 1,000 to the end. */
const watched = {
  gpuBytes: { bound: 0 },
  gpuHeldBytes: { bound: 0 },
  gpuBuffers: { bound: 0 },
  handles: { bound: 0 },
  rssBytes: { bound: 0.05 },
  heapBytes: { bound: 0.05 },
  arrayBytes: { bound: 0.05 },
  // Medians of the steps since the row before: of the step, in units of a fixed loop that is timed at each of them.
  stepLoops: { bound: 0.05 },
} as const;
type Series = keyof typeof watched;
type Row = Readonly<Record<Series | 'step' | 'stepMs', number>>;

/** Milliseconds of the same work every time: what a shared machine gives a thread at this moment. */
function loopMs(): number {
  const started = performance.now();
  let sum = 0;
  for (let i = 0; i < 200_000; i++) sum += Math.sqrt(i);
  return sum > 0 ? performance.now() - started : NaN;
}

const collect = globalThis.gc;
if (collect === undefined) throw new Error('run by node --expose-gc --import tsx');

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-long-run-'));
const gpu = await openGpu({ adapter: flags.adapter });
try {
  const images = join(folder, 'images');
  await writeImages(images, 64);
  const config = resolveConfig({
    ...{ data: images, preset: 'sagan-32-tiny', imageSize: 16, width: 4, batch: 4 },
    ...{ steps, logEvery: 1, sampleEvery: 20, checkpointEvery: 250, flip: true },
    ...{ evalEvery: every, evalSamples: 64, tensorboard: true },
  });
  const run = join(folder, 'run');
  const rows: Row[] = [];
  let times: number[] = [];
  let loops: number[] = [];
  let before = performance.now();
  const cacheDir = join(folder, 'cache');
  let dataset: Dataset | undefined;
  const watching: TrainEvents = {
    onStep: (step) => {
      const now = performance.now();
      times.push(now - before);
      loops.push(loopMs());
      before = performance.now();
      if (step % every !== 0) return;
      collect();
      const { rss, heapUsed, external, arrayBuffers } = process.memoryUsage();
      const { liveBytes, heldBytes, liveBlocks } = gpu.pool.stats();
      rows.push({
        step,
        gpuBytes: liveBytes,
        gpuHeldBytes: heldBytes,
        gpuBuffers: liveBlocks,
        handles: readdirSync('/proc/self/fd').length,
        rssBytes: rss,
        heapBytes: heapUsed,
        arrayBytes: external + arrayBuffers,
        stepMs: median(times),
        stepLoops: median(times) / median(loops),
      });
      if (step % (10 * every) === 0) process.stderr.write(`step ${step} of ${steps}\n`);
      times = [];
      loops = [];
      before = performance.now();
    },
  };
  const log = (line: string) => process.stderr.write(`${line}\n`);
  const report = keepReport(run, gpu.adapter);
  const evaluating = evaluationDuring({
    ...{ run, config, cacheDir, log },
    gpu: () => gpu,
    dataset: () => dataset!,
  });
  await train({
    ...{ gpu, config, run },
    openData: async () =>
      (dataset = await openThreaded(images, { ...config, cacheDir, cacheBytes: 2 ** 28 })),
    events: together(watching, evaluating, { onReady: report.begin, onSamples: report.write }),
  });
  await dataset?.close?.();
  unlockRun(run);
  const flatness = Object.fromEntries(
    (Object.keys(watched) as Series[]).map((name) => {
      const points = rows.filter((row) => row.step >= from);
      const { bound } = watched[name];
      return [
        name,
        flatnessOf(
          points.map((row) => [row.step, row[name]]),
          bound,
        ),
      ];
    }),
  );
  const result = {
    steps,
    from,
    adapter: gpu.adapter.name,
    node: process.version,
    cpus: os.availableParallelism(),
    load: os.loadavg()[0],
    config: { imageSize: config.imageSize, width: config.width, batch: config.batch },
    flatness,
    rows,
  };
  await writeFileAtomic(flags.out, `${JSON.stringify(result, null, 1)}\n`);
  for (const [name, { first, last, drift, bound, flat }] of Object.entries(flatness)) {
    const share = `${(100 * drift).toFixed(2)} % (at most ${100 * bound} %)`;
    process.stdout.write(`${name}: ${first} → ${last}, ${share}${flat ? '' : ' NOT FLAT'}\n`);
  }
  process.exitCode = Object.values(flatness).every(({ flat }) => flat) ? 0 : 1;
} finally {
  gpu.close();
  rmSync(folder, { recursive: true, force: true });
}
