import { Tape } from '../autograd/tape.ts';
import type { Dataset } from '../data/dataset.ts';
import { Loader } from '../data/loader.ts';
import type { Gpu } from '../gpu/device.ts';
import { ReadbackRing } from '../gpu/readback.ts';
import { UserError } from '../util/errors.ts';
import { build } from './built.ts';
import type { Built } from './built.ts';
import { checkBatchFits, createLearnerThatFits } from './capacity.ts';
import { NonFiniteError, restoreLearner, saveCheckpoint, sumsToGoOnWith } from './checkpoint.ts';
import type { Checkpoint, MetricSums } from './checkpoint.ts';
import { optionName } from './check.ts';
import type { TrainConfig } from './options.ts';
import { stepInputs } from './learner.ts';
import type { Learner, StepInput } from './learner.ts';
import { Meter } from './meter.ts';
import { together } from './observers.ts';
import { drawCurves, drawPictures } from './pictures.ts';
import { originalsOf } from './reconstruct.ts';
import type { Originals } from './reconstruct.ts';
import {
  appendAlarm,
  appendMetrics,
  createRunFolder,
  readMetrics,
  removeTemporaries,
  rewindMetrics,
  saveConfig,
} from './run-folder.ts';
import type { MetricLine } from './run-folder.ts';
import { tensorboard } from './tensorboard.ts';
import { Watch } from './watch.ts';
import type { Alarm } from './watch.ts';

/** What a run tells whoever started it; the trainer prints nothing, and waits for those that take their time. */
export interface TrainEvents {
  /** Before the first step. */
  onReady?(info: ReadyInfo): void | Promise<void>;
  /** Where a training whose steps differ begins with other ones. */
  onStage?(stage: string): void;
  onStep?(step: number): void;
  onMetrics?(line: MetricLine): void;
  /** Something goes wrong, as the line just told shows. */
  onAlarm?(alarm: Alarm): void;
  onSamples?(path: string, step: number): void | Promise<void>;
  onCheckpoint?(path: string, step: number): void | Promise<void>;
}

export interface ReadyInfo {
  readonly firstStep: number;
  readonly launches: number;
  readonly gflopPerStep: number;
  readonly plannedBytes: number;
  readonly unplannedBytes: number;
  /** Weights, optimiser state and the rest that outlives a step. */
  readonly residentBytes: number;
  /** Of each module that is trained. */
  readonly parameters: Readonly<Record<string, number>>;
  /** Of `Learner.stage`. */
  readonly stage?: string | undefined;
  /** What of a line of metrics is worth a place on a terminal, with short names. */
  readonly shown: Readonly<Record<string, string>>;
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

/** Trains until the steps are done, the time is up or a stop is asked for; leaves a grid and a checkpoint each time. */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { gpu, config, run, resume, events: told = {} } = options;
  const tape = new Tape(gpu);
  const learner = createLearnerThatFits(tape, config, { blank: resume !== undefined });
  if (resume !== undefined) restoreLearner(learner, resume);
  learner.begin(learner.largestStep ?? config.steps - 1);
  checkBatchFits(learner);
  const dataset = await options.openData();
  const loader = new Loader(dataset, { batch: config.batch, seed: config.seed, flip: config.flip });
  if (resume?.progress.loader !== undefined) loader.restore(resume.progress.loader);
  const originals = await originalsOf(learner, dataset);
  if (resume === undefined) await createRunFolder(run, config);
  else removeTemporaries(run);

  const firstStep = resume?.progress.step ?? 0;
  const seconds = readMetrics(run).findLast((line) => line.step <= firstStep)?.seconds ?? 0;
  const sums = sumsToGoOnWith(learner, resume);
  // A last line of fewer steps than the others is taken back: its sums go on, and the line comes when it is due.
  const earlier = await rewindMetrics(run, firstStep - sums.steps);
  const { classes: classNames } = dataset;
  const events = config.tensorboard ? together(told, tensorboard(run, learner, firstStep)) : told;
  const state = {
    learner,
    events,
    loader,
    originals,
    classNames,
    firstStep,
    earlier,
    seconds,
    sums,
  };
  const loop = await Loop.open({ ...options, ...state });
  await events.onReady?.(loop.info);
  await saveConfig(run, config);
  try {
    return await loop.run();
  } finally {
    await loader.close();
  }
}

