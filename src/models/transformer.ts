import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { Dropout } from '../nn/dropout.ts';
import { Embedding } from '../nn/embedding.ts';
import { normal, xavierUniform } from '../nn/init.ts';
import { LayerNorm } from '../nn/layer-norm.ts';
import { Linear } from '../nn/linear.ts';
import { Module } from '../nn/module.ts';
import { Positions, TransformerDecoderLayer, TransformerEncoderLayer } from '../nn/transformer.ts';
import type { TransformerLayerOptions } from '../nn/transformer.ts';
import { reshape } from '../ops/layout.ts';
import { mul } from '../ops/pointwise.ts';
import { dim } from '../util/shape.ts';

export interface TransformerOptions extends TransformerLayerOptions {
  /** Layers of the encoder, and as many of the decoder. */
  readonly layers: number;
  /** Tokens of a source and of a target, padding included. */
  readonly sourceLength: number;
  readonly targetLength: number;
  /** Words of the two vocabularies; word 0 is padding. */
  readonly sourceWords: number;
  readonly targetWords: number;
}

interface StackOptions<L> {
  readonly options: TransformerOptions;
  readonly words: number;
  readonly length: number;
  readonly layerOf: () => L;
}

/** What encoder and decoder are alike in: embeddings times √dModel, positions, dropout, layers, a norm at the end. */
class Stack<L extends Module> extends Module {
  readonly #embedding: Embedding;
  readonly #positions: Positions;
  readonly #dropout: Dropout;
  readonly #layers: readonly L[];
  readonly #norm: LayerNorm;
  readonly #scale: number;

  constructor(tape: Tape, { options, words, length, layerOf }: StackOptions<L>) {
    super(tape);
    const { dModel, dropout, rng, noise, layers } = options;
    this.#scale = Math.sqrt(dModel);
    const init = normal(1 / this.#scale);
    this.#embedding = this.child('embedding', new Embedding(tape, words, dModel, { rng, init }));
    this.#positions = this.child('positions', new Positions(tape, length, dModel));
    this.#dropout = this.child('dropout', new Dropout(tape, dropout, noise));
    this.#layers = Array.from({ length: layers }, (_, i) => this.child(`layers.${i}`, layerOf()));
    this.#norm = this.child('norm', new LayerNorm(tape, dModel));
  }

  /** tokens (B, length) u32 → (B, length, dModel). */
  run(tokens: Tensor, pass: (layer: L, x: Tensor) => Tensor): Tensor {
    const embedded = mul(this.#embedding.forward(tokens), this.#scale);
    const first = this.#dropout.forward(this.#positions.forward(embedded));
    return this.#norm.forward(this.#layers.reduce((x, layer) => pass(layer, x), first));
  }
}

/**
 * The encoder–decoder of Vaswani et al. 2017 with its norms first (Xiong et al. 2020: it trains without a long warm-up), as
 * torch.nn.Transformer(norm_first=True) between embeddings and an output layer. A source's padding is hidden from
 * encoder and decoder; a target's needs no mask, for it comes last and the decoder looks at nothing later.
 */
export class Transformer extends Module {
  readonly #encoder: Stack<TransformerEncoderLayer>;
  readonly #decoder: Stack<TransformerDecoderLayer>;
  readonly #output: Linear;

  /** Throws a RangeError where the heads do not divide dModel. */
  constructor(tape: Tape, options: TransformerOptions) {
    super(tape);
    const { dModel, heads, rng, sourceWords, targetWords, sourceLength, targetLength } = options;
    if (dModel % heads !== 0) {
      throw new RangeError(`Transformer: ${heads} heads do not divide a width of ${dModel}`);
    }
    const source = { options, words: sourceWords, length: sourceLength };
    const target = { options, words: targetWords, length: targetLength };
    this.#encoder = this.child(
      'encoder',
      new Stack(tape, { ...source, layerOf: () => new TransformerEncoderLayer(tape, options) }),
    );
    this.#decoder = this.child(
      'decoder',
      new Stack(tape, { ...target, layerOf: () => new TransformerDecoderLayer(tape, options) }),
    );
    const init = { rng, init: xavierUniform() };
    this.#output = this.child('output', new Linear(tape, dModel, targetWords, init));
  }

  /** source (B, sourceLength) u32 → what the decoder looks at, (B, sourceLength, dModel). */
  encode(source: Tensor): Tensor {
    const mask = maskOf(source);
    return this.#encoder.run(source, (layer, x) => layer.forward(x, mask));
  }

  /** target (B, targetLength) u32, beginning with the begin word → logits of each next word, (B, targetLength, words). */
  decode(memory: Tensor, source: Tensor, target: Tensor): Tensor {
    const mask = maskOf(source);
    return this.#output.forward(
      this.#decoder.run(target, (layer, x) => layer.forward(x, memory, mask)),
    );
  }

  forward(source: Tensor, target: Tensor): Tensor {
    return this.decode(this.encode(source), source, target);
  }
}

/** Words are their own mask: padding is 0, and 0 hides a key. */
function maskOf(source: Tensor): Tensor {
  return reshape(source, [dim(source.shape, 0), 1, 1, dim(source.shape, 1)]);
}
