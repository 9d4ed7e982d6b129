import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { conv2d, convTranspose2d } from '../ops/conv.ts';
import type { Pair } from '../ops/conv.ts';
import type { Activation } from '../ops/pointwise.ts';
import { WeightedLayer } from './weighted.ts';
import type { WeightOptions } from './weighted.ts';

export interface ConvLayerOptions extends WeightOptions {
  readonly kernelSize: Pair;
  readonly stride?: Pair;
  readonly padding?: Pair;
}

function pair(value: Pair): readonly [number, number] {
  return typeof value === 'number' ? [value, value] : value;
}

/** torch.nn.Conv2d: x [N, inChannels, H, W] → [N, outChannels, OH, OW]; weight [out, in, R, S]. */
export class Conv2d extends WeightedLayer {
  readonly #options: ConvLayerOptions;
  override readonly takesActivation = true;

  constructor(tape: Tape, inChannels: number, outChannels: number, options: ConvLayerOptions) {
    const weight = [outChannels, inChannels, ...pair(options.kernelSize)];
    super(tape, { weight, bias: [outChannels] }, options);
    this.#options = options;
  }

  override forward(x: Tensor, activation?: Activation): Tensor {
    const { stride = 1, padding = 0 } = this.#options;
    return conv2d(x, this.weight(x), { bias: this.bias, stride, padding, activation });
  }
}

/** torch.nn.ConvTranspose2d: x [N, inChannels, H, W] → [N, outChannels, OH, OW]; weight [in, out, R, S]. */
export class ConvTranspose2d extends WeightedLayer {
  readonly #options: ConvLayerOptions & { readonly outputPadding?: Pair };

  constructor(
    tape: Tape,
    inChannels: number,
    outChannels: number,
    options: ConvLayerOptions & { readonly outputPadding?: Pair },
  ) {
    const weight = [inChannels, outChannels, ...pair(options.kernelSize)];
    super(tape, { weight, bias: [outChannels], outputAxis: 1 }, options);
    this.#options = options;
  }

  override forward(x: Tensor): Tensor {
    const { stride = 1, padding = 0, outputPadding = 0 } = this.#options;
    return convTranspose2d(x, this.weight(x), { bias: this.bias, stride, padding, outputPadding });
  }
}
