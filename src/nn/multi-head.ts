import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { attention } from '../ops/attention.ts';
import type { MaskOptions } from '../ops/attention-common.ts';
import { permute, reshape } from '../ops/layout.ts';
import { residual } from '../ops/residual.ts';
import { dim } from '../util/shape.ts';
import { AttentionLayer, flat, gammaOf, pointwiseConv, queriesOf, weightsOf } from './attention.ts';
import type { BlockOptions, Queries } from './attention.ts';
import type { Conv2d } from './conv.ts';
import { Linear } from './linear.ts';
import { Module } from './module.ts';
import type { WeightOptions } from './weighted.ts';

export interface MultiHeadSelfAttentionOptions extends BlockOptions {
  /** Must divide the channels. */
  readonly heads: number;
}

/**
 * Multi-head attention over a feature map (system 10 as a block): x (N, C, H, W) → query, key, value and out, each C → C,
 * in heads of C/heads channels; scores over √(C/heads); gamma·out + x, gamma from 0. A head is a slice of the channels, so
 * that heads are folded into the batch by a view.
 */
export class MultiHeadSelfAttention extends AttentionLayer {
  readonly gamma: Tensor;
  readonly #query: Conv2d;
  readonly #key: Conv2d;
  readonly #value: Conv2d;
  readonly #out: Conv2d;
  override readonly heads: number;
  readonly #width: number;

  constructor(tape: Tape, channels: number, options: MultiHeadSelfAttentionOptions) {
    super(tape);
    this.heads = options.heads;
    this.#width = channels / options.heads;
    if (!Number.isInteger(this.#width)) {
      throw new RangeError(
        `multi-head attention: ${options.heads} heads do not divide ${channels} channels`,
      );
    }
    const conv = () => pointwiseConv(tape, [channels, channels], options);
    this.#query = this.child('query_conv', conv());
    this.#key = this.child('key_conv', conv());
    this.#value = this.child('value_conv', conv());
    this.#out = this.child('out_conv', conv());
    this.gamma = this.parameter('gamma', gammaOf(tape));
  }

  override forward(x: Tensor): Tensor {
    const [q, k, v] = [this.#query, this.#key, this.#value].map((conv) => this.#split(conv, x));
    const mixed = attention(q as Tensor, k as Tensor, v as Tensor, { scale: this.#scale });
    return residual(this.#out.forward(reshape(mixed, x.shape)), this.gamma, x);
  }

  override maps(x: Tensor, queries: Queries): Tensor {
    const size = [dim(x.shape, 2), dim(x.shape, 3)] as const;
    const q = queriesOf(this.#split(this.#query, x), queries);
    const weights = weightsOf(q, this.#split(this.#key, x), this.#scale);
    return reshape(weights, [-1, this.heads, queries.count, ...size]);
  }

  get #scale(): number {
    return 1 / Math.sqrt(this.#width);
  }

  /** (N, C, H, W) → (N·heads, C/heads, H·W): a view. */
  #split(conv: Conv2d, x: Tensor): Tensor {
    return reshape(flat(conv.forward(x)), [-1, this.#width, dim(x.shape, 2) * dim(x.shape, 3)]);
  }
}

/**
 * Multi-head attention over sequences (system 10): q (B, Nq, dModel), k and v (B, Nk, dModel) → (B, Nq, dModel), in heads of
 * dHead, scores over √dHead; keys q_linear, k_linear, v_linear, o_linear. The N×N map is never stored; a mask broadcasts to
 * (B, heads, Nq, Nk), and what all of it hides comes out as the bias of o_linear.
 */
export class MultiHeadAttention extends Module {
  readonly #heads: number;
  readonly #width: number;
  readonly #q: Linear;
  readonly #k: Linear;
  readonly #v: Linear;
  readonly #o: Linear;

  constructor(tape: Tape, nHead: number, dModel: number, dHead: number, options: WeightOptions) {
    super(tape);
    this.#heads = nHead;
    this.#width = dHead;
    const inner = nHead * dHead;
    this.#q = this.child('q_linear', new Linear(tape, dModel, inner, options));
    this.#k = this.child('k_linear', new Linear(tape, dModel, inner, options));
    this.#v = this.child('v_linear', new Linear(tape, dModel, inner, options));
    this.#o = this.child('o_linear', new Linear(tape, inner, dModel, options));
  }

  forward(q: Tensor, k: Tensor, v: Tensor, options: MaskOptions = {}): Tensor {
    const [heads, width] = [this.#heads, this.#width];
    const split = (layer: Linear, x: Tensor) => {
      const [B, N] = [dim(x.shape, 0), dim(x.shape, 1)];
      const parts = permute(reshape(layer.forward(x), [B, N, heads, width]), [0, 2, 1, 3]);
      return reshape(parts, [B * heads, N, width]);
    };
    const mixed = attention(split(this.#q, q), split(this.#k, k), split(this.#v, v), {
      ...options,
      ...{ layout: 'sequence', scale: 1 / Math.sqrt(width), heads },
    });
    const [B, N] = [dim(q.shape, 0), dim(q.shape, 1)];
    const parts = permute(reshape(mixed, [B, heads, N, width]), [0, 2, 1, 3]);
    return this.#o.forward(reshape(parts, [B, N, heads * width]));
  }
}
