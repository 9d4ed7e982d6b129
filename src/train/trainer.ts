import { Tape } from '../autograd/tape.ts';
import type { Dataset } from '../data/dataset.ts';
import { Loader } from '../data/loader.ts';
import type { Gpu } from '../gpu/device.ts';
import { ReadbackRing } from '../gpu/readback.ts';
import { build } from './built.ts';
import type { Built } from './built.ts';
import { checkBatchFits, createLearnerThatFits } from './capacity.ts';
import { restoreLearner, saveCheckpoint, sumsToGoOnWith } from './checkpoint.ts';
import type { Checkpoint, MetricSums } from './checkpoint.ts';
import { evaluatesAt } from './eval/schedule.ts';
import { withWayOn } from './failures.ts';
import { setAsideAfter } from './fallback.ts';
import { History } from './history.ts';
import type { TrainConfig } from './options.ts';
import { stepInputs } from './learner.ts';
import type { Learner, StepInput } from './learner.ts';
import { Meter } from './meter.ts';
import { together } from './observers.ts';
import { drawCurves, drawPictures } from './pictures.ts';
import { readyInfo } from './ready.ts';
import type { ReadyInfo } from './ready.ts';
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
  syncLines,
} from './run-folder.ts';
import type { MetricLine } from './run-folder.ts';
import { tensorboard } from './tensorboard.ts';
import { Watch } from './watch.ts';
import type { Alarm } from './watch.ts';

/** What a run tells whoever started it; the trainer prints nothing, and waits for those that take their time. */
export interface TrainEvents {
  /** Before the first step. */
  onReady?(info: ReadyInfo): void | Promise<void>;
  /** Before the first step of a run that goes on, with the checkpoint that it goes on from. */
  onResume?(path: string, step: number): void | Promise<void>;
  /** Where a training whose steps differ begins with other ones. */
  onStage?(stage: string): void;
  onStep?(step: number): void;
  onMetrics?(line: MetricLine): void;
  /** Something goes wrong, as the line just told shows. */
  onAlarm?(alarm: Alarm): void;
  onSamples?(path: string, step: number): void | Promise<void>;
  onCheckpoint?(path: string, step: number): void | Promise<void>;
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
  /** When the first step of the call began, which the time limit counts from; set by the first part of a run that has several. */
  readonly clock?: { startedAt: number | undefined };
  readonly events?: TrainEvents;
}

export interface TrainResult {
  /** Steps done in all. */
  readonly step: number;
  readonly why: 'finished' | 'stopped' | 'time';
  /** The newest grid and checkpoint. */
  readonly samples: string;
  readonly checkpoint: string;
  /** Share of the time, 0 … 1, that steps waited for images. */
  readonly wait: number;
}

/** Milliseconds of a step from which none is submitted before the one before it is done. */
const slowStepMs = 1000;

