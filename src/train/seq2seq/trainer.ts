import { Tape } from '../../autograd/tape.ts';
import type { PairSet } from '../../data/pairs.ts';
import { join } from '../../data/vocabulary.ts';
import type { Gpu } from '../../gpu/device.ts';
import type { Program } from '../../gpu/program.ts';
import { ReadbackRing } from '../../gpu/readback.ts';
import { writeFileAtomic } from '../../io/atomic.ts';
import { UserError } from '../../util/errors.ts';
import { lineChart } from '../chart.ts';
import { optionsToYaml } from '../check.ts';
import { NonFiniteError } from '../checkpoint.ts';
import { setAsideAfter } from '../fallback.ts';
import {
  appendMetrics,
  makeRunFolder,
  readMetrics,
  removeTemporaries,
  rewindMetrics,
  runPaths,
  saveOptions,
} from '../run-folder.ts';
import { restoreSeq2Seq, saveSeq2Seq } from './checkpoint.ts';
import type { Seq2SeqCheckpoint } from './checkpoint.ts';
import { learningRate } from './config.ts';
import { Decoder } from './decode.ts';
import { batchInput, createSeq2Seq, lengthWithEnd, setBatch, trainingStep } from './learner.ts';
import type { BatchInput, Seq2SeqLearner, SizedConfig } from './learner.ts';

/** One line of metrics.jsonl: of training, or of a decoding of the held-out pairs. */
export interface Seq2SeqLine {
  readonly step: number;
  /** Mean over the steps since the line before. */
  readonly loss?: number;
  readonly lr?: number;
  readonly pairsPerSecond?: number;
  /** The part of the held-out pairs that is translated word for word. */
  readonly exact?: number;
  /** Seconds of training since the run began, resumed parts added up. */
  readonly seconds: number;
}

export interface Seq2SeqEvents {
  /** Before the first step. */
  onReady?(info: Seq2SeqReady): void | Promise<void>;
  onStep?(step: number): void;
  onLine?(line: Seq2SeqLine): void;
  onCheckpoint?(path: string, step: number): void | Promise<void>;
}

export interface Seq2SeqReady {
  readonly firstStep: number;
  readonly launches: number;
  readonly gflopPerStep: number;
  readonly plannedBytes: number;
  readonly parameters: number;
}

export interface Seq2SeqOptions {
  readonly gpu: Gpu;
  readonly pairs: PairSet;
  readonly config: SizedConfig;
  /** The run folder: made before the first step, or there already when resuming. */
  readonly run: string;
  readonly resume?: Seq2SeqCheckpoint | undefined;
  /** Set to stop after the current step, saved. */
  readonly stop?: { requested: boolean };
  readonly events?: Seq2SeqEvents;
}

/** A held-out pair, and what the run makes of its source. */
export interface Example {
  readonly source: string;
  readonly target: string;
  readonly found: string;
}

export interface Seq2SeqResult {
  /** Steps done in all. */
  readonly step: number;
  readonly why: 'finished' | 'stopped' | 'time';
  /** Of the held-out pairs; none of a run that was stopped. */
  readonly exact: number | undefined;
  readonly examples: readonly Example[];
  readonly checkpoint: string;
}

const shownExamples = 5;

/** Trains until the steps are done, the time is up or a stop is asked for; then decodes the held-out pairs. */
export async function trainSeq2Seq(options: Seq2SeqOptions): Promise<Seq2SeqResult> {
  const { gpu, pairs, config, run, resume } = options;
  if (resume !== undefined && resume.data !== pairs.fingerprint) {
    throw new UserError(`${run} was trained on other pairs: ${pairs.description} are not those`);
  }
  const learner = createSeq2Seq(new Tape(gpu), config, resume ?? pairs);
  if (resume !== undefined) restoreSeq2Seq(learner, resume);
  const loop = await Loop.open({ ...options, learner });
  if (resume === undefined) await makeRunFolder(run, optionsToYaml(config), ['checkpoints']);
  else {
    removeTemporaries(run);
    await setAsideAfter(run, resume.path);
    await saveOptions(run, optionsToYaml(config));
  }
  return loop.run();
}

