import type { Tape } from '../autograd/tape.ts';
import { Tensor, tensor } from '../autograd/tensor.ts';
import { scalerIndex, scalerUpdate, scalerWords } from '../kernels/optim.ts';

export interface GradScalerOptions {
  /** Default 2¹⁶. */
  readonly initScale?: number;
  /** Factor of the scale after `growthInterval` steps without an overflow. Default 2. */
  readonly growthFactor?: number;
  /** Factor of the scale after an overflow. Default ½. */
  readonly backoffFactor?: number;
  /** Default 2000. */
  readonly growthInterval?: number;
}

/**
 * torch.cuda.amp.GradScaler: gradients of f16 are taken of a loss times `scale`, so that small ones do not vanish; where one
 * overflows, the optimiser leaves that step out and the scale falls. Everything stays on the GPU, so a captured step needs
 * nothing from the host.
 *
 *   const gradients = grad([loss], parameters, { gradOutputs: [scaler.scale] });
 *   optimizer.step(gradients, { scaler });
 *   scaler.update();
 */
export class GradScaler {
  /** The words of `scalerIndex`. */
  readonly state: Tensor;
  /** The factor of the loss, a tensor without axes: what a loss's gradient begins with. */
  readonly scale: Tensor;

  /** Throws a RangeError for factors by which the scale would not grow or fall. */
  constructor(tape: Tape, options: GradScalerOptions = {}) {
    const { initScale = 2 ** 16, growthFactor = 2 } = options;
    const { backoffFactor = 0.5, growthInterval = 2000 } = options;
    if (!(initScale > 0) || !(growthFactor > 1) || !(backoffFactor > 0 && backoffFactor < 1)) {
      throw new RangeError(
        `GradScaler: initScale ${initScale} must be above 0, growthFactor ${growthFactor} above 1, backoffFactor ${backoffFactor} between 0 and 1`,
      );
    }
    const words = new Float32Array(scalerWords);
    words[scalerIndex.scale] = initScale;
    words[scalerIndex.growth] = growthFactor;
    words[scalerIndex.backoff] = backoffFactor;
    words[scalerIndex.interval] = growthInterval;
    this.state = tensor(tape, words, [words.length], { label: 'loss scale' });
    this.scale = new Tensor(tape, { shape: [], storage: this.state.storage });
  }

  /** Ends a step: the scale for the next one. Launches only. */
  update(): void {
    const { gpu, storage: scaler } = this.state;
    gpu.within({ phase: 'optimizer', layer: 'GradScaler' }, () => {
      scalerUpdate(gpu, { scaler });
    });
  }
}