interface LoopParts extends TrainOptions {
  readonly learner: Learner;
  readonly loader: Loader;
  /** For a learner that reconstructs. */
  readonly originals: Originals | undefined;
  readonly classNames: readonly string[];
  readonly firstStep: number;
  readonly earlier: MetricLine[];
  readonly sums: MetricSums;
  /** Of training before this part of the run. */
  readonly seconds: number;
}

/** Of each module but the average, which has those of its net. */
function parameterCounts({ modules, average }: Learner): Record<string, number> {
  const trained = Object.entries(modules).filter(([, module]) => module !== average);
  return Object.fromEntries(trained.map(([name, module]) => [name, module.parameterCount()]));
}

/** The state of a running loop: the captured step, its inputs, and the numbers on their way out. */
class Loop {
  readonly #parts: LoopParts;
  readonly #inputs: readonly StepInput[];
  /** Is the first step here another program than the one before it? */
  readonly #atStage: boolean;
  #built: Built;
  #ring: ReadbackRing;
  readonly #metrics: MetricLine[];
  readonly #meter: Meter;
  readonly #watch: Watch;
  #arrived: number;
  #failure: Error | undefined;
  /** The newest checkpoint. */
  #saved: string | undefined;

  private constructor(
    parts: LoopParts,
    inputs: readonly StepInput[],
    built: Built,
    atStage: boolean,
  ) {
    this.#parts = parts;
    this.#atStage = atStage;
    this.#inputs = inputs;
    this.#built = built;
    this.#metrics = parts.earlier;
    this.#watch = new Watch(parts.config, parts.earlier);
    this.#arrived = parts.firstStep;
    this.#meter = new Meter(parts.learner, parts.sums, parts.seconds);
    this.#saved = parts.resume?.path;
    this.#ring = this.#listen();
  }

  static async open(parts: LoopParts): Promise<Loop> {
    const { learner, firstStep } = parts;
    const inputs = stepInputs(learner);
    learner.begin(Math.max(0, firstStep - 1));
    // The kernels of a checkpoint are those of the step before it.
    const other = learner.begin(firstStep);
    return new Loop(parts, inputs, await build(learner, inputs), other);
  }

