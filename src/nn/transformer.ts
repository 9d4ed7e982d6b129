import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { add, relu } from '../ops/pointwise.ts';
import type { Rng } from '../ops/random.ts';
import type { HostRng } from '../util/philox.ts';
import { dim, showShape } from '../util/shape.ts';
import { Dropout } from './dropout.ts';
import { xavierUniform } from './init.ts';
import { LayerNorm } from './layer-norm.ts';
import { Linear } from './linear.ts';
import { Layer, Module } from './module.ts';
import { MultiHeadAttention } from './multi-head.ts';

export interface TransformerLayerOptions {
  readonly dModel: number;
  /** Must divide dModel. */
  readonly heads: number;
  /** Width of the layer between the two of the feed-forward part. */
  readonly feedForward: number;
  /** Chance that an element of a sublayer's result is dropped in training. */
  readonly dropout: number;
  /** Where the first weights come from. */
  readonly rng: HostRng;
  /** Where dropout draws from. */
  readonly noise: Rng;
}

/** pos·10000^(−2i/dModel): its sine in column 2i, its cosine in 2i + 1 (Vaswani et al. 2017, §3.5); [length, dModel]. */
export function sinusoids(length: number, dModel: number): Float32Array {
  return Float32Array.from({ length: length * dModel }, (_, at) => {
    const [position, column] = [Math.floor(at / dModel), at % dModel];
    const angle = position / 10_000 ** ((column - (column % 2)) / dModel);
    return column % 2 === 0 ? Math.sin(angle) : Math.cos(angle);
  });
}

/** Adds the sinusoidal position of each step: x (B, length, dModel) → the same. Nothing is learnt. */
export class Positions extends Layer {
  readonly #table: Tensor;

  constructor(tape: Tape, length: number, dModel: number) {
    super(tape);
    this.#table = tensor(tape, sinusoids(length, dModel), [length, dModel], { label: 'positions' });
  }

  /** Throws a RangeError for sequences of another length. */
  override forward(x: Tensor): Tensor {
    if (dim(x.shape, 1) !== dim(this.#table.shape, 0)) {
      throw new RangeError(
        `Positions: input is ${showShape(x.shape)}, the positions are ${showShape(this.#table.shape)}; the lengths must agree`,
      );
    }
    return add(x, this.#table);
  }
}

/** What layers of encoder and decoder share: the feed-forward part and the dropout of every sublayer's result. */
abstract class TransformerLayer extends Module {
  readonly #linear1: Linear;
  readonly #linear2: Linear;
  protected readonly dropout: Dropout;

  constructor(tape: Tape, { dModel, feedForward, dropout, rng, noise }: TransformerLayerOptions) {
    super(tape);
    const init = { rng, init: xavierUniform() };
    this.#linear1 = this.child('linear1', new Linear(tape, dModel, feedForward, init));
    this.#linear2 = this.child('linear2', new Linear(tape, feedForward, dModel, init));
    this.dropout = this.child('dropout', new Dropout(tape, dropout, noise));
  }

  protected attention({ dModel, heads, rng }: TransformerLayerOptions): MultiHeadAttention {
    const options = { rng, init: xavierUniform() };
    return new MultiHeadAttention(this.tape, heads, dModel, dModel / heads, options);
  }

  protected feedForward(x: Tensor): Tensor {
    return this.#linear2.forward(this.dropout.forward(relu(this.#linear1.forward(x))));
  }
}

/**
 * A layer of the encoder, norms first: x + self-attention of norm1(x), then + feed-forward of norm2 of that. As
 * torch.nn.TransformerEncoderLayer(norm_first=True, batch_first=True), but that attention weights are not dropped: no map of
 * them is stored. Keys are torch's, with q_linear, k_linear, v_linear and o_linear in self_attn.
 */
export class TransformerEncoderLayer extends TransformerLayer {
  readonly #attention: MultiHeadAttention;
  readonly #norm1: LayerNorm;
  readonly #norm2: LayerNorm;

  constructor(tape: Tape, options: TransformerLayerOptions) {
    super(tape, options);
    this.#attention = this.child('self_attn', this.attention(options));
    this.#norm1 = this.child('norm1', new LayerNorm(tape, options.dModel));
    this.#norm2 = this.child('norm2', new LayerNorm(tape, options.dModel));
  }

  /** x (B, S, dModel); `mask` (B, 1, 1, S): 0 hides a key. */
  forward(x: Tensor, mask: Tensor): Tensor {
    const own = this.#norm1.forward(x);
    const mixed = this.#attention.forward(own, own, own, { mask });
    const seen = add(x, this.dropout.forward(mixed));
    return add(seen, this.dropout.forward(this.feedForward(this.#norm2.forward(seen))));
  }
}

/**
 * A layer of the decoder, norms first: causal self-attention, attention to what the encoder made, feed-forward. As
 * torch.nn.TransformerDecoderLayer(norm_first=True, batch_first=True) in the way that the encoder's layer is.
 */
export class TransformerDecoderLayer extends TransformerLayer {
  readonly #attention: MultiHeadAttention;
  readonly #cross: MultiHeadAttention;
  readonly #norm1: LayerNorm;
  readonly #norm2: LayerNorm;
  readonly #norm3: LayerNorm;

  constructor(tape: Tape, options: TransformerLayerOptions) {
    super(tape, options);
    this.#attention = this.child('self_attn', this.attention(options));
    this.#cross = this.child('multihead_attn', this.attention(options));
    this.#norm1 = this.child('norm1', new LayerNorm(tape, options.dModel));
    this.#norm2 = this.child('norm2', new LayerNorm(tape, options.dModel));
    this.#norm3 = this.child('norm3', new LayerNorm(tape, options.dModel));
  }

  /** x (B, T, dModel), memory (B, S, dModel); `mask` (B, 1, 1, S) hides keys of the memory. */
  forward(x: Tensor, memory: Tensor, mask: Tensor): Tensor {
    const own = this.#norm1.forward(x);
    const mixed = this.#attention.forward(own, own, own, { causal: true });
    const seen = add(x, this.dropout.forward(mixed));
    const told = this.#cross.forward(this.#norm2.forward(seen), memory, memory, { mask });
    const informed = add(seen, this.dropout.forward(told));
    return add(informed, this.dropout.forward(this.feedForward(this.#norm3.forward(informed))));
  }
}
