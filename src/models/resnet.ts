import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { attentionOf } from '../nn/attention-kinds.ts';
import type { Conv2d } from '../nn/conv.ts';
import { Embedding } from '../nn/embedding.ts';
import { initialisers } from '../nn/init.ts';
import { Linear } from '../nn/linear.ts';
import { Layer } from '../nn/module.ts';
import { BatchNorm2d } from '../nn/norm.ts';
import { Spectra } from '../nn/spectra.ts';
import { spectralNorm } from '../nn/weighted.ts';
import { reshape } from '../ops/layout.ts';
import { add, mul, relu, tanh } from '../ops/pointwise.ts';
import { sum } from '../ops/reduce.ts';
import type { HostRng } from '../util/philox.ts';
import { dim } from '../util/shape.ts';
import type { GanFamily, GanOptions, Net } from './gan.ts';
import { DownBlock, UpBlock, sameConv } from './resnet-blocks.ts';
import { refuseSize } from './sizes.ts';

export const resnetPresets = {
  'sagan-resnet-32': {
    imageSize: 32,
    channels: 3,
    latentSize: 128,
    width: 128,
    attention: 'paper',
    attentionG: [16],
    attentionD: [16],
    init: 'xavier',
    slope: 0,
    conditional: false,
    classes: 0,
  },
  'sagan-resnet-64': {
    imageSize: 64,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'paper',
    attentionG: [32],
    attentionD: [32],
    init: 'xavier',
    slope: 0,
    conditional: false,
    classes: 0,
  },
  /** The authors' own. */
  'sagan-resnet-128': {
    imageSize: 128,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'paper',
    attentionG: [32],
    attentionD: [32],
    init: 'xavier',
    slope: 0,
    conditional: false,
    classes: 0,
  },
} as const satisfies Record<string, GanOptions>;

/** Images of this side or less have the nets of CIFAR-10: one width all through, and two blocks at 8×8 before the sum. */
const smallImage = 32;
/** No feature map has more than so many times `width` channels. */
const mostGrowth = 16;

/** Channels of the generator at a feature size: twice `width` at half the image, doubled at each halving. */
function generatorChannels({ imageSize, width }: GanOptions, size: number): number {
  return width * (imageSize <= smallImage ? 2 : Math.min(mostGrowth, imageSize / size));
}

/** Channels of the discriminator at a feature size: `width` at half the image, doubled at each halving. */
function discriminatorChannels({ imageSize, width }: GanOptions, size: number): number {
  return width * (imageSize <= smallImage ? 1 : Math.min(mostGrowth, imageSize / 2 / size));
}

interface BlockPlan {
  readonly from: number;
  readonly to: number;
  /** Side of what the block makes, in pixels. */
  readonly size: number;
  /** False for a block of the discriminator that keeps the size. */
  readonly resized: boolean;
}

/** 4×4 → 8×8 → … → the image. */
function generatorPlan(options: GanOptions): BlockPlan[] {
  const plan: BlockPlan[] = [];
  for (let size = 8; size <= options.imageSize; size *= 2) {
    const from = generatorChannels(options, size / 2);
    plan.push({ from, to: generatorChannels(options, size), size, resized: true });
  }
  return plan;
}

/** The image → half of it → … → 4×4 and one block more, or 8×8 and two where the image is small. */
function discriminatorPlan(options: GanOptions): BlockPlan[] {
  const { imageSize, channels } = options;
  const [last, more] = imageSize <= smallImage ? [8, 2] : [4, 1];
  const plan: BlockPlan[] = [];
  let from: number = channels;
  const push = (size: number, to: number, resized: boolean) => {
    plan.push({ from, to, size, resized });
    from = to;
  };
  for (let size = imageSize / 2; size >= last; size /= 2) {
    push(size, discriminatorChannels(options, size), true);
  }
  for (let i = 0; i < more; i++) push(last, discriminatorChannels(options, last / 2), false);
  return plan;
}

/**
 * z (N, latent), labels (N) → image (N, channels, S, S) in [−1, 1]:
 * z → linear → 4×4 · [up-block → attention where asked]… → batch norm → ReLU → conv 3×3 → tanh.
 * The blocks' batch norms are conditional where there are classes; every product is spectrally normalised. Keys linear,
 * blocks.{i}.0 (the block), blocks.{i}.1 (its attention) and output_layer.{0,2} are BigGAN-PyTorch's.
 */
