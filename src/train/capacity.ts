import { empty, tensor } from '../autograd/tensor.ts';
import type { Tape } from '../autograd/tape.ts';
import { sizeClass } from '../gpu/pool.ts';
import { UserError } from '../util/errors.ts';
import { sizeOf } from '../util/shape.ts';
import type { TrainConfig } from './config.ts';
import { createGan, ganStep } from './gan.ts';
import type { Gan } from './gan.ts';
import { captureSampler, samplerBatch } from './sampler.ts';

/** u32 words that hold a batch of uint8 images. */
export function imageWords(config: TrainConfig, batch: number): number {
  return Math.ceil(sizeOf([batch, config.channels, config.imageSize, config.imageSize]) / 4);
}

/** The nets and their optimisers. Throws a `UserError` where not even they fit in the device's memory. */
export function createGanThatFits(tape: Tape, config: TrainConfig): Gan {
  try {
    return createGan(tape, config);
  } catch (error) {
    // A RangeError is an array that not even the host can hold.
    if (!(error instanceof UserError || error instanceof RangeError)) throw error;
    const text = nothingFits(config, tape.gpu.pool.budgetBytes);
    throw new UserError(text, { cause: error });
  }
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
  readonly #gan: Gan;
  readonly #samplers = new Map<number, number>();

  constructor(gan: Gan) {
    this.#gan = gan;
  }

  /** Undefined where a tensor passes the device's limit. */
  at(batch: number): Needs | undefined {
    const { tape, config } = this.#gan;
    const words = imageWords(config, batch);
    try {
      const sampler = this.#sampler(samplerBatch(batch));
      const before = tape.gpu.pool.stats().liveBytes;
      const { memory } = tape.gpu.capture(() => {
        const input = () => empty(tape, [words], { dtype: 'u32', label: 'images' });
        const bytes = Array.from({ length: config.dSteps }, input);
        return Object.values(ganStep(this.#gan, bytes, batch)).map((t) => t.storage);
      });
      const tables = tape.gpu.pool.stats().liveBytes - before;
      const inputs = config.dSteps * sizeClass(4 * words);
      const total = sampler + memory.plannedBytes + tables + inputs + smallBuffers;
      return { live: memory.liveBytes, total };
    } catch (error) {
      if (error instanceof UserError) return undefined;
      throw error;
    }
  }

  #sampler(batch: number): number {
    const known = this.#samplers.get(batch);
    if (known !== undefined) return known;
    const { average, rng, tape, config } = this.#gan;
    const { pool } = tape.gpu;
    const before = pool.stats().liveBytes;
    const shape = [batch, config.latentSize];
    const z = tensor(tape, new Float32Array(batch * config.latentSize), shape);
    const { evaluate, settle } = captureSampler(average, z, rng);
    const own = pool.stats().liveBytes - before;
    tape.gpu.release(z.storage);
    const bytes = own + evaluate.memory.plannedBytes + settle.memory.plannedBytes;
    this.#samplers.set(batch, bytes);
    return bytes;
  }
}

/** Ample for the few buffers of some bytes that a run makes besides, such as counters of random numbers. */
const smallBuffers = 2 ** 16;

/**
 * Refuses a batch that the device cannot hold, before anything runs, with the largest that it can. `UserError`.
 * Memory grows nearly in proportion to the batch, so two small captures bound the search from above: a batch far past
 * the budget is never traced.
 */
export function checkBatchFits(gan: Gan): void {
  const { config, tape } = gan;
  const { batch } = config;
  const { pool } = tape.gpu;
  const budget = pool.budgetBytes;
  // The search's own tables must not count against what it asks about.
  pool.budgetBytes = Number.MAX_SAFE_INTEGER;
  try {
    const needs = new Estimator(gan);
    const liveAt = (n: number) => needs.at(n)?.live ?? Infinity;
    const perImage = Math.max(1, (liveAt(4) - liveAt(2)) / 2);
    const bound = Number.isFinite(perImage) ? Math.ceil((2 * budget) / perImage) : 4;
    const room = budget - pool.stats().liveBytes;
    const fits = (n: number) => n <= bound && (needs.at(n)?.total ?? Infinity) <= room;
    if (fits(batch)) return;
    const most = largest(Math.min(bound, batch - 1), fits);
    if (most === 0) throw new UserError(nothingFits(config, budget));
    throw new UserError(
      `--batch ${batch} does not fit in the memory of this device (${size(budget)} in all, or one buffer's limit); the largest that does is --batch ${most}`,
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
