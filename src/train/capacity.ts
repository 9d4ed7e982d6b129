import { empty } from '../autograd/tensor.ts';
import type { Capture } from '../gpu/capture.ts';
import { UserError } from '../util/errors.ts';
import { sizeOf } from '../util/shape.ts';
import type { TrainConfig } from './config.ts';
import { ganStep } from './gan.ts';
import type { Gan } from './gan.ts';

/** u32 words that hold a batch of uint8 images. */
export function imageWords(config: TrainConfig, batch: number): number {
  return Math.ceil(sizeOf([batch, config.channels, config.imageSize, config.imageSize]) / 4);
}

/** Captures a step at some batch, only to learn what it would need; nothing is run and no activation is allocated. */
function captureAt(gan: Gan, batch: number): Capture | undefined {
  const { tape, config } = gan;
  try {
    return tape.gpu.capture(() => {
      const words = imageWords(config, batch);
      const input = () => empty(tape, [words], { dtype: 'u32', label: 'images' });
      const bytes = Array.from({ length: config.dSteps }, input);
      return Object.values(ganStep(gan, bytes, batch)).map((t) => t.storage);
    });
  } catch (error) {
    // A tensor past the binding limit is one more way of not fitting.
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

/**
 * Refuses a batch that the device cannot hold, before anything runs, with the largest that it can. `UserError`.
 * Memory grows nearly in proportion to the batch, so two small captures bound the search from above: a batch far past
 * the budget is never traced.
 */
export function checkBatchFits(gan: Gan): void {
  const { batch } = gan.config;
  const budget = gan.tape.gpu.pool.budgetBytes;
  const bytesAt = (size: number) => captureAt(gan, size)?.memory.liveBytes ?? Infinity;
  const perImage = Math.max(1, (bytesAt(4) - bytesAt(2)) / 2);
  const bound = Number.isFinite(perImage) ? Math.ceil((2 * budget) / perImage) : 4;
  const fits = (size: number) => size <= bound && captureAt(gan, size)?.fits === true;
  if (fits(batch)) return;
  let most = 0;
  for (let low = 1, high = Math.min(bound, batch - 1); low <= high;) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) {
      most = middle;
      low = middle + 1;
    } else high = middle - 1;
  }
  const gib = (budget / 2 ** 30).toFixed(1);
  throw new UserError(
    most === 0
      ? `--batch ${batch} does not fit in ${gib} GiB, and no batch of this preset does; choose a smaller preset or --image-size`
      : `--batch ${batch} does not fit in the memory of this device (${gib} GiB in all, or one buffer's limit); the largest that does is --batch ${most}`,
  );
}
