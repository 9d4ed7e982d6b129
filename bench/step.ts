import { Tape } from '../src/autograd/tape.ts';
import type { Gpu } from '../src/gpu/device.ts';
import type { Program } from '../src/gpu/program.ts';
import { resolveConfig } from '../src/train/config.ts';
import type { TrainConfig } from '../src/train/options.ts';
import { stepInputs, watchedOf } from '../src/train/learner.ts';
import type { Learner } from '../src/train/learner.ts';
import { createLearner } from '../src/train/learners.ts';
import { environmentOf } from './environment.ts';
import type { StepCase, StepResult } from './results.ts';
import { percentile, summarise } from '../src/util/statistics.ts';

/** A preset at a batch; its own batch if left out. */
export interface StepChoice {
  readonly preset: string;
  readonly batch?: number;
  readonly precision?: 'f32' | 'f16';
}

/** What a software adapter does in seconds. */
export const softwareSteps: readonly StepChoice[] = [
  { preset: 'sagan-32-tiny' },
  { preset: 'sagan-32', batch: 16 },
  { preset: 'sagan-32', batch: 16, precision: 'f16' },
];
export const gpuSteps: readonly StepChoice[] = [
  { preset: 'sagan-32-tiny' },
  { preset: 'sagan-32' },
  { preset: 'sagan-64' },
  { preset: 'sagan-64', precision: 'f16' },
  { preset: 'sagan-128' },
  { preset: 'sagan-128', precision: 'f16' },
];

/** Steps before the first that counts. */
const warmUps = 3;

export interface StepOptions {
  readonly rounds: number;
  readonly onCase?: (made: StepCase, place: { done: number; of: number }) => void;
}

/**
 * One training step of D and G for each choice, captured and replayed on random weights: the host's clock from the call to
 * the device's end. Throws as `OpenStep.check`.
 */
export async function runSteps(
  open: () => Promise<Gpu>,
  choices: readonly StepChoice[],
  { rounds, onCase }: StepOptions,
): Promise<StepResult> {
  const configs = choices.map((choice) => resolveConfig({ data: 'none', ...choice }));
  const made: StepCase[] = [];
  let environment: StepResult['environment'] | undefined;
  for (const config of configs) {
    // A device a preset: what one holds must not crowd the next.
    const gpu = await open();
    try {
      environment ??= environmentOf(gpu);
      const one = await runStep(gpu, config, rounds);
      made.push(one);
      onCase?.(one, { done: made.length, of: configs.length });
    } finally {
      gpu.close();
    }
  }
  if (environment === undefined) throw new Error('there is no step to measure');
  return { kind: 'step', bench: 'step', environment, settings: { rounds }, cases: made };
}

/** A captured step on random weights, and its clock. */
export interface OpenStep {
  readonly program: Program;
  /** If no launch went over several tensors side by side. */
  readonly launchesApart: number;
  /** Runs it once: milliseconds to encode it, and until the device has done it. */
  time(): Promise<{ readonly encode: number; readonly whole: number }>;
  /** Throws where a step gave a loss that is not finite: its speed would say nothing. */
  check(): Promise<void>;
}

/** Captures one training step of a config and runs it a few times. */
export async function openStep(gpu: Gpu, config: TrainConfig): Promise<OpenStep> {
  const learner = createLearner(new Tape(gpu), config);
  const inputs = stepInputs(learner);
  // Grey of a middling brightness: the time of a step does not hang on its images.
  for (const { images } of inputs) images.set(new Uint32Array(images.size).fill(0x40c08020));
  let values: ReturnType<Learner['step']> = {};
  const capture = gpu.capture(() => {
    values = learner.step(inputs);
    return watchedOf(learner, values);
  });
  // The same step with a launch for each tensor of an update, a norm, a sum: traced, never run.
  const apart = gpu.capture(() => watchedOf(learner, learner.step(inputs)), { rows: false });
  const program = await capture.build();
  for (let i = 0; i < warmUps; i++) program.run();
  await gpu.sync();
  return {
    program,
    launchesApart: apart.dispatches.length,
    async time() {
      const start = performance.now();
      program.run();
      const encode = performance.now() - start;
      await gpu.sync();
      return { encode, whole: performance.now() - start };
    },
    async check() {
      for (const name of learner.reports) {
        const value = new Float32Array((await values[name]?.read()) ?? [NaN])[0] ?? NaN;
        if (!Number.isFinite(value)) {
          throw new Error(`${config.preset}, batch ${config.batch}: ${name} is ${value}`);
        }
      }
    },
  };
}

async function runStep(gpu: Gpu, config: TrainConfig, rounds: number): Promise<StepCase> {
  const step = await openStep(gpu, config);
  const times: number[] = [];
  const encodes: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const { encode, whole } = await step.time();
    encodes.push(encode);
    times.push(whole);
  }
  await step.check();
  return stepCase(gpu, { ...step, config, times, encodes });
}

function stepCase(
  gpu: Gpu,
  o: {
    config: TrainConfig;
    program: Program;
    launchesApart: number;
    times: number[];
    encodes: number[];
  },
): StepCase {
  const { config, program, launchesApart, times, encodes } = o;
  const ms = summarise(times);
  const { plannedBytes, unplannedBytes } = program.memory;
  const launches = program.entries.length;
  return {
    preset: config.preset,
    precision: config.precision,
    batch: config.batch,
    launches,
    launchesApart,
    gflop: program.flops / 1e9,
    ms,
    gflops: program.flops / ms.median / 1e6,
    stepsPerSecond: 1000 / ms.median,
    imagesPerSecond: (1000 * config.batch * config.dSteps) / ms.median,
    encodeUsPerLaunch: (percentile(encodes, 0.5) * 1000) / launches,
    plannedBytes,
    unplannedBytes,
    residentBytes: gpu.pool.stats().liveBytes - plannedBytes,
  };
}
