import { join } from 'node:path';
import { Tape } from '../autograd/tape.ts';
import type { Dataset } from '../data/dataset.ts';
import { Loader } from '../data/loader.ts';
import { fingerprintOf } from '../data/fingerprint.ts';
import type { Asked } from '../gpu/choices.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Program } from '../gpu/program.ts';
import { ReadbackRing } from '../gpu/readback.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng, imageGrid } from '../io/png.ts';
import { UserError } from '../util/errors.ts';
import { checkBatchFits, createGanThatFits } from './capacity.ts';
import { lineChart } from './chart.ts';
import { NonFiniteError, restoreGan, saveCheckpoint, sumsToGoOnWith } from './checkpoint.ts';
import type { Checkpoint, MetricSums } from './checkpoint.ts';
import type { TrainConfig } from './config.ts';
import { emaDecayAt, ganStep, reportedBy, stepInputs, watchedOf } from './gan.ts';
import type { Gan, StepInput, StepValue } from './gan.ts';
import {
  appendMetrics,
  createRunFolder,
  readMetrics,
  removeTemporaries,
  rewindMetrics,
  runPaths,
  saveConfig,
} from './run-folder.ts';
import type { MetricLine } from './run-folder.ts';
import { Sampler, gridLabels, latents, samplerBatch } from './sampler.ts';

/** What a run tells whoever started it; the trainer prints nothing. */
export interface TrainEvents {
  /** Before the first step. */
  onReady?(info: ReadyInfo): void;
  onStep?(step: number): void;
  onMetrics?(line: MetricLine): void;
  onSamples?(path: string, step: number): void;
  onCheckpoint?(path: string, step: number): void;
}

export interface ReadyInfo {
  readonly firstStep: number;
  readonly launches: number;
  readonly gflopPerStep: number;
  readonly plannedBytes: number;
  readonly unplannedBytes: number;
  /** Weights, optimiser state and the rest that outlives a step. */
  readonly residentBytes: number;
  readonly parametersG: number;
  readonly parametersD: number;
  /** Operations of the step that have more than one kernel, and how many of them run what tuning chose. */
  readonly operations: number;
  readonly tuned: number;
  /** Are these other kernels than those that the run was trained with so far? Then its bits may be others from here on. */
  readonly otherKernels: boolean;
}

export interface TrainOptions {
  readonly gpu: Gpu;
  /** Opens the data; called when all that is cheaper to check is well. */
  readonly openData: () => Promise<Dataset>;
  readonly config: TrainConfig;
  /** The run folder: made before the first step, or there already when resuming. */
  readonly run: string;
  readonly resume?: Checkpoint | undefined;
  /** Set to stop after the current step, saved. */
  readonly stop?: { requested: boolean };
  readonly events?: TrainEvents;
}

export interface TrainResult {
  /** Steps done in all. */
  readonly step: number;
  readonly why: 'finished' | 'stopped' | 'time';
  /** The newest grid and checkpoint. */
  readonly samples: string;
  readonly checkpoint: string;
}

const gridImages = 64;
/** A loss scale below this has fallen for so many steps that no scale will do. */
const leastLossScale = 2 ** -10;

/** Trains until the steps are done, the time is up or a stop is asked for; leaves a grid and a checkpoint each time. */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { gpu, config, run, resume, events = {} } = options;
  const tape = new Tape(gpu);
  const gan = createGanThatFits(tape, config, { blank: resume !== undefined });
  if (resume !== undefined) restoreGan(gan, resume);
  checkBatchFits(gan);
  const dataset = await options.openData();
  const loader = new Loader(dataset, { batch: config.batch, seed: config.seed, flip: config.flip });
  if (resume?.progress.loader !== undefined) loader.restore(resume.progress.loader);
  if (resume === undefined) await createRunFolder(run, config);
  else removeTemporaries(run);

  const firstStep = resume?.progress.step ?? 0;
  const seconds = readMetrics(run).findLast((line) => line.step <= firstStep)?.seconds ?? 0;
  const sums = sumsToGoOnWith(config, resume);
  // A last line of fewer steps than the others is taken back: its sums go on, and the line comes when it is due.
  const earlier = await rewindMetrics(run, firstStep - sums.steps);
  const { classes: classNames } = dataset;
  const state = { gan, loader, classNames, firstStep, earlier, seconds, sums };
  const loop = await Loop.open({ ...options, ...state });
  events.onReady?.(loop.info);
  await saveConfig(run, config);
  try {
    return await loop.run();
  } finally {
    await loader.close();
  }
}

