import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { attentionResidual } from '../ops/attention-residual.ts';
import { attention } from '../ops/attention.ts';
import { reshape, slice } from '../ops/layout.ts';
import { matmul } from '../ops/matmul.ts';
import { maxPool2d } from '../ops/resample.ts';
import { residual } from '../ops/residual.ts';
import { softmax } from '../ops/softmax.ts';
import { dim } from '../util/shape.ts';
import { Conv2d } from './conv.ts';
import { Layer } from './module.ts';
import { spectralNorm } from './weighted.ts';
import type { WeightOptions } from './weighted.ts';

export interface BlockOptions extends WeightOptions {
  /** Spectral norm on every convolution of the block. Default false. */
  readonly spectral?: boolean | undefined;
  /** Classes of the labels that the block is told, if its kind is told any. */
  readonly classes?: number | undefined;
}

/** A position of a feature map: row, column. */
export type Place = readonly [row: number, column: number];

/** Positions of a feature map that follow one another, row by row. */
export interface Queries {
  readonly first: number;
  readonly count: number;
}

/** A block that maps x (N, C, H, W) to a tensor of the same H and W, and can say where each position looked. */
export abstract class AttentionLayer extends Layer {
  /** Told of what the block is given, before each of its forward passes: for viewers, which set it and take it away again. */
  onInput: ((x: Tensor, labels?: Tensor) => void) | undefined;

  constructor(tape: Tape) {
    super(tape);
    const forward = this.forward.bind(this);
    this.forward = (x, labels) => {
      this.onInput?.(x, labels);
      return forward(x, labels);
    };
  }

  /** `labels` (N) u32, for kinds that are told classes. */
  abstract override forward(x: Tensor, labels?: Tensor): Tensor;

  /** Maps that it makes of an input. */
  readonly heads: number = 1;
  /** Is the map the same wherever one asks from? Default false. */
  readonly everywhere: boolean = false;

  /**
   * The weights (N, heads, count, H', W') by which positions of x, `first` and those after it in row order, gather the values
   * at the positions of the map, made anew and summing to 1 over H'·W': for viewers, not for training. `labels` as in
   * `forward`. Memory grows with `count`, not with the square of the positions.
   */
  abstract maps(x: Tensor, queries: Queries, labels?: Tensor): Tensor;

  /** The same (N, heads, H', W') of one position. Throws a RangeError for a place outside x. */
  map(x: Tensor, [row, column]: Place, labels?: Tensor): Tensor {
    const [H, W] = [dim(x.shape, 2), dim(x.shape, 3)];
    requirePlace([row, column], [H, W]);
    const maps = this.maps(x, { first: row * W + column, count: 1 }, labels);
    const [N, heads, , ...size] = maps.shape;
    return reshape(maps, [N ?? 1, heads ?? 1, ...size]);
  }
}

export interface SelfAttentionOptions extends BlockOptions {
  /** Width of query and key is outChannels / reduction. Default 8. */
  readonly reduction?: number;
  /** Scores times 1/√(query width). SAGAN does not; the seeds' formula does. Default false. */
  readonly scaled?: boolean;
  /** Channels of the result; default those of the input. Where they differ the shortcut is a 1×1 convolution. */
  readonly outChannels?: number;
}

export interface PooledSelfAttentionOptions extends Omit<BlockOptions, 'bias'> {
  /** Width of theta and phi is channels / reduction. Default 8. */
  readonly reduction?: number;
}

/** A 1×1 convolution of an attention block, spectrally normalised if the block is. */
export function pointwiseConv(
  tape: Tape,
  sizes: readonly [number, number],
  options: BlockOptions,
): Conv2d {
  const conv = new Conv2d(tape, sizes[0], sizes[1], { ...options, kernelSize: 1 });
  return options.spectral === true ? spectralNorm(conv, { rng: options.rng }) : conv;
}

/** The learnt weight of a block beside its shortcut, from 0. */
export function gammaOf(tape: Tape): Tensor {
  return tensor(tape, [0], [1], { label: 'gamma', requiresGrad: true });
}

/** Throws a RangeError for a place that a map of H rows and W columns has not. */
export function requirePlace([row, column]: Place, [H, W]: readonly [number, number]): void {
  if (![row, column].every(Number.isInteger) || row < 0 || column < 0 || row >= H || column >= W) {
    throw new RangeError(`query ${row}, ${column} lies outside the map of ${H} × ${W} positions`);
  }
}

/** Some columns (N, D, count) of queries (N, D, positions). */
export function queriesOf(q: Tensor, { first, count }: Queries): Tensor {
  return slice(q, 2, first, count);
}

/** softmax(scale·QᵀK), the weights (N, queries, keys) of queries (N, D, queries) over keys (N, D, keys). */
export function weightsOf(q: Tensor, k: Tensor, scale: number): Tensor {
  return softmax(matmul(q, k, { transA: true, alpha: scale }));
}

/** (N, C, H, W) as the channel-major sequence (N, C, H·W): a view. */
export function flat(x: Tensor): Tensor {
  return reshape(x, [dim(x.shape, 0), dim(x.shape, 1), -1]);
}

