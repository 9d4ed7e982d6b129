import { empty, tensor } from '../autograd/tensor.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Capture } from '../gpu/capture.ts';
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
    if (!(error instanceof UserError)) throw error;
    throw new UserError(nothingFits(tape, config), { cause: error });
  }
}

function nothingFits(tape: Tape, config: TrainConfig): string {
  const device = size(tape.gpu.pool.budgetBytes);
  return `${config.preset} at --width ${config.width} does not fit in ${device}, whatever the batch; choose a smaller preset, --width or --image-size`;
}

/** Everything that training at some batch takes beside the weights, captured and not built; undefined past a limit. */
function captureAt(gan: Gan, batch: number): { step: Capture; needed: number } | undefined {
  const { tape, config } = gan;
  const { gpu } = tape;
  const words = imageWords(config, batch);
  const drawn = samplerBatch(batch);
  try {
    const step = gpu.capture(() => {
      const input = () => empty(tape, [words], { dtype: 'u32', label: 'images' });
      const bytes = Array.from({ length: config.dSteps }, input);
      return Object.values(ganStep(gan, bytes, batch)).map((t) => t.storage);
    });
    const z = tensor(tape, new Float32Array(drawn * config.latentSize), [drawn, config.latentSize]);
    const { evaluate, settle } = captureSampler(gan.average, z, gan.rng);
    gpu.release(z.storage);
    const programs = [step, evaluate, settle];
    const planned = programs.reduce((sum, capture) => sum + capture.memory.plannedBytes, 0);
    const inputs = config.dSteps * sizeClass(4 * words) + sizeClass(4 * z.size);
    return { step, needed: planned + inputs + smallBuffers };
  } catch (error) {
    // A tensor past the binding limit is one more way of not fitting.
    if (error instanceof UserError) return undefined;
    throw error;
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
  const liveAt = (n: number) => captureAt(gan, n)?.step.memory.liveBytes ?? Infinity;
  const perImage = Math.max(1, (liveAt(4) - liveAt(2)) / 2);
  const bound = Number.isFinite(perImage) ? Math.ceil((2 * budget) / perImage) : 4;
  const fits = (n: number) => {
    if (n > bound) return false;
    const needed = captureAt(gan, n)?.needed ?? Infinity;
    return pool.stats().liveBytes + needed <= budget;
  };
  if (fits(batch)) return;
  let most = 0;
  for (let low = 1, high = Math.min(bound, batch - 1); low <= high;) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) {
      most = middle;
      low = middle + 1;
    } else high = middle - 1;
  }
  if (most === 0) throw new UserError(nothingFits(tape, config));
  throw new UserError(
    `--batch ${batch} does not fit in the memory of this device (${size(budget)} in all, or one buffer's limit); the largest that does is --batch ${most}`,
  );
}

function size(bytes: number): string {
  return bytes < 2 ** 30
    ? `${(bytes / 2 ** 20).toFixed(0)} MiB`
    : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