interface LoopParts extends TrainOptions {
  readonly gan: Gan;
  readonly loader: Loader;
  readonly classNames: readonly string[];
  readonly firstStep: number;
  readonly earlier: MetricLine[];
  readonly sums: MetricSums;
  /** Of training before this part of the run. */
  readonly seconds: number;
}

/** Tells kernels that may round in another way from those of another step: rung, tile and sizes of every operation. */
export function kernelsOf(asked: ReadonlyMap<string, Asked>): string {
  const lines = [...asked].map(([key, { choice }]) => {
    const tile = Object.entries(choice.tile).map(([name, value]) => `${name}=${value}`);
    return [key, choice.rung, ...tile].join(' ');
  });
  return fingerprintOf(lines.sort()).slice(0, 16);
}

/** The state of a running loop: the captured step, its inputs, and the numbers on their way out. */
class Loop {
  readonly #parts: LoopParts;
  readonly #program: Program;
  readonly #inputs: readonly StepInput[];
  readonly #ring: ReadbackRing;
  readonly #sampler: Sampler;
  readonly #asked: readonly Asked[];
  readonly #kernels: string;
  readonly #metrics: MetricLine[];
  /** What a step reports. */
  readonly #names: readonly StepValue[];
  /** Of the steps since the last line of metrics that was due, and how many they are. */
  readonly #sums: Float64Array;
  #inSum: number;
  /** Of D and G, where they compute in f16. */
  #lossScales: readonly number[] = [];
  #arrived: number;
  #seconds: number;
  #lineStarted = performance.now();
  /** Steps since then: those of an earlier part of the run are in the sums, but not in the time. */
  #timed = 0;
  #failure: Error | undefined;
  /** The newest checkpoint. */
  #saved: string | undefined;

