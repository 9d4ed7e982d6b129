import { at } from '../autograd/op.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { LeakyReLU, ReLU, Tanh } from '../nn/activation.ts';
import { attentionOf } from '../nn/attention-kinds.ts';
import { Conv2d, ConvTranspose2d } from '../nn/conv.ts';
import { initialisers } from '../nn/init.ts';
import { Layer, Sequential } from '../nn/module.ts';
import { BatchNorm2d } from '../nn/norm.ts';
import { Spectra } from '../nn/spectra.ts';
import { spectralNorm } from '../nn/weighted.ts';
import { reshape } from '../ops/layout.ts';
import { avgPool2d, upsampleNearest2x } from '../ops/resample.ts';
import type { HostRng } from '../util/philox.ts';
import type { GanFamily, GanOptions } from './gan.ts';
import { Growth, stepsToGrow } from './growth.ts';
import type { Schedule } from './growth.ts';
import { sameConv } from './resnet-blocks.ts';
import { featureSizes, refuseClasses, refuseSize } from './sizes.ts';

export const progressivePresets = {
  'progressive-32': {
    imageSize: 32,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [16],
    attentionD: [16],
    init: 'xavier',
    slope: 0.2,
    conditional: false,
    classes: 0,
    stageSteps: 10_000,
  },
  'progressive-64': {
    imageSize: 64,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [32],
    attentionD: [32],
    init: 'xavier',
    slope: 0.2,
    conditional: false,
    classes: 0,
    stageSteps: 10_000,
  },
} as const satisfies Record<string, GanOptions>;

/** Sizes of the stages: 4, 8, … the image. */
const stageSizes = (imageSize: number): number[] => [...featureSizes(imageSize), imageSize];

/** Channels at a feature size: `width` at the image and at half of it, doubled at each further halving. */
function channelsAt({ width, imageSize }: GanOptions, size: number): number {
  return width * Math.max(1, imageSize / 2 / size);
}

function scheduleOf({ imageSize, stageSteps }: GanOptions): Schedule {
  if (stageSteps === undefined) throw new RangeError('stageSteps is missing: a net grows by it');
  return { imageSize, stageSteps };
}

/**
 * z (N, latent) → image (N, channels, s, s) in [−1, 1], with s = 4, 8, … S as it grows (Karras et al. 2018):
 * z → ConvT 4×4 → 4×4 · [nearest ×2 → conv 3×3]… with BN → ReLU → conv 3×3 → BN → ReLU → attention where asked behind each;
 * → conv 1×1 of the newest size → tanh. While that size fades in, its image is (1 − α)·(the last one's, nearest ×2) + α·its own.
 * Every convolution but the 1×1 ones to images is spectrally normalised.
 */
