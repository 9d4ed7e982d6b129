// A long run of tiny steps through the real trainer, from a folder of images, with all that a run can have on: sampling,
// checkpoints, logging, evaluations, a report, TensorBoard's files. Grids and lines come so often that what a report and the
// charts keep (100 pictures, 2000 points) is full early. What it holds and what a step takes must not grow. Writes
// test/soak/results/long-run.json; exit code 1 where a series is not flat from step 1,000 on, 2 where the noise of the machine
// hides whether one is.
//   node --expose-gc --import tsx test/soak/long-run.ts [--steps 20000] [--adapter software] [--out FILE]
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { getHeapCodeStatistics, getHeapStatistics } from 'node:v8';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Dataset } from '../../src/data/dataset.ts';
import { openThreaded } from '../../src/data/threaded.ts';
import { openGpu } from '../../src/gpu/device.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { matmul } from '../../src/ops/matmul.ts';
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
const tenth = Math.max(40, Math.ceil(steps / 10));
const [every, from] = steps >= 5000 ? [500, 1000] : [tenth, tenth];

/**
 * What is watched, and how much of itself it may gain from step 1,000 to the end.
 *
 * Memory is what it is, and judged as it is. Times are measured through what else the machine does, and flat only where that
 * is shown (`flatnessOf`). A step's time by the clock is what a user waits, but where others compute on the same cores it goes
 * up and down by a third and more for minutes, and so does processor time where they share caches. No loop on one thread
 * follows that, since a step on a software adapter takes all cores. So the unit is a fixed work: as many launches as a step has, on a
 * device of its own that nothing else uses, three times after every 20 steps. It feels what the neighbours do as the steps feel
 * it, and knows nothing of the run's age. Of the clock and of the processor time of all threads the medians of the steps since
 * the row before are taken, over those of this work. Means are no use, an evaluation weighs a hundred steps, but
 * what all work together takes is a row too: of processor time, with the reports, checkpoints and evaluations in it.
 */
const watched = {
  gpuBytes: { bound: 0, judged: 'estimate' },
  gpuHeldBytes: { bound: 0, judged: 'estimate' },
  gpuBuffers: { bound: 0, judged: 'estimate' },
  bindGroups: { bound: 0, judged: 'estimate' },
  handles: { bound: 0, judged: 'estimate' },
  rssBytes: { bound: 0.05, judged: 'estimate' },
  heapBytes: { bound: 0.05, judged: 'estimate' },
  arrayBytes: { bound: 0.05, judged: 'estimate' },
  stepTime: { bound: 0.05, judged: 'interval' },
  stepCpu: { bound: 0.05, judged: 'interval' },
  allCpu: { bound: 0.05, judged: 'interval' },
} as const;
type Series = keyof typeof watched;
type Row = Readonly<
  Record<
    Series | 'step' | 'stepMs' | 'stepCpuMs' | 'allCpuMs' | 'workMs' | 'workCpuMs' | 'codeBytes',
    number
  >
>;

/** Milliseconds of processor that all threads of this process have taken. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** The same work at every call, as many launches as a step has; resolves when the device has done it. */
async function fixedWork(on: Gpu): Promise<() => Promise<void>> {
  const tape = new Tape(on);
  const values = Float32Array.from({ length: 64 * 64 }, (_, i) => Math.sin(i));
  const [a, b] = [tensor(tape, values, [64, 64]), tensor(tape, values, [64, 64])];
  const capture = on.capture(() => Array.from({ length: 300 }, () => matmul(a, b).storage));
  const program = await capture.build();
  return async () => {
    program.run();
    await on.sync();
  };
}

const collect = globalThis.gc;
if (collect === undefined) throw new Error('run by node --expose-gc --import tsx');

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-long-run-'));
const gpu = await openGpu({ adapter: flags.adapter });
const idleGpu = await openGpu({ adapter: flags.adapter });
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
  let cpuTimes: number[] = [];
  let workTimes: number[] = [];
  let workCpuTimes: number[] = [];
  const work = await fixedWork(idleGpu);
  let cpuOfRow = 0;
  // Of arrays and the like: what stays after their collection is given back by and by, so the least of all steps is what lives.
  let leastExternal = Infinity;
  let before = performance.now();
  let cpuBefore = cpuMs();
  const cacheDir = join(folder, 'cache');
  let dataset: Dataset | undefined;
  const watching: TrainEvents = {
    onStep: (step) => {
      times.push(performance.now() - before);
      const cpu = cpuMs() - cpuBefore;
      cpuTimes.push(cpu);
      cpuOfRow += cpu;
      leastExternal = Math.min(leastExternal, getHeapStatistics().external_memory);
      before = performance.now();
      cpuBefore = cpuMs();
      if (step % every !== 0) return;
      collect();
      const { rss, heapUsed } = process.memoryUsage();
      // V8 goes on to compile what it finds to be hot: of a program's code there is only so much, and it is no object of ours.
      const code = getHeapCodeStatistics();
      const codeBytes = code.code_and_metadata_size + code.bytecode_and_metadata_size;
      const { liveBytes, heldBytes, liveBlocks } = gpu.pool.stats();
      const [workMs, workCpuMs] = [median(workTimes), median(workCpuTimes)];
      const [stepMs, stepCpuMs, allCpuMs] = [median(times), median(cpuTimes), cpuOfRow / every];
      rows.push({
        step,
        gpuBytes: liveBytes,
        gpuHeldBytes: heldBytes,
        gpuBuffers: liveBlocks,
        bindGroups: gpu.recorder.kept,
        handles: readdirSync('/proc/self/fd').length,
        rssBytes: rss,
        heapBytes: heapUsed - codeBytes,
        arrayBytes: leastExternal,
        ...{ stepMs, stepCpuMs, allCpuMs, workMs, workCpuMs, codeBytes },
        stepTime: stepMs / workMs,
        stepCpu: stepCpuMs / workCpuMs,
        allCpu: allCpuMs / workCpuMs,
      });
      if (step % (10 * every) === 0) process.stderr.write(`step ${step} of ${steps}\n`);
      [times, cpuTimes, workTimes, workCpuTimes, cpuOfRow] = [[], [], [], [], 0];
      leastExternal = Infinity;
      before = performance.now();
      cpuBefore = cpuMs();
    },
    onSamples: async () => {
      const cpuAtStart = cpuMs();
      for (let i = 0; i < 3; i++) {
        const cpu = cpuMs();
        const start = performance.now();
        await work();
        workTimes.push(performance.now() - start);
        workCpuTimes.push(cpuMs() - cpu);
      }
      cpuBefore += cpuMs() - cpuAtStart;
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
      const { bound, judged } = watched[name];
      const series = points.map((row) => [row.step, row[name]] as const);
      return [name, flatnessOf(series, bound, judged)];
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
  const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
  for (const [name, one] of Object.entries(flatness)) {
    const { first, last, drift, interval, bound, verdict } = one;
    const where = `${percent(drift)} (${interval.map(percent).join(' … ')}, at most ${percent(bound)})`;
    process.stdout.write(`${name}: ${first} → ${last}, ${where}: ${verdict}\n`);
  }
  const verdicts = Object.values(flatness).map(({ verdict }) => verdict);
  process.exitCode = verdicts.includes('not flat') ? 1 : verdicts.includes('drowned') ? 2 : 0;
} finally {
  gpu.close();
  idleGpu.close();
  rmSync(folder, { recursive: true, force: true });
}
