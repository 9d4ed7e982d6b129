import { typeAs } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { attentionOf } from '../nn/attention-kinds.ts';
import type { AttentionLayer } from '../nn/attention.ts';
import { Conv2d, ConvTranspose2d } from '../nn/conv.ts';
import { Embedding } from '../nn/embedding.ts';
import { initialisers } from '../nn/init.ts';
import { Linear } from '../nn/linear.ts';
import { Layer } from '../nn/module.ts';
import { concat, reshape } from '../ops/layout.ts';
import { leakyRelu, tanh } from '../ops/pointwise.ts';
import type { HostRng } from '../util/philox.ts';
import { dim } from '../util/shape.ts';
import type { Family, GanOptions, Net } from './gan.ts';
import { channelsAt, featureSizes, refuseSize } from './sizes.ts';

export const vaePresets = {
  /** Trains to recognisable images in minutes on two CPU cores. */
  'vae-32-tiny': {
    imageSize: 32,
    channels: 3,
    latentSize: 32,
    width: 16,
    attention: 'plain',
    attentionG: [8],
    attentionD: [8],
    init: 'default',
    slope: 0.2,
    conditional: false,
    classes: 0,
  },
  'vae-32': {
    imageSize: 32,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [16],
    attentionD: [16],
    init: 'default',
    slope: 0.2,
    conditional: false,
    classes: 0,
  },
  'vae-64': {
    imageSize: 64,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [16],
    attentionD: [16],
    init: 'default',
    slope: 0.2,
    conditional: false,
    classes: 0,
  },
} as const satisfies Record<string, GanOptions>;

/** An encoder and the decoder that it is trained with, which is the family's generator. */
export interface VaeFamily extends Family {
  readonly kind: 'vae';
  /** images (N, channels, S, S) → (N, 2·latent): the means of q(z|x), then the logarithms of its variances. */
  encoder(tape: Tape, options: GanOptions, rng: HostRng): Net;
  generator(tape: Tape, options: GanOptions, rng: HostRng): VaeDecoder;
}

const resized = { kernelSize: 4, stride: 2, padding: 1 };

/** What goes beside each input of a net that is told classes: a row of a table for each, which is learned. */
function tableOf(tape: Tape, { classes }: GanOptions, length: number, rng: HostRng) {
  return classes === 0 ? undefined : new Embedding(tape, classes, length, { rng });
}

/** x (N, C, …) with the rows of its classes, each of the shape (1, …), behind its channels; x itself without a table. */
function told(x: Tensor, table: Embedding | undefined, labels: Tensor | undefined): Tensor {
  if (table === undefined) return x;
  if (labels === undefined) {
    throw new RangeError(`${table.path}: labels are missing; one class an image is needed`);
  }
  const rest = x.shape.slice(2);
  const rows = reshape(table.forward(labels), [
    dim(x.shape, 0),
    rest.length === 0 ? -1 : 1,
    ...rest,
  ]);
  return concat([x, typeAs(rows, x)], 1);
}

interface Block {
  readonly conv: Conv2d;
  readonly attention: readonly AttentionLayer[];
}

/**
 * images (N, channels, S, S), labels (N) → (N, 2·latent), the means and the logarithms of the variances of q(z|x):
 * [Conv 4, stride 2 → LeakyReLU → attention where asked]… → 4×4 → linear. A class is a plane of the image's size, one channel
 * more. No batch norm: what is made of an image hangs on no other.
 */