  private constructor(
    parts: LoopParts,
    made: {
      program: Program;
      inputs: readonly StepInput[];
      sampler: Sampler;
      asked: ReadonlyMap<string, Asked>;
      watched: ConstructorParameters<typeof ReadbackRing>[1];
    },
  ) {
    this.#parts = parts;
    this.#program = made.program;
    this.#inputs = made.inputs;
    this.#sampler = made.sampler;
    this.#asked = [...made.asked.values()];
    this.#kernels = kernelsOf(made.asked);
    this.#metrics = parts.earlier;
    this.#arrived = parts.firstStep;
    this.#seconds = parts.seconds;
    this.#names = reportedBy(parts.config);
    this.#inSum = parts.sums.steps;
    this.#sums = Float64Array.from(parts.sums.sums);
    this.#saved = parts.resume?.path;
    this.#ring = new ReadbackRing(parts.gpu, made.watched, {
      onValues: (values) => {
        this.#receive(values);
      },
    });
  }

  static async open(parts: LoopParts): Promise<Loop> {
    const { gan, gpu, config } = parts;
    const inputs = stepInputs(gan);
    let watched: ConstructorParameters<typeof ReadbackRing>[1] = [];
    gpu.choices.forget();
    const capture = gpu.capture(() => {
      watched = watchedOf(gan, ganStep(gan, inputs));
      return watched;
    });
    const asked = new Map(gpu.choices.asked);
    const program = await capture.build();
    const sampler = await Sampler.open(gan.average, {
      batch: samplerBatch(config.batch),
      latentSize: config.latentSize,
      classes: config.classes,
    });
    return new Loop(parts, { program, inputs, sampler, asked, watched });
  }

  get info(): ReadyInfo {
    const { gan, gpu, firstStep, resume } = this.#parts;
    const before = resume?.progress.kernels;
    const { plannedBytes, unplannedBytes } = this.#program.memory;
    return {
      firstStep,
      launches: this.#program.entries.length,
      gflopPerStep: this.#program.flops / 1e9,
      plannedBytes,
      unplannedBytes,
      residentBytes: gpu.pool.stats().liveBytes - plannedBytes,
      parametersG: gan.generator.parameterCount(),
      parametersD: gan.discriminator.parameterCount(),
      operations: this.#asked.length,
      tuned: this.#asked.filter((one) => one.tuned).length,
      otherKernels: before !== undefined && before !== this.#kernels,
    };
  }

  /** Throws what ended the run in its middle, with the way to go on. */
  async run(): Promise<TrainResult> {
    try {
      return await this.#steps();
    } catch (error) {
      throw this.#withWayOn(error);
    }
  }

  async #steps(): Promise<TrainResult> {
    const { config, gan, loader, firstStep, stop, events = {} } = this.#parts;
    const started = performance.now();
    this.#lineStarted = started;
    let step = firstStep;
    let why: TrainResult['why'] = 'finished';
    let samples = '';
    let checkpoint = '';
    gan.optimizerG.groups[0]?.set({ emaDecay: emaDecayAt(config, step) });
    while (step < config.steps) {
      if (step === config.emaStart) gan.optimizerG.groups[0]?.set({ emaDecay: config.emaDecay });
      for (const input of this.#inputs) {
        const { images, labels } = await loader.next();
        gan.tape.gpu.write(input.images.storage, images);
        input.labels?.set(labels);
      }
      await this.#ring.ready();
      this.#throwIfFailed();
      this.#program.run(this.#ring);
      step += 1;
      events.onStep?.(step);
      const minutes = (performance.now() - started) / 60_000;
      if (stop?.requested === true) why = 'stopped';
      else if (config.timeLimit !== undefined && minutes >= config.timeLimit) why = 'time';
      const last = step === config.steps || why !== 'finished';
      if (last) await this.#logRest();
      if (last || step % config.sampleEvery === 0) samples = await this.#drawSamples(step);
      if (last || step % config.checkpointEvery === 0) checkpoint = await this.#save(step);
      if (last) break;
    }
    this.#ring.destroy();
    this.#sampler.close();
    return { step, why: step === config.steps ? 'finished' : why, samples, checkpoint };
  }

  /** Values of one step, in order, some steps late. */
  #receive(values: Float32Array): void {
    const { config } = this.#parts;
    this.#arrived += 1;
    this.#names.forEach((_name, i) => {
      this.#sums[i] = (this.#sums[i] ?? 0) + (values[i] ?? NaN);
    });
    this.#lossScales = [...values.subarray(this.#names.length)];
    this.#inSum += 1;
    this.#timed += 1;
    if (values.some((v) => !Number.isFinite(v))) {
      const named = this.#names.map((name, i) => `${name} ${String(values[i])}`).join(', ');
      this.#failure ??= new NonFiniteError(`step ${this.#arrived} gave ${named}`);
      return;
    }
    const net = this.#lossScales.findIndex((scale) => scale < leastLossScale);
    if (net >= 0) {
      const name = net === 0 ? 'D' : 'G';
      const text = `step ${this.#arrived}: gradients of ${name} overflow f16 whatever the loss scale`;
      this.#failure ??= new NonFiniteError(`${text}; --precision f32 does without`);
      return;
    }
    if (this.#arrived % config.logEvery !== 0) return;
    try {
      this.#log();
    } catch (error) {
      // Thrown here, it would be lost in the readback's promise.
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
    }
    this.#sums.fill(0);
    this.#inSum = 0;
  }

  /** Writes the line of a run's last steps where it is not due yet; a run that goes on takes it back. */
  async #logRest(): Promise<void> {
    await this.#settleReadback();
    if (this.#inSum > 0) this.#log();
  }

  /** Writes a line of metrics: the means of the sums. */
  #log(): void {
    const { config, run, events } = this.#parts;
    const now = performance.now();
    const elapsed = (now - this.#lineStarted) / 1000;
    const [scaleD, scaleG] = this.#lossScales;
    const means = this.#names.map((name, i) => [name, (this.#sums[i] ?? 0) / this.#inSum] as const);
    const line: MetricLine = {
      step: this.#arrived,
      ...(Object.fromEntries(means) as Pick<MetricLine, StepValue>),
      imagesPerSecond: (this.#timed * config.batch * config.dSteps) / elapsed,
      seconds: this.#seconds + elapsed,
      ...(scaleD === undefined || scaleG === undefined
        ? {}
        : { lossScaleD: scaleD, lossScaleG: scaleG }),
    };
    this.#seconds = line.seconds;
    this.#lineStarted = now;
    this.#timed = 0;
    this.#metrics.push(line);
    appendMetrics(run, line);
    events?.onMetrics?.(line);
  }

  /** An error of the same kind that says besides what is saved and how to go on from it. */
  #withWayOn(error: unknown): unknown {
    if (!(error instanceof Error)) return error;
    const state =
      this.#saved === undefined
        ? `${this.#parts.run} has no checkpoint yet: begin it again by --resume`
        : `${this.#saved} is whole: go on from it by --resume`;
    const rates = error instanceof NonFiniteError ? ' with lower --lr-g and --lr-d' : '';
    const text = `${error.message}; ${state}${rates}`;
    const options = { cause: error };
    return error instanceof UserError ? new UserError(text, options) : new Error(text, options);
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The grid of the fixed latents, and the loss curves so far. */
  async #drawSamples(step: number): Promise<string> {
    const { config, gan, run, events } = this.#parts;
    await this.#settleReadback();
    const paths = runPaths(run);
    this.#sampler.settle(gan.generator);
    const z = latents(config.seed, gridImages, config.latentSize);
    const { imageSize, channels, classes } = config;
    const labels =
      classes === 0 ? undefined : gridLabels(gridImages, Math.sqrt(gridImages), classes);
    const images = await this.#sampler.images(z, labels);
    const size = { n: gridImages, channels, height: imageSize, width: imageSize };
    const grid = imageGrid(images, size);
    const path = join(paths.samples, `step-${String(step).padStart(7, '0')}.png`);
    await writeFileAtomic(path, encodePng(grid.pixels, grid));
    const curve = (name: 'lossD' | 'lossG', colour: string) => ({
      name,
      colour,
      points: this.#metrics.map((line) => [line.step, line[name]] as const),
    });
    const curves = [curve('lossD', '#d1495b'), curve('lossG', '#2e86ab')];
    await writeFileAtomic(paths.losses, lineChart('losses', curves, 'step'));
    events?.onSamples?.(path, step);
    return path;
  }

  async #save(step: number): Promise<string> {
    const { gan, loader, run, events } = this.#parts;
    await this.#settleReadback();
    const metrics = { steps: this.#inSum, sums: [...this.#sums] };
    const { classNames } = this.#parts;
    const progress = {
      ...{ step, loader: loader.state(), metrics, kernels: this.#kernels },
      classes: gan.config.conditional ? classNames : undefined,
    };
    const path = await saveCheckpoint(run, gan, progress);
    this.#saved = path;
    events?.onCheckpoint?.(path, step);
    return path;
  }

  /** Every loss has arrived and was finite: what is written now is good. */
  async #settleReadback(): Promise<void> {
    await this.#ring.drain();
    this.#throwIfFailed();
  }
}
