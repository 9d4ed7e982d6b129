import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { residual } from '../ops/residual.ts';
import { topkAttention, topkAttentionMap } from '../ops/topk-attention.ts';
import { SelfAttention } from './attention.ts';
import type { SelfAttentionOptions } from './attention.ts';

export interface TopkSelfAttentionOptions extends SelfAttentionOptions {
  /** Keys that a position looks at: at most the positions of the input, and 64. */
  readonly topk: number;
}

/**
 * SelfAttention in which each position looks only at the `topk` positions of the largest scores (system 14); parameters and
 * keys are SelfAttention's. `forward` throws a RangeError for an input of fewer positions.
 */
export class TopkSelfAttention extends SelfAttention {
  readonly #topk: number;

  constructor(tape: Tape, channels: number, options: TopkSelfAttentionOptions) {
    super(tape, channels, options);
    this.#topk = options.topk;
  }

  protected override mix(q: Tensor, k: Tensor, v: Tensor, shortcut: Tensor): Tensor {
    const mixed = topkAttention(q, k, v, { k: this.#topk, scale: this.scale });
    return residual(mixed, this.gamma, shortcut);
  }

  protected override weights(q: Tensor, k: Tensor): Tensor {
    return topkAttentionMap(q, k, { k: this.#topk, scale: this.scale });
  }
}