export class VaeEncoder extends Layer {
  readonly #embed: Embedding | undefined;
  readonly #blocks: readonly Block[];
  readonly #moments: Linear;
  readonly #slope: number;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { channels, imageSize, latentSize, classes, attentionD, slope } = options;
    const weights = { rng, init: initialisers[options.init] };
    const table = tableOf(tape, options, imageSize ** 2, rng);
    if (table !== undefined) this.#embed = this.child('embed', table);
    const first = channels + (table === undefined ? 0 : 1);
    this.#blocks = featureSizes(imageSize)
      .reverse()
      .map((size, i) => {
        const [from, to] = [
          i === 0 ? first : channelsAt(options, 2 * size),
          channelsAt(options, size),
        ];
        const conv = new Conv2d(tape, from, to, { ...weights, ...resized });
        const own = { ...weights, classes };
        const attention = attentionD.includes(size) ? attentionOf(options, tape, to, own) : [];
        return {
          conv: this.child(`blocks.${i}.conv`, conv),
          attention: attention.map((layer) => this.child(`blocks.${i}.attention`, layer)),
        };
      });
    const features = 16 * channelsAt(options, 4);
    this.#moments = this.child('moments', new Linear(tape, features, 2 * latentSize, weights));
    this.#slope = slope;
  }

  /** Throws a RangeError without labels, where there are classes. */
  override forward(x: Tensor, labels?: Tensor): Tensor {
    const activation = { name: 'leakyRelu', negativeSlope: this.#slope } as const;
    const maps = this.#blocks.reduce(
      (h, { conv, attention }) =>
        attention.reduce((y, layer) => layer.forward(y, labels), conv.forward(h, activation)),
      told(x, this.#embed, labels),
    );
    return this.#moments.forward(reshape(maps, [dim(x.shape, 0), -1]));
  }
}

interface UpBlock {
  readonly attention: readonly AttentionLayer[];
  readonly conv: ConvTranspose2d;
}

/**
 * z (N, latent), labels (N) → images (N, channels, S, S) in [−1, 1]:
 * z → linear → 4×4 → LeakyReLU · [attention where asked → ConvT 4, stride 2 → LeakyReLU]… → ConvT 4, stride 2 → tanh. A class is
 * a vector as long as z, behind it. No batch norm: what is made of a latent hangs on no other.
 */
export class VaeDecoder extends Layer {
  readonly #embed: Embedding | undefined;
  readonly #project: Linear;
  readonly #blocks: readonly UpBlock[];
  readonly #slope: number;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { channels, imageSize, latentSize, classes, attentionG, slope } = options;
    const weights = { rng, init: initialisers[options.init] };
    const table = tableOf(tape, options, latentSize, rng);
    if (table !== undefined) this.#embed = this.child('embed', table);
    const given = latentSize * (table === undefined ? 1 : 2);
    const features = 16 * channelsAt(options, 4);
    this.#project = this.child('project', new Linear(tape, given, features, weights));
    this.#blocks = featureSizes(imageSize).map((size, i) => {
      const from = channelsAt(options, size);
      const to = 2 * size === imageSize ? channels : from / 2;
      const own = { ...weights, classes };
      const attention = attentionG.includes(size) ? attentionOf(options, tape, from, own) : [];
      const conv = new ConvTranspose2d(tape, from, to, { ...weights, ...resized });
      return {
        attention: attention.map((layer) => this.child(`blocks.${i}.attention`, layer)),
        conv: this.child(`blocks.${i}.conv`, conv),
      };
    });
    this.#slope = slope;
  }

  /** The images before their tanh. Throws a RangeError without labels, where there are classes. */
  logits(z: Tensor, labels?: Tensor): Tensor {
    const seed = this.#project.forward(told(z, this.#embed, labels));
    return this.#blocks.reduce(
      (h, { attention, conv }) => {
        const active = leakyRelu(h, this.#slope);
        return conv.forward(attention.reduce((y, layer) => layer.forward(y, labels), active));
      },
      reshape(seed, [dim(z.shape, 0), -1, 4, 4]),
    );
  }

  override forward(z: Tensor, labels?: Tensor): Tensor {
    return tanh(this.logits(z, labels));
  }
}

/** A variational autoencoder with attention, told classes or not (system 13; Kingma & Welling 2014, Sohn et al. 2015). */
export const vae: VaeFamily = {
  kind: 'vae',
  stages: featureSizes,
  refuse: (options) => refuseSize(options, 8),
  encoder: (tape, options, rng) => new VaeEncoder(tape, options, rng),
  generator: (tape, options, rng) => new VaeDecoder(tape, options, rng),
  fewestWeights: (options) => {
    const sizes = featureSizes(options.imageSize).map((size) => channelsAt(options, size));
    const chain = [...sizes, options.channels];
    const inner = chain.slice(1).reduce((sum, c, i) => sum + 16 * c * (chain[i] ?? 0), 0);
    const ends = 16 * options.latentSize * (sizes[0] ?? 0);
    return [inner + ends, inner + 2 * ends];
  },
};
