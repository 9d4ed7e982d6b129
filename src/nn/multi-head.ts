import { to } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { attention } from '../ops/attention.ts';
import { embedding } from '../ops/embedding.ts';
import { permute, reshape } from '../ops/layout.ts';
import { matmul } from '../ops/matmul.ts';
import { add } from '../ops/pointwise.ts';
import { residual } from '../ops/residual.ts';
import { softmax } from '../ops/softmax.ts';
import { dim, showShape } from '../util/shape.ts';
import { AttentionLayer, flat, gammaOf, pointwiseConv, queryAt, weightsOf } from './attention.ts';
import type { BlockOptions, Place } from './attention.ts';
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
  readonly #heads: number;
  readonly #width: number;

  constructor(tape: Tape, channels: number, options: MultiHeadSelfAttentionOptions) {
    super(tape);
    this.#heads = options.heads;
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

  override map(x: Tensor, query: Place): Tensor {
    const size = [dim(x.shape, 2), dim(x.shape, 3)] as const;
    const q = queryAt(this.#split(this.#query, x), query, size);
    const weights = weightsOf(q, this.#split(this.#key, x), this.#scale);
    return reshape(weights, [-1, this.#heads, ...size]);
  }

  get #scale(): number {
    return 1 / Math.sqrt(this.#width);
  }

  /** (N, C, H, W) → (N·heads, C/heads, H·W): a view. */
  #split(conv: Conv2d, x: Tensor): Tensor {
    return reshape(flat(conv.forward(x)), [-1, this.#width, dim(x.shape, 2) * dim(x.shape, 3)]);
  }
}

export interface MaskOptions {
  /**
   * Which keys a query may look at, in a shape that broadcasts to (B, heads, Nq, Nk). As torch's: of u32, 0 hides a key; of
   * a float type it is added to the scores. A query must be left one key.
   */
  readonly mask?: Tensor | undefined;
  /** A query looks at no later position. Default false. */
  readonly causal?: boolean;
}

/** Added to a score, it leaves no weight: exp of it is 0. */
const hidden = -1e38;

/**
 * Multi-head attention over sequences (system 10): q (B, Nq, dModel), k and v (B, Nk, dModel) → (B, Nq, dModel), in heads of
 * dHead, scores over √dHead; keys q_linear, k_linear, v_linear, o_linear. Without a mask the N×N map is never stored. With
 * one it is, in f32, and again for the gradient: a map past the device's largest binding is refused with a RangeError.
 */
export class MultiHeadAttention extends Module {
  readonly #heads: number;
  readonly #width: number;
  readonly #q: Linear;
  readonly #k: Linear;
  readonly #v: Linear;
  readonly #o: Linear;
  /** What a mask's 0 and 1 add to a score. */
  readonly #table: Tensor;
  readonly #orders = new Map<string, Tensor>();

  constructor(tape: Tape, nHead: number, dModel: number, dHead: number, options: WeightOptions) {
    super(tape);
    this.#heads = nHead;
    this.#width = dHead;
    const inner = nHead * dHead;
    this.#q = this.child('q_linear', new Linear(tape, dModel, inner, options));
    this.#k = this.child('k_linear', new Linear(tape, dModel, inner, options));
    this.#v = this.child('v_linear', new Linear(tape, dModel, inner, options));
    this.#o = this.child('o_linear', new Linear(tape, inner, dModel, options));
    this.#table = tensor(tape, [hidden, 0], [2, 1], { label: 'mask' });
  }

  forward(q: Tensor, k: Tensor, v: Tensor, options: MaskOptions = {}): Tensor {
    const [B, Nq, Nk] = [dim(q.shape, 0), dim(q.shape, 1), dim(k.shape, 1)];
    const split = (layer: Linear, x: Tensor) => {
      const heads = reshape(layer.forward(x), [B, -1, this.#heads, this.#width]);
      return permute(heads, [0, 2, 1, 3]);
    };
    const inputs = [split(this.#q, q), split(this.#k, k), split(this.#v, v)] as const;
    const bias = this.#bias(options, Nq, Nk);
    const mixed = bias === undefined ? this.#fused(inputs) : this.#masked(inputs, bias);
    const whole = reshape(mixed, [B, this.#heads, Nq, this.#width]);
    return this.#o.forward(
      reshape(permute(whole, [0, 2, 1, 3]), [B, Nq, this.#heads * this.#width]),
    );
  }

  #fused(inputs: readonly [Tensor, Tensor, Tensor]): Tensor {
    const folded = inputs.map((t) => reshape(t, [-1, dim(t.shape, 2), this.#width]));
    const [q, k, v] = folded as [Tensor, Tensor, Tensor];
    return attention(q, k, v, { layout: 'sequence', scale: 1 / Math.sqrt(this.#width) });
  }

  /** What the options add to scores (B, heads, Nq, Nk), in f32; undefined for nothing. */
  #bias({ mask, causal = false }: MaskOptions, Nq: number, Nk: number): Tensor | undefined {
    const given = mask && (mask.dtype === 'u32' ? this.#hiddenAt(mask) : to(mask, 'f32'));
    if (!causal) return given;
    const order = this.#orderOf(Nq, Nk);
    return given === undefined ? order : add(given, order);
  }

  /** 0 hides, anything else shows: an index past the table reads 0. */
  #hiddenAt(mask: Tensor): Tensor {
    return reshape(embedding(mask, this.#table), mask.shape);
  }

  /** What hides later keys, made once for each size. */
  #orderOf(Nq: number, Nk: number): Tensor {
    const size = `${Nq} ${Nk}`;
    const known = this.#orders.get(size);
    if (known !== undefined) return known;
    const later = Float32Array.from({ length: Nq * Nk }, (_, n) =>
      n % Nk > Math.floor(n / Nk) ? hidden : 0,
    );
    const made = tensor(this.tape, later, [Nq, Nk], { label: 'causal' });
    this.#orders.set(size, made);
    return made;
  }

  #masked([q, k, v]: readonly [Tensor, Tensor, Tensor], bias: Tensor): Tensor {
    const map = [...q.shape.slice(0, 3), dim(k.shape, 2)];
    const bytes = map.reduce((n, d) => n * d, 4);
    const most = this.tape.gpu.limits['maxStorageBufferBindingSize'] ?? 2 ** 27;
    if (bytes > most) {
      throw new RangeError(
        `MultiHeadAttention: a mask needs the map ${showShape(map)} in memory, ${bytes} bytes of a device that binds ${most}; ` +
          'shorten the sequences or the batch, or leave the mask out',
      );
    }
    const wide = [q, k, v].map((t) => to(t, 'f32')) as [Tensor, Tensor, Tensor];
    const alpha = 1 / Math.sqrt(this.#width);
    const scores = add(matmul(wide[0], wide[1], { transB: true, alpha }), bias);
    return to(matmul(softmax(scores), wide[2]), q.dtype === 'f16' ? 'f16' : 'f32');
  }
}
