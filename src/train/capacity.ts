import { empty, tensor } from '../autograd/tensor.ts';
import type { Tape } from '../autograd/tape.ts';
import { sizeClass } from '../gpu/pool.ts';
import { presets } from '../models/presets.ts';
import { UserError, messageOf } from '../util/errors.ts';
import type { TrainConfig } from './options.ts';
import { imageWords, stepInputs, watchedOf } from './learner.ts';
import type { Learner } from './learner.ts';
import { createLearner } from './learners.ts';
import { checkPrecision } from './nets.ts';
import { captureSampler, samplerBatch } from './sampler.ts';

/**
 * The nets and their optimisers, as `createLearner`. Throws a `UserError` where not even they fit in the device's memory;
 * what surely does not is refused before any first values are made, which can take long.
 */
export function createLearnerThatFits(
  tape: Tape,
  config: TrainConfig,
  options: { readonly blank?: boolean } = {},
): Learner {
  checkPrecision(tape.gpu, config);
  const { pool } = tape.gpu;
  const room = pool.budgetBytes - pool.stats().liveBytes;
  if (leastBytes(config) > room) throw new UserError(nothingFits(config, pool.budgetBytes));
  try {
    return createLearner(tape, config, options);
  } catch (error) {
    // A RangeError is an array that not even the host can hold.
    if (!(error instanceof UserError || error instanceof RangeError)) throw error;
    const text = nothingFits(config, pool.budgetBytes);
    throw new UserError(text, { cause: error });
  }
}

/** Bytes of the large layers of both nets, the generator's average, and two moments each: most of a state. */
export function leastBytes(config: TrainConfig): number {
  const [generator, other] = presets[config.preset].family.fewestWeights(config);
  return 4 * (4 * generator + 3 * other);
}

function nothingFits(config: TrainConfig, budget: number): string {
  return `${config.preset} at --width ${config.width} does not fit in ${size(budget)}, whatever the batch; choose a smaller preset, --width or --image-size`;
}

/** Bytes of a run beside its weights. */
interface Needs {
  /** The most alive at one launch of the step: grows with the batch, without a plan's jumps. */
  readonly live: number;
  readonly total: number;
}

/**
 * Tells what training at a batch takes, by capture: nothing is built or run. Kernels keep tables for the shapes that
 * they meet, and a second capture finds those of the first, so what was made for a sampler is remembered.
 */
class Estimator {
  readonly #learner: Learner;
  readonly #samplers = new Map<number, number>();
  /** Batches that could not be traced though others could, and why: they pass a limit that is not of memory. */
  readonly limits = new Map<number, string>();
  #works = false;

  constructor(learner: Learner) {
    this.#learner = learner;
  }

  /** Undefined where something passes a limit of the device. Throws what goes wrong for reasons other than size. */
  at(batch: number): Needs | undefined {
    const learner = this.#learner;
    const { tape, config } = learner;
    const words = imageWords(config, batch);
    try {
      const sampler = this.#sampler(samplerBatch(batch));
      const before = tape.gpu.pool.stats().liveBytes;
      const { memory } = tape.gpu.capture(() => {
        const inputs = stepInputs(learner, { batch, empty: true });
        return watchedOf(learner, learner.step(inputs, batch));
      });
      const tables = tape.gpu.pool.stats().liveBytes - before;
      const inputs = config.dSteps * sizeClass(4 * words);
      const total = sampler + memory.plannedBytes + tables + inputs + smallBuffers;
      this.#works = true;
      return { live: memory.liveBytes, total };
    } catch (error) {
      // What was traced for a smaller batch fails for this one's size, as a grid of too many workgroups.
      if (!(error instanceof UserError || this.#works)) throw error;
      if (!(error instanceof UserError)) this.limits.set(batch, messageOf(error));
      return undefined;
    }
  }

  #reconstructor(batch: number): number {
    const learner = this.#learner;
    const capture = learner.tape.gpu.capture(() =>
      stepInputs(learner, { batch, empty: true }).flatMap(
        (input) => learner.reconstruct?.(input, batch).storage ?? [],
      ),
    );
    return capture.memory.plannedBytes;
  }

  /** Of all that draws. */
  #sampler(batch: number): number {
    const known = this.#samplers.get(batch);
    if (known !== undefined) return known;
    const { average, rng, tape, config } = this.#learner;
    const { pool } = tape.gpu;
    const before = pool.stats().liveBytes;
    const shape = [batch, config.latentSize];
    const z = tensor(tape, new Float32Array(batch * config.latentSize), shape);
    const { classes, imageSize } = config;
    const labels =
      classes === 0 ? undefined : empty(tape, [batch], { dtype: 'u32', label: 'sample classes' });
    try {
      const { evaluate, settle } = captureSampler(average, { z, labels, classes, imageSize }, rng);
      const own = pool.stats().liveBytes - before;
      const bytes =
        own +
        evaluate.memory.plannedBytes +
        settle.memory.plannedBytes +
        this.#reconstructor(batch);
      this.#samplers.set(batch, bytes);
      return bytes;
    } finally {
      tape.gpu.release(z.storage);
      if (labels !== undefined) tape.gpu.release(labels.storage);
    }
  }
}

/** Ample for the few buffers of some bytes that a run makes besides, such as counters of random numbers. */
const smallBuffers = 2 ** 16;

/**
 * Refuses a batch that the device cannot hold, before anything runs, with the largest that it can. `UserError`.
 * Memory grows nearly in proportion to the batch, so two small captures bound the search from above: a batch far past
 * the budget is never traced.
 */
export function checkBatchFits(learner: Learner): void {
  const { config, tape } = learner;
  const { batch } = config;
  const { pool } = tape.gpu;
  const budget = pool.budgetBytes;
  // The search's own tables must not count against what it asks about.
  pool.budgetBytes = Number.MAX_SAFE_INTEGER;
  try {
    const needs = new Estimator(learner);
    const liveAt = (n: number) => needs.at(n)?.live ?? Infinity;
    const two = liveAt(2);
    const perImage = Math.max(1, (liveAt(4) - two) / 2);
    const bound = Number.isFinite(perImage) ? Math.ceil((2 * budget) / perImage) : 4;
    const room = budget - pool.stats().liveBytes;
    const fits = (n: number) => n <= bound && (needs.at(n)?.total ?? Infinity) <= room;
    if (fits(batch)) return;
    const most = largest(Math.min(bound, batch - 1), fits);
    if (most === 0) throw new UserError(nothingFits(config, budget));
    const limit = needs.limits.get(batch) ?? needs.limits.get(most + 1);
    const where =
      limit === undefined
        ? `in the memory of this device (${size(budget)} in all, or one buffer's limit)`
        : `this device (${limit})`;
    throw new UserError(
      `--batch ${batch} does not fit ${where}; the largest that does is --batch ${most}`,
    );
  } finally {
    pool.budgetBytes = budget;
  }
}

/** The largest n of 1 … high that passes, if those that pass come first; else 0. */
function largest(high: number, passes: (n: number) => boolean): number {
  let [most, top] = [0, high];
  while (most < top) {
    const middle = Math.ceil((most + top) / 2);
    if (passes(middle)) most = middle;
    else top = middle - 1;
  }
  return most;
}

function size(bytes: number): string {
  return bytes < 2 ** 30
    ? `${(bytes / 2 ** 20).toFixed(0)} MiB`
    : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