/** Trains until the steps are done, the time is up or a stop is asked for; leaves a grid and a checkpoint each time. */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { gpu, config, run, resume, events: told = {} } = options;
  const tape = new Tape(gpu);
  const learner = createLearnerThatFits(tape, config, { blank: resume !== undefined });
  if (resume !== undefined) restoreLearner(learner, resume);
  learner.begin(learner.largestStep ?? config.steps - 1);
  checkBatchFits(learner);
  const dataset = await options.openData();
  const loader = new Loader(dataset, config);
  if (resume?.progress.loader !== undefined) loader.restore(resume.progress.loader);
  const originals = await originalsOf(learner, dataset);
  if (resume === undefined) await createRunFolder(run, config);
  else {
    removeTemporaries(run);
    await setAsideAfter(run, resume.path);
  }
  await dataset.saveIndex?.(run);

  const firstStep = resume?.progress.step ?? 0;
  const seconds = readMetrics(run).findLast((line) => line.step <= firstStep)?.seconds ?? 0;
  const sums = sumsToGoOnWith(learner, resume);
  // A last line of fewer steps than the others is taken back: its sums go on, and the line comes when it is due.
  const earlier = await rewindMetrics(run, firstStep - sums.steps);
  const { classes: classNames } = dataset;
  const events = config.tensorboard
    ? together(told, tensorboard(run, learner, firstStep - sums.steps + 1))
    : told;
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
  // While the kernels are compiled.
  loader.readAhead();
  try {
    const loop = await Loop.open({ ...options, ...state });
    await events.onReady?.(loop.info);
    await saveConfig(run, config);
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

/** The state of a running loop: the captured step, its inputs, and the numbers on their way out. */
class Loop {
  readonly #parts: LoopParts;
  readonly #inputs: readonly StepInput[];
  /** Is the first step here another program than the one before it? */
  readonly #atStage: boolean;
  #built: Built;
  #ring: ReadbackRing;
  readonly #metrics: History;
  readonly #meter: Meter;
  readonly #watch: Watch;
  #arrived: number;
  /** Of the newest step whose values have arrived, and when they did. */
  #stepMs = 0;
  #arrivedAt = performance.now();
  #failure: Error | undefined;
  /** The newest checkpoint; and the step of it, where this part of the run wrote it. */
  #saved: string | undefined;
  #savedStep: number | undefined;

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
    this.#metrics = new History(Object.keys(parts.learner.shown), parts.earlier);
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
    const { learner, firstStep, resume } = this.#parts;
    const before = this.#atStage ? undefined : resume?.progress.kernels;
    return readyInfo(learner, this.#built, { firstStep, before });
  }

  /** Throws what ended the run in its middle, with the way to go on. */
  async run(): Promise<TrainResult> {
    try {
      return await this.#steps();
    } catch (error) {
      const { run, learner } = this.#parts;
      throw withWayOn(error, { run, learner, saved: this.#saved });
    }
  }

  async #steps(): Promise<TrainResult> {
    const { config, learner, loader, firstStep, stop, events = {} } = this.#parts;
    const started = performance.now();
    const clock = this.#parts.clock ?? { startedAt: undefined };
    clock.startedAt ??= started;
    const { resume } = this.#parts;
    if (resume !== undefined) await events.onResume?.(resume.path, firstStep);
    this.#meter.start();
    let step = firstStep;
    let why: TrainResult['why'] = 'finished';
    let samples = '';
    let checkpoint = '';
    while (step < config.steps) {
      await this.#roomToRun();
      // Told to stop while it waited, a run does not begin another step; a new one has a first.
      if (stop?.requested !== true || step === 0) {
        if (learner.begin(step)) await this.#rebuild();
        await this.#feed();
        this.#built.program.run(this.#ring);
        step += 1;
        events.onStep?.(step);
      }
      const minutes = (performance.now() - clock.startedAt) / 60_000;
      if (stop?.requested === true) why = 'stopped';
      else if (config.timeLimit !== undefined && minutes >= config.timeLimit) why = 'time';
      const last = step === config.steps || why !== 'finished';
      if (last) await this.#logRest();
      // Whoever stops a run may not wait for pictures.
      if (why !== 'finished') checkpoint = this.#savedOf(step) ?? (await this.#save(step));
      if (last || step % config.sampleEvery === 0) samples = await this.#drawSamples(step);
      const due =
        step === config.steps || step % config.checkpointEvery === 0 || evaluatesAt(step, config);
      if (why === 'finished' && due) checkpoint = await this.#save(step);
      if (last) break;
    }
    this.#close();
    if (step === config.steps) why = 'finished';
    return { step, why, samples, checkpoint, wait: loader.waitMs / (performance.now() - started) };
  }

  /** Values of one step, in order, some steps late. */
  #receive(values: Float32Array): void {
    this.#arrived += 1;
    const now = performance.now();
    this.#stepMs = now - this.#arrivedAt;
    this.#arrivedAt = now;
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

  /** How often the run has been rolled back. */
  get #rollbacks(): number {
    return this.#parts.resume?.progress.rollbacks ?? 0;
  }

  /** Writes the line of a run's last steps where it is not due yet; a run that goes on takes it back. */
  async #logRest(): Promise<void> {
    await this.#settleReadback();
    this.#log();
  }

  /** Writes the line of metrics of the steps since the last one. */
  #log(): void {
    const { loader, run, events } = this.#parts;
    const made = this.#meter.line(this.#arrived, loader.takeWait());
    if (made === undefined) return;
    const line = { ...made, ...(this.#rollbacks > 0 && { rollbacks: this.#rollbacks }) };
    this.#metrics.add(line);
    appendMetrics(run, line);
    events?.onMetrics?.(line);
    for (const alarm of this.#watch.look(line)) {
      appendAlarm(run, alarm);
      events?.onAlarm?.(alarm);
    }
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

  /** The checkpoint of a step, if it is written already. */
  #savedOf(step: number): string | undefined {
    return this.#savedStep === step ? this.#saved : undefined;
  }

  async #save(step: number): Promise<string> {
    const { learner, loader, run, events } = this.#parts;
    await this.#settleReadback();
    // What a checkpoint goes on from must not be younger than it.
    await syncLines(run);
    const { classNames } = this.#parts;
    const progress = {
      ...{ step, loader: loader.state(), metrics: this.#meter.sums, kernels: this.#built.kernels },
      classes: learner.config.conditional ? classNames : undefined,
      rollbacks: this.#rollbacks > 0 ? this.#rollbacks : undefined,
    };
    const path = await saveCheckpoint(run, learner, progress);
    this.#saved = path;
    this.#savedStep = step;
    const told = performance.now();
    await events?.onCheckpoint?.(path, step);
    this.#meter.pause(performance.now() - told);
    return path;
  }

  /**
   * Resolves when another step may be submitted: steps go ahead of the GPU so that it never waits, but where one takes
   * long that gains nothing, and a run that is told to stop has to finish what was submitted.
   */
  async #roomToRun(): Promise<void> {
    await (this.#stepMs > slowStepMs ? this.#ring.drain() : this.#ring.ready());
    this.#throwIfFailed();
  }

  /** Gives the step its batches. */
  async #feed(): Promise<void> {
    const { gpu, loader } = this.#parts;
    for (const input of this.#inputs) {
      const { images, labels } = await loader.next();
      gpu.write(input.images.storage, images);
      input.labels?.set(labels);
    }
  }

  /** Every loss has arrived and was finite: what is written now is good. */
  async #settleReadback(): Promise<void> {
    await this.#ring.drain();
    this.#throwIfFailed();
  }
}