export class ResnetGenerator extends Layer {
  readonly #linear: Linear;
  readonly #layers: readonly Net[];
  readonly #norm: BatchNorm2d;
  readonly #last: Conv2d;
  readonly spectra: Spectra;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { latentSize, classes, attentionG, channels } = options;
    const weights = { rng, init: initialisers[options.init] };
    const features = 16 * generatorChannels(options, 4);
    const linear = new Linear(tape, latentSize, features, weights);
    this.#linear = this.child('linear', spectralNorm(linear, { rng }));
    this.#layers = generatorPlan(options).flatMap(({ from, to, size }, i) => {
      const block = new UpBlock(tape, from, to, { ...weights, classes });
      const told = { ...weights, classes, spectral: true };
      const after = attentionG.includes(size) ? attentionOf(options, tape, to, told) : [];
      const layers: Net[] = [block, ...after];
      return layers.map((layer, j) => this.child(`blocks.${i}.${j}`, layer));
    });
    const to = generatorChannels(options, options.imageSize);
    this.#norm = this.child('output_layer.0', new BatchNorm2d(tape, to));
    this.#last = this.child('output_layer.2', sameConv(tape, [to, channels, 3], weights));
    this.spectra = new Spectra(this);
  }

  override forward(z: Tensor, labels?: Tensor): Tensor {
    return this.spectra.during(z, () => {
      const seed = reshape(this.#linear.forward(z), [dim(z.shape, 0), -1, 4, 4]);
      const h = this.#layers.reduce((x, layer) => layer.forward(x, labels), seed);
      return tanh(this.#last.forward(this.#norm.forward(h, { name: 'relu' })));
    });
  }
}

/**
 * image (N, channels, S, S), labels (N) → score (N, 1), no sigmoid:
 * [down-block → attention where asked]… → ReLU → h = sum over the positions → linear(h) + ⟨embedding of the class, h⟩, the
 * projection (Miyato & Koyama 2018) where there are classes. Everything is spectrally normalised, the embedding too. The
 * sum is f32, and so is what follows it. Keys blocks.{i}.0, blocks.{i}.1, linear and embed are BigGAN-PyTorch's.
 */
export class ResnetDiscriminator extends Layer {
  readonly #layers: readonly Net[];
  readonly #linear: Linear;
  readonly #embed: Embedding | undefined;
  readonly spectra: Spectra;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { classes, attentionD } = options;
    const weights = { rng, init: initialisers[options.init] };
    const plan = discriminatorPlan(options);
    this.#layers = plan.flatMap(({ from, to, size, resized }, i) => {
      const shape = { down: resized, first: i === 0 };
      const block = new DownBlock(tape, from, to, { ...weights, ...shape });
      const told = { ...weights, classes, spectral: true };
      const here = resized && attentionD.includes(size);
      const layers: Net[] = [block, ...(here ? attentionOf(options, tape, to, told) : [])];
      return layers.map((layer, j) => this.child(`blocks.${i}.${j}`, layer));
    });
    const features = plan.at(-1)?.to ?? 0;
    this.#linear = this.child(
      'linear',
      spectralNorm(new Linear(tape, features, 1, weights), { rng }),
    );
    if (classes > 0) {
      const embed = new Embedding(tape, classes, features, weights);
      this.#embed = this.child('embed', spectralNorm(embed, { rng }));
    }
    this.spectra = new Spectra(this);
  }

  /** Throws a RangeError without labels, where there are classes. */
  override forward(x: Tensor, labels?: Tensor): Tensor {
    return this.spectra.during(x, () => {
      const maps = this.#layers.reduce((h, layer) => layer.forward(h, labels), x);
      const h = sum(relu(maps), [2, 3]);
      const score = this.#linear.forward(h);
      if (this.#embed === undefined) return score;
      if (labels === undefined) {
        throw new RangeError(
          'ResnetDiscriminator: labels are missing; one class an image is needed',
        );
      }
      return add(score, sum(mul(h, this.#embed.forward(labels)), [1], { keepdim: true }));
    });
  }
}

/** Weights of the 3×3 convolutions of blocks. */
function weightsOf(plan: readonly BlockPlan[]): number {
  return plan.reduce((n, { from, to }) => n + 9 * (from + to) * to, 0);
}

/** SAGAN of residual blocks, as its authors released it, told classes or not (systems 5 and 9). */
export const resnet: GanFamily = {
  kind: 'gan',
  // The image's own size is the generator's alone, and 4×4 would pool keys to 2×2.
  stages: (imageSize) => {
    const sizes: number[] = [];
    for (let size = 8; size < imageSize; size *= 2) sizes.push(size);
    return sizes;
  },
  refuse: (options) => {
    const { slope } = options;
    return (
      refuseSize(options, 16) ??
      (slope === 0 ? undefined : `--slope ${slope} says nothing to sagan-resnet, which has ReLU`)
    );
  },
  generator: (tape, options, rng) => new ResnetGenerator(tape, options, rng),
  discriminator: (tape, options, rng) => new ResnetDiscriminator(tape, options, rng),
  fewestWeights: (options) => [
    weightsOf(generatorPlan(options)) + 16 * options.latentSize * generatorChannels(options, 4),
    weightsOf(discriminatorPlan(options)),
  ],
};
