import { typeAs } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { mul, relu, sigmoid } from '../ops/pointwise.ts';
import { mean } from '../ops/reduce.ts';
import { AttentionLayer, SelfAttention, pointwiseConv } from './attention.ts';
import type { Queries, SelfAttentionOptions } from './attention.ts';
import type { Conv2d } from './conv.ts';
import { Layer } from './module.ts';

/**
 * Squeeze-and-excitation (Hu et al. 2018): x (N, C, H, W) times a weight a channel, sigmoid(fc2(relu(fc1(mean over H, W)))).
 * fc1 is C → C/reduction, fc2 back, 1×1 convolutions as in torchvision.
 */
export class SqueezeExcitation extends Layer {
  readonly #fc1: Conv2d;
  readonly #fc2: Conv2d;

  constructor(tape: Tape, channels: number, options: SelfAttentionOptions) {
    super(tape);
    const narrow = Math.max(1, Math.floor(channels / (options.reduction ?? 8)));
    this.#fc1 = this.child('fc1', pointwiseConv(tape, [channels, narrow], options));
    this.#fc2 = this.child('fc2', pointwiseConv(tape, [narrow, channels], options));
  }

  override forward(x: Tensor): Tensor {
    const squeezed = typeAs(mean(x, [2, 3], { keepdim: true }), x);
    return mul(x, sigmoid(this.#fc2.forward(relu(this.#fc1.forward(squeezed)))));
  }
}

/** Channels weighed by squeeze-and-excitation, then positions by SelfAttention (system 16). */
export class HybridAttention extends AttentionLayer {
  readonly #channel: SqueezeExcitation;
  readonly #spatial: SelfAttention;

  constructor(tape: Tape, channels: number, options: Omit<SelfAttentionOptions, 'outChannels'>) {
    super(tape);
    this.#channel = this.child('channel', new SqueezeExcitation(tape, channels, options));
    this.#spatial = this.child('spatial', new SelfAttention(tape, channels, options));
  }

  override forward(x: Tensor): Tensor {
    return this.#spatial.forward(this.#channel.forward(x));
  }

  override maps(x: Tensor, queries: Queries): Tensor {
    return this.#spatial.maps(this.#channel.forward(x), queries);
  }
}