/**
 * SAGAN's block as the seeds and most open implementations write it (system 1):
 * x (N, C, H, W) → query, key (N, C/8, HW), value (N, C, HW) → gamma·softmax(QᵀK)V + x, gamma from 0.
 */
export class SelfAttention extends AttentionLayer {
  readonly gamma: Tensor;
  readonly #query: Conv2d;
  readonly #key: Conv2d;
  readonly #value: Conv2d;
  readonly #shortcut: Conv2d | undefined;
  /** Factor of the scores. */
  protected readonly scale: number;

  constructor(tape: Tape, channels: number, options: SelfAttentionOptions) {
    super(tape);
    const { reduction = 8, scaled = false, outChannels = channels } = options;
    const width = Math.max(1, Math.floor(outChannels / reduction));
    this.#query = this.child('query_conv', pointwiseConv(tape, [channels, width], options));
    this.#key = this.child('key_conv', pointwiseConv(tape, [channels, width], options));
    this.#value = this.child('value_conv', pointwiseConv(tape, [channels, outChannels], options));
    if (outChannels !== channels) {
      const shortcut = pointwiseConv(tape, [channels, outChannels], options);
      this.#shortcut = this.child('shortcut_conv', shortcut);
    }
    this.gamma = this.parameter('gamma', gammaOf(tape));
    this.scale = scaled ? 1 / Math.sqrt(width) : 1;
  }

  override forward(x: Tensor): Tensor {
    return this.attend(x, x);
  }

  /** The block with query and key of `asked`, and value and shortcut of x. */
  protected attend(x: Tensor, asked: Tensor): Tensor {
    const { q, k, v } = this.project(x, asked);
    const shortcut = this.#shortcut?.forward(x) ?? x;
    return reshape(this.mix(q, k, v, flat(shortcut)), shortcut.shape);
  }

  override maps(x: Tensor, queries: Queries): Tensor {
    const size = [dim(x.shape, 2), dim(x.shape, 3)] as const;
    const { q, k } = this.project(x);
    return reshape(this.weights(queriesOf(q, queries), k), [-1, 1, queries.count, ...size]);
  }

  /** gamma times the values gathered for each query, plus the shortcut (N, C, HW): what other kinds of this block do otherwise. */
  protected mix(q: Tensor, k: Tensor, v: Tensor, shortcut: Tensor): Tensor {
    const { gamma, scale } = this;
    return attentionResidual(q, k, v, { gamma, x: shortcut, scale });
  }

  /** The weights (N, queries, keys) by which `mix` gathers. */
  protected weights(q: Tensor, k: Tensor): Tensor {
    return weightsOf(q, k, this.scale);
  }

  /** Query, key and value sequences of an input, query and key of another if there is one. */
  project(x: Tensor, asked = x): { q: Tensor; k: Tensor; v: Tensor } {
    return {
      q: flat(this.#query.forward(asked)),
      k: flat(this.#key.forward(asked)),
      v: flat(this.#value.forward(x)),
    };
  }
}

/**
 * The block of the authors' released code (system 2): key and value max-pooled to a quarter of the positions, value at
 * C/2, and a fourth convolution back to C; no bias, no scale. Keys theta, phi, g, o as in BigGAN-PyTorch.
 */
export class PooledSelfAttention extends AttentionLayer {
  readonly gamma: Tensor;
  readonly #theta: Conv2d;
  readonly #phi: Conv2d;
  readonly #g: Conv2d;
  readonly #o: Conv2d;

  constructor(tape: Tape, channels: number, options: PooledSelfAttentionOptions) {
    super(tape);
    const bare = { ...options, bias: false };
    const narrow = Math.max(1, Math.floor(channels / (options.reduction ?? 8)));
    const half = Math.max(1, Math.floor(channels / 2));
    this.#theta = this.child('theta', pointwiseConv(tape, [channels, narrow], bare));
    this.#phi = this.child('phi', pointwiseConv(tape, [channels, narrow], bare));
    this.#g = this.child('g', pointwiseConv(tape, [channels, half], bare));
    this.#o = this.child('o', pointwiseConv(tape, [half, channels], bare));
    this.gamma = this.parameter('gamma', gammaOf(tape));
  }

  override forward(x: Tensor): Tensor {
    const q = flat(this.#theta.forward(x));
    const k = flat(maxPool2d(this.#phi.forward(x), 2));
    const v = flat(maxPool2d(this.#g.forward(x), 2));
    const [N, , H, W] = x.shape;
    const mixed = reshape(attention(q, k, v), [N ?? 1, -1, H ?? 1, W ?? 1]);
    return residual(this.#o.forward(mixed), this.gamma, x);
  }

  override maps(x: Tensor, queries: Queries): Tensor {
    const q = flat(this.#theta.forward(x));
    const k = maxPool2d(this.#phi.forward(x), 2);
    const size = [dim(k.shape, 2), dim(k.shape, 3)] as const;
    const weights = weightsOf(queriesOf(q, queries), flat(k), 1);
    return reshape(weights, [-1, 1, queries.count, ...size]);
  }
}
