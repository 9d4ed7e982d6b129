import type { AdapterSummary } from '../../gpu/adapter.ts';
import type { Gpu } from '../../gpu/device.ts';
import type { Program } from '../../gpu/program.ts';
import { passOf } from '../../gpu/storage.ts';
import { clockOf } from '../../gpu/timing.ts';
import type { Clock } from '../../gpu/timing.ts';
import { measurePeaks } from '../../kernels/peaks.ts';
import type { Peaks } from '../../kernels/peaks.ts';
import { median } from '../../util/statistics.ts';
import type { TrainConfig } from '../options.ts';
import { buildStep } from './step.ts';

/** One launch of a step: what it was, where it belongs, and what it took. */
export interface LaunchProfile {
  /** Place in the step, from 0. */
  readonly index: number;
  /** File and entry in kernels/; in a ladder family it names the rung. */
  readonly kernel: string;
  readonly tile: Readonly<Record<string, number | string>>;
  readonly dims: Readonly<Record<string, number>>;
  readonly grid: readonly [number, number, number];
  readonly pass: string;
  readonly layer: string;
  /** Median over the replays. */
  readonly ms: number;
  readonly flops: number;
  /** What computes: ordinary multiply-adds, or subgroup matrices (tensor cores). */
  readonly unit: 'fma' | 'matrix';
  /** Bytes that have to cross memory at least once. */
  readonly bytes: number;
}

/** A training step, launch by launch, beside what its device can do at most. */
export interface StepProfile {
  readonly adapter: Pick<AdapterSummary, 'name' | 'kind' | 'driver' | 'toggles'>;
  readonly preset: string;
  readonly batch: number;
  /** Replays that the medians are over. */
  readonly replays: number;
  readonly clock: Clock;
  readonly peaks: Peaks;
  /** Median time (ms) of the whole step in one pass, as training runs it. */
  readonly stepMs: number;
  /** Median time (µs) of JavaScript and validation that a launch costs when the step is replayed. */
  readonly encodeUs: number;
  readonly plannedBytes: number;
  readonly unplannedBytes: number;
  /** Weights, optimiser state and the rest that outlives a step. */
  readonly residentBytes: number;
  readonly launches: readonly LaunchProfile[];
}

/** How far a profile has come. */
export interface ProfileProgress {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
}

export interface ProfileOptions {
  readonly replays: number;
  readonly onProgress?: (progress: ProfileProgress) => void;
}

/** Replays of the step before the first that counts: the first compiles. */
const warmUps = 2;

/**
 * Captures the training step of a config and replays it `replays` times with a pass a launch, as often in one pass, and as
 * often with only the host's part timed. Profiled steps train: run it on weights that nobody wants to keep.
 */
export async function profileStep(
  gpu: Gpu,
  config: TrainConfig,
  { replays, onProgress = () => undefined }: ProfileOptions,
): Promise<StepProfile> {
  onProgress({ stage: 'capturing the step', done: 0, total: 1 });
  const program = await buildStep(gpu, config);
  const { plannedBytes, unplannedBytes } = program.memory;
  const residentBytes = gpu.pool.stats().liveBytes - plannedBytes;
  const repeat = async <T>(stage: string, total: number, once: () => Promise<T>): Promise<T[]> => {
    const results: T[] = [];
    for (let done = 0; done < total; done++) {
      onProgress({ stage, done, total });
      results.push(await once());
    }
    return results;
  };
  await repeat('warming up', warmUps, () => program.times(1));
  const encodes = await repeat('timing the host', replays, () => encodeTime(gpu, program));
  const whole = await repeat('timing the step', replays, () => program.times(1));
  const timed = await repeat('timing each launch', replays, () => program.profile());
  onProgress({ stage: 'measuring the peaks', done: 0, total: 1 });
  const peaks = await measurePeaks(gpu);
  const { name, kind, driver, toggles } = gpu.adapter;
  const profile: StepProfile = {
    adapter: { name, kind, driver, toggles },
    preset: config.preset,
    batch: config.batch,
    replays,
    clock: clockOf(gpu),
    peaks,
    stepMs: median(whole.flat()),
    encodeUs: (median(encodes) * 1000) / program.entries.length,
    plannedBytes,
    unplannedBytes,
    residentBytes,
    launches: program.entries.map(({ dispatch }, index) => ({
      index,
      kernel: dispatch.spec.name,
      tile: dispatch.spec.constants,
      dims: dispatch.dims,
      grid: dispatch.grid,
      pass: passOf(dispatch.where),
      layer: dispatch.where.layer,
      ms: median(timed.map((launches) => launches[index]?.ms ?? NaN)),
      flops: dispatch.flops,
      unit: dispatch.spec.code.includes('subgroupMatrixMultiply') ? 'matrix' : 'fma',
      bytes: dispatch.traffic,
    })),
  };
  program.destroy();
  return profile;
}

/** Milliseconds from the call to the submit, on a device that has nothing else to do. */
async function encodeTime(gpu: Gpu, program: Program): Promise<number> {
  await gpu.sync();
  const start = performance.now();
  program.run();
  const ms = performance.now() - start;
  await gpu.sync();
  return ms;
}