interface LoopParts extends Seq2SeqOptions {
  readonly learner: Seq2SeqLearner;
}

/** The state of a running loop: the captured step, its inputs, and the losses on their way out. */
class Loop {
  readonly #parts: LoopParts;
  readonly #program: Program;
  readonly #input: BatchInput;
  readonly #decoder: Decoder;
  readonly #ring: ReadbackRing;
  #lines: Seq2SeqLine[] = [];
  /** Losses of the steps since the last line, and the step that the newest is of. */
  #losses: number[] = [];
  #arrived: number;
  #seconds = 0;
  #since = performance.now();
  #failure: Error | undefined;

  private constructor(
    parts: LoopParts,
    made: {
      program: Program;
      input: BatchInput;
      decoder: Decoder;
      watched: ConstructorParameters<typeof ReadbackRing>[1];
    },
  ) {
    this.#parts = parts;
    this.#program = made.program;
    this.#input = made.input;
    this.#decoder = made.decoder;
    this.#arrived = this.#firstStep;
    this.#ring = new ReadbackRing(parts.gpu, made.watched, {
      onValues: ([loss = NaN]) => {
        this.#receive(loss);
      },
    });
  }

  static async open(parts: LoopParts): Promise<Loop> {
    const { gpu, learner, config } = parts;
    const input = batchInput(learner.tape, config);
    let watched: ConstructorParameters<typeof ReadbackRing>[1] = [];
    const capture = gpu.capture(() => {
      watched = [trainingStep(learner, input).storage];
      return watched;
    });
    const program = await capture.build();
    const sizes = { batch: config.batch, length: lengthWithEnd(config) };
    const decoder = await Decoder.open(learner.model, sizes);
    return new Loop(parts, { program, input, decoder, watched });
  }

  get #firstStep(): number {
    return this.#parts.resume?.step ?? 0;
  }

  /** Throws what ended the run in its middle, with the way to go on. */
  async run(): Promise<Seq2SeqResult> {
    const { run, events, learner } = this.#parts;
    this.#seconds =
      readMetrics<Seq2SeqLine>(run).findLast((line) => line.step <= this.#firstStep)?.seconds ?? 0;
    this.#lines = await rewindMetrics<Seq2SeqLine>(run, this.#firstStep);
    await events?.onReady?.({
      firstStep: this.#firstStep,
      launches: this.#program.entries.length,
      gflopPerStep: this.#program.flops / 1e9,
      plannedBytes: this.#program.memory.plannedBytes,
      parameters: learner.model.parameterCount(),
    });
    try {
      return await this.#steps();
    } catch (error) {
      if (!(error instanceof NonFiniteError)) throw error;
      const text = `${error.message}; go on from the newest checkpoint in ${run} by --resume with a lower --lr`;
      throw new Error(text, { cause: error });
    }
  }

  async #steps(): Promise<Seq2SeqResult> {
    const { config, pairs, learner, stop, events } = this.#parts;
    const [group] = learner.optimizer.groups;
    const started = performance.now();
    this.#since = started;
    let step = this.#firstStep;
    let why: Seq2SeqResult['why'] = 'finished';
    let exact: number | undefined;
    let checkpoint = '';
    while (step < config.steps) {
      setBatch(this.#input, pairs.batch(step, config.batch), config);
      group?.set({ lr: learningRate(config, step + 1) });
      await this.#ring.ready();
      this.#throwIfFailed();
      this.#program.run(this.#ring);
      step += 1;
      events?.onStep?.(step);
      const minutes = (performance.now() - started) / 60_000;
      if (stop?.requested === true) why = 'stopped';
      else if (config.timeLimit !== undefined && minutes >= config.timeLimit) why = 'time';
      const last = step === config.steps || why !== 'finished';
      if (last) await this.#logRest();
      const measured = step % config.evalEvery === 0 || (last && why !== 'stopped');
      if (measured) exact = await this.#measure(step);
      if (last || step % config.checkpointEvery === 0) checkpoint = await this.#save(step);
      if (last) break;
    }
    const examples = why === 'stopped' ? [] : await this.#examples();
    this.#ring.destroy();
    this.#decoder.close();
    if (step === config.steps) why = 'finished';
    return { step, why, exact: why === 'stopped' ? undefined : exact, examples, checkpoint };
  }

  /** The loss of one step, in order, some steps late. */
  #receive(loss: number): void {
    this.#arrived += 1;
    this.#losses.push(loss);
    if (!Number.isFinite(loss)) {
      this.#failure ??= new NonFiniteError(`step ${this.#arrived} gave loss ${loss}`);
      return;
    }
    if (this.#arrived % this.#parts.config.logEvery !== 0) return;
    try {
      this.#logTraining();
    } catch (error) {
      // Thrown here, it would be lost in the readback's promise.
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
    }
  }

  /** Writes the line of a run's last steps where none is due. */
  async #logRest(): Promise<void> {
    await this.#settle();
    if (this.#losses.length > 0) this.#logTraining();
  }

  #logTraining(): void {
    const { config } = this.#parts;
    const now = performance.now();
    const elapsed = (now - this.#since) / 1000;
    this.#since = now;
    this.#seconds += elapsed;
    const losses = this.#losses;
    this.#losses = [];
    this.#log({
      step: this.#arrived,
      loss: losses.reduce((a, b) => a + b, 0) / losses.length,
      lr: learningRate(config, this.#arrived),
      pairsPerSecond: (losses.length * config.batch) / elapsed,
      seconds: this.#seconds,
    });
  }

  #log(line: Seq2SeqLine): void {
    const { run, events } = this.#parts;
    this.#lines.push(line);
    appendMetrics(run, line);
    events?.onLine?.(line);
  }

  /** Decodes the held-out pairs; the time that it takes is no time of training. */
  async #measure(step: number): Promise<number> {
    await this.#settle();
    const before = performance.now();
    const exact = await this.#decoder.exact(this.#parts.pairs.heldOut);
    this.#log({ step, exact, seconds: this.#seconds });
    this.#since += performance.now() - before;
    return exact;
  }

  async #examples(): Promise<Example[]> {
    const { pairs, config, learner } = this.#parts;
    const { heldOut } = pairs;
    const apart = Math.max(1, Math.floor(heldOut.length / shownExamples));
    const shown = heldOut.filter((_pair, i) => i % apart === 0).slice(0, shownExamples);
    const found = await this.#decoder.translate(shown.map(({ source }) => source));
    const text = (side: 'source' | 'target', words: readonly number[]) =>
      join(learner[side].decode(words), config.tokens);
    return shown.map(({ source, target }, i) => ({
      source: text('source', source),
      target: text('target', target),
      found: text('target', found[i] ?? []),
    }));
  }

  async #save(step: number): Promise<string> {
    const { run, learner, pairs, events } = this.#parts;
    await this.#settle();
    const curve = (name: 'loss' | 'exact', colour: string) => ({
      ...{ name, colour },
      points: this.#lines.flatMap((l) =>
        l[name] === undefined ? [] : [[l.step, l[name]] as const],
      ),
    });
    const curves = [curve('loss', '#2e86ab'), curve('exact', '#d1495b')];
    await writeFileAtomic(runPaths(run).losses, lineChart('loss, held-out exact', curves, 'step'));
    const path = await saveSeq2Seq(run, learner, { step, data: pairs.fingerprint });
    await events?.onCheckpoint?.(path, step);
    return path;
  }

  /** Every loss has arrived and was finite: what is written now is good. */
  async #settle(): Promise<void> {
    await this.#ring.drain();
    this.#throwIfFailed();
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
}