  /** Puts the program of the step about to run in the place of the last one's. */
  async #rebuild(): Promise<void> {
    await this.#settleReadback();
    this.#close();
    this.#built = await build(this.#parts.learner, this.#inputs);
    this.#ring = this.#listen();
    const { learner, events } = this.#parts;
    if (learner.stage !== undefined) events?.onStage?.(learner.stage);
  }

  #listen(): ReadbackRing {
    const { readings } = this.#built;
    const watched = readings.map(({ of }) => of.storage);
    return new ReadbackRing(this.#parts.gpu, watched, {
      floats: readings.map(({ names }) => names.length),
      onValues: (values) => {
        this.#receive(values);
      },
    });
  }

  #close(): void {
    this.#ring.destroy();
    this.#built.sampler.close();
    this.#built.reconstructor?.close();
    this.#built.program.destroy();
  }

  get info(): ReadyInfo {
    const { learner, gpu, firstStep, resume } = this.#parts;
    const before = this.#atStage ? undefined : resume?.progress.kernels;
    const { program, asked, kernels } = this.#built;
    const { plannedBytes, unplannedBytes } = program.memory;
    return {
      firstStep,
      launches: program.entries.length,
      gflopPerStep: program.flops / 1e9,
      plannedBytes,
      unplannedBytes,
      residentBytes: gpu.pool.stats().liveBytes - plannedBytes,
      parameters: parameterCounts(learner),
      stage: learner.stage,
      shown: learner.shown,
      operations: asked.length,
      tuned: asked.filter((one) => one.tuned).length,
      otherKernels: before !== undefined && before !== kernels,
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
    const { config, gpu, learner, loader, firstStep, stop, events = {} } = this.#parts;
    const started = performance.now();
    this.#meter.start();
    let step = firstStep;
    let why: TrainResult['why'] = 'finished';
    let samples = '';
    let checkpoint = '';
    while (step < config.steps) {
      if (learner.begin(step)) await this.#rebuild();
      for (const input of this.#inputs) {
        const { images, labels } = await loader.next();
        gpu.write(input.images.storage, images);
        input.labels?.set(labels);
      }
      await this.#ring.ready();
      this.#throwIfFailed();
      this.#built.program.run(this.#ring);
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
    this.#close();
    return { step, why: step === config.steps ? 'finished' : why, samples, checkpoint };
  }

  /** Values of one step, in order, some steps late. */
  #receive(values: Float32Array): void {
    this.#arrived += 1;
    try {
      this.#meter.add(this.#arrived, values, this.#built.readings);
      if (this.#arrived % this.#parts.config.logEvery !== 0) return;
      this.#log();
    } catch (error) {
      // Thrown here, it would be lost in the readback's promise.
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
    }
    this.#meter.clear();
  }

  /** Writes the line of a run's last steps where it is not due yet; a run that goes on takes it back. */
  async #logRest(): Promise<void> {
    await this.#settleReadback();
    this.#log();
  }

  /** Writes the line of metrics of the steps since the last one. */
  #log(): void {
    const { run, events } = this.#parts;
    const line = this.#meter.line(this.#arrived);
    if (line === undefined) return;
    this.#metrics.push(line);
    appendMetrics(run, line);
    events?.onMetrics?.(line);
    for (const alarm of this.#watch.look(this.#metrics)) {
      appendAlarm(run, alarm);
      events?.onAlarm?.(alarm);
    }
  }

  /** An error of the same kind that says besides what is saved and how to go on from it. */
  #withWayOn(error: unknown): unknown {
    if (!(error instanceof Error)) return error;
    const state =
      this.#saved === undefined
        ? `${this.#parts.run} has no checkpoint yet: begin it again by --resume`
        : `${this.#saved} is whole: go on from it by --resume`;
    const rates = error instanceof NonFiniteError ? ` with lower ${this.#rates()}` : '';
    const text = `${error.message}; ${state}${rates}`;
    const options = { cause: error };
    return error instanceof UserError ? new UserError(text, options) : new Error(text, options);
  }

  /** The options of the learning rates: each is called after its optimiser. */
  #rates(): string {
    const names = Object.keys(this.#parts.learner.optimizers);
    return names.map((name) => `--${optionName(`lr${name}`)}`).join(' and ');
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The learner's pictures, and the loss curves so far. Returns the path of the grid of the fixed latents. */
  async #drawSamples(step: number): Promise<string> {
    const { learner, originals, run, events } = this.#parts;
    await this.#settleReadback();
    const path = await drawPictures(run, { learner, originals, ...this.#built, step });
    await drawCurves(run, learner.shown, this.#metrics);
    await events?.onSamples?.(path, step);
    return path;
  }

  async #save(step: number): Promise<string> {
    const { learner, loader, run, events } = this.#parts;
    await this.#settleReadback();
    const { classNames } = this.#parts;
    const progress = {
      ...{ step, loader: loader.state(), metrics: this.#meter.sums, kernels: this.#built.kernels },
      classes: learner.config.conditional ? classNames : undefined,
    };
    const path = await saveCheckpoint(run, learner, progress);
    this.#saved = path;
    await events?.onCheckpoint?.(path, step);
    return path;
  }

  /** Every loss has arrived and was finite: what is written now is good. */
  async #settleReadback(): Promise<void> {
    await this.#ring.drain();
    this.#throwIfFailed();
  }
}
