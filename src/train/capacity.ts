import { empty } from '../autograd/tensor.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
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

/** Captures a step at some batch with everything virtual, only to learn what it would need; no memory is taken. */
function tryBatch(gan: Gan, batch: number): Capture | undefined {
  const { tape, config } = gan;
  try {
    const capture = tape.gpu.capture(() => {
      const bytes = Array.from({ length: config.dSteps }, () => inputFor(tape, config, batch));
      return Object.values(ganStep(gan, bytes, batch)).map((t: Tensor) => t.storage);
    });
    return capture.fits ? capture : undefined;
  } catch (error) {
    // A tensor past the binding limit is one more way of not fitting.
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

function inputFor(tape: Tape, config: TrainConfig, batch: number): Tensor {
  return empty(tape, [imageWords(config, batch)], { dtype: 'u32', label: 'images' });
}

/**
 * Refuses a batch that the device cannot hold, before anything runs, with the largest that it can. `UserError`.
 */
export function checkBatchFits(gan: Gan): void {
  const { batch } = gan.config;
  if (tryBatch(gan, batch) !== undefined) return;
  let fits = 0;
  for (let low = 1, high = batch - 1; low <= high;) {
    const middle = Math.floor((low + high) / 2);
    if (tryBatch(gan, middle) === undefined) high = middle - 1;
    else {
      fits = middle;
      low = middle + 1;
    }
  }
  const gib = (gan.tape.gpu.pool.budgetBytes / 2 ** 30).toFixed(1);
  throw new UserError(
    fits === 0
      ? `--batch ${batch} does not fit in ${gib} GiB, and no batch of this preset does; choose a smaller preset or --image-size`
      : `--batch ${batch} does not fit in the memory of this device (${gib} GiB, or one buffer's limit); the largest that does is --batch ${fits}`,
  );
}