export class ProgressiveGenerator extends Layer {
  readonly growth: Growth;
  readonly spectra: Spectra;
  readonly #blocks: readonly Layer[];
  readonly #toImage: readonly Layer[];
  readonly #latentSize: number;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { attentionG, channels, imageSize, latentSize } = options;
    const weights = { rng, init: initialisers[options.init] };
    const sizes = stageSizes(imageSize);
    const normal = (features: number) => [new BatchNorm2d(tape, features), new ReLU(tape)];
    this.#latentSize = latentSize;
    this.#blocks = sizes.map((size, i) => {
      const [from, to] = [channelsAt(options, size / 2), channelsAt(options, size)];
      const seed = () =>
        spectralNorm(new ConvTranspose2d(tape, latentSize, to, { ...weights, kernelSize: 4 }), {
          rng,
        });
      const layers = [
        ...[i === 0 ? seed() : sameConv(tape, [from, to, 3], weights), ...normal(to)],
        ...[sameConv(tape, [to, to, 3], weights), ...normal(to)],
      ];
      const told = { ...weights, spectral: true };
      const after = attentionG.includes(size) ? attentionOf(options, tape, to, told) : [];
      return this.child(`blocks.${i}`, new Sequential(tape, [...layers, ...after]));
    });
    this.#toImage = sizes.map((size, i) => {
      const from = channelsAt(options, size);
      const conv = new Conv2d(tape, from, channels, { ...weights, kernelSize: 1 });
      return this.child(`to_image.${i}`, new Sequential(tape, [conv, new Tanh(tape)]));
    });
    const parts = { blocks: this.#blocks, ends: this.#toImage };
    this.growth = new Growth(tape, scheduleOf(options), parts);
    this.spectra = new Spectra(this);
  }

  override forward(z: Tensor): Tensor {
    return this.spectra.during(z, () => this.#images(z), this.growth.present);
  }

  #images(z: Tensor): Tensor {
    const { index, fading } = this.growth;
    const toImage = (i: number, h: Tensor) => at(this.#toImage, i).forward(h);
    let h = at(this.#blocks, 0).forward(reshape(z, [-1, this.#latentSize, 1, 1]));
    let before = h;
    for (let i = 1; i <= index; i++) {
      before = h;
      h = at(this.#blocks, i).forward(upsampleNearest2x(h));
    }
    const image = toImage(index, h);
    if (!fading) return image;
    return this.growth.fade(upsampleNearest2x(toImage(index - 1, before)), image);
  }
}

/**
 * image (N, channels, s, s), with s = 4, 8, … S as it grows → score (N, 1), no sigmoid:
 * conv 1×1 of the newest size → LeakyReLU · [attention where asked → conv 3×3 → LeakyReLU → conv 3×3 → LeakyReLU → mean of 2×2]…
 * → 4×4 · [attention where asked → conv 3×3 → LeakyReLU → conv 4×4]. While the newest size fades in, what its block hands on is
 * (1 − α)·(conv 1×1 of the size before, of the image's mean of 2×2) + α·its own. No batch norm; every product is spectrally
 * normalised.
 */
export class ProgressiveDiscriminator extends Layer {
  readonly growth: Growth;
  readonly spectra: Spectra;
  readonly #blocks: readonly Layer[];
  readonly #fromImage: readonly Layer[];

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { attentionD, channels, imageSize, slope } = options;
    const weights = { rng, init: initialisers[options.init] };
    const sizes = stageSizes(imageSize);
    const leaky = () => new LeakyReLU(tape, slope);
    this.#blocks = sizes.map((size, i) => {
      const [from, to] = [channelsAt(options, size), channelsAt(options, size / 2)];
      const score = () =>
        spectralNorm(new Conv2d(tape, from, 1, { ...weights, kernelSize: 4 }), { rng });
      const told = { ...weights, spectral: true };
      return this.child(
        `blocks.${i}`,
        new Sequential(tape, [
          ...(attentionD.includes(size) ? attentionOf(options, tape, from, told) : []),
          ...[sameConv(tape, [from, from, 3], weights), leaky()],
          ...(i === 0 ? [score()] : [sameConv(tape, [from, to, 3], weights), leaky()]),
        ]),
      );
    });
    this.#fromImage = sizes.map((size, i) => {
      const conv = sameConv(tape, [channels, channelsAt(options, size), 1], weights);
      return this.child(`from_image.${i}`, new Sequential(tape, [conv, leaky()]));
    });
    const parts = { blocks: this.#blocks, ends: this.#fromImage };
    this.growth = new Growth(tape, scheduleOf(options), parts);
    this.spectra = new Spectra(this);
  }

  override forward(x: Tensor): Tensor {
    return this.spectra.during(x, () => this.#scores(x), this.growth.present);
  }

  #scores(x: Tensor): Tensor {
    const { index, fading } = this.growth;
    const fromImage = (i: number, image: Tensor) => at(this.#fromImage, i).forward(image);
    let h = fromImage(index, x);
    for (let i = index; i > 0; i--) {
      h = avgPool2d(at(this.#blocks, i).forward(h), 2);
      if (fading && i === index) h = this.growth.fade(fromImage(i - 1, avgPool2d(x, 2)), h);
    }
    return reshape(at(this.#blocks, 0).forward(h), [-1, 1]);
  }
}

/** Weights of the convolutions of blocks, of either net: those of 4×4 reach from 3×3 to the latents, or to the score. */
function weightsOf(options: GanOptions, outside: number): number {
  return stageSizes(options.imageSize).reduce((sum, size, i) => {
    const [here, beyond] = [channelsAt(options, size), channelsAt(options, size / 2)];
    return sum + 9 * here * here + (i === 0 ? 16 * here * outside : 9 * here * beyond);
  }, 0);
}

/** GAN of progressive growing (system 19). */
export const progressive: GanFamily = {
  kind: 'gan',
  stages: featureSizes,
  refuse: (options) => refuseSize(options, 8) ?? refuseClasses(options, 'progressive'),
  generator: (tape, options, rng) => new ProgressiveGenerator(tape, options, rng),
  discriminator: (tape, options, rng) => new ProgressiveDiscriminator(tape, options, rng),
  fewestWeights: (options) => [weightsOf(options, options.latentSize), weightsOf(options, 1)],
  steps: (options) => stepsToGrow(scheduleOf(options)),
};
