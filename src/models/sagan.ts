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
import type { HostRng } from '../util/philox.ts';
import type { GanFamily, GanOptions } from './gan.ts';
import { featureSizes, refuseClasses, refuseSize } from './sizes.ts';

export const saganPresets = {
  /** The demo's: trains to recognisable images in minutes on two CPU cores. */
  'sagan-32-tiny': {
    imageSize: 32,
    channels: 3,
    latentSize: 64,
    width: 16,
    attention: 'plain',
    attentionG: [8],
    attentionD: [8],
    init: 'orthogonal',
    slope: 0.1,
    conditional: false,
    classes: 0,
  },
  'sagan-32': {
    imageSize: 32,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [16],
    attentionD: [16],
    init: 'xavier',
    slope: 0.1,
    conditional: false,
    classes: 0,
  },
  'sagan-64': {
    imageSize: 64,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [16, 32],
    attentionD: [32, 16],
    init: 'xavier',
    slope: 0.1,
    conditional: false,
    classes: 0,
  },
  'sagan-128': {
    imageSize: 128,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [32, 64],
    attentionD: [64, 32],
    init: 'xavier',
    slope: 0.1,
    conditional: false,
    classes: 0,
  },
  /** Attention over 4096 positions: a map of 64 MiB an image, which the fused kernels never store. */
  'sagan-256': {
    imageSize: 256,
    channels: 3,
    latentSize: 128,
    width: 64,
    attention: 'plain',
    attentionG: [64],
    attentionD: [64],
    init: 'xavier',
    slope: 0.1,
    conditional: false,
    classes: 0,
  },
} as const satisfies Record<string, GanOptions>;

export type SaganPreset = keyof typeof saganPresets;

/** No stage has more channels than so many times `width`: the cap of BigGAN's nets (Brock et al. 2019, appendix B). */
const mostWidths = 16;

/**
 * Channels at a feature size: `width` at half the image, doubled at each halving, to 16 times as many at most. That is where
 * images of 128 pixels end; without the cap two thirds of the weights of 256 would lie between 4×4 and 8×8.
 */
export function channelsAt(
  { width, imageSize }: Pick<GanOptions, 'width' | 'imageSize'>,
  size: number,
): number {
  return width * Math.min(mostWidths, imageSize / 2 / size);
}

/**
 * z (N, latent) → image (N, channels, S, S) in [−1, 1]:
 * z → ConvT 4×4 → 4×4 · [ConvT 4, stride 2 → BN → ReLU → attention where asked]… → ConvT 4, stride 2 → tanh.
 * Every convolution but the last is spectrally normalised, those of the attention blocks too: the last one sets the
 * images' contrast, which a unit norm would hold down.
 */
export class Generator extends Layer {
  readonly #main: Sequential;
  readonly spectra: Spectra;
  readonly #latentSize: number;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    this.#latentSize = options.latentSize;
    const init = initialisers[options.init];
    const sizes = featureSizes(options.imageSize);
    const layers: Layer[] = [];
    let from = options.latentSize;
    for (const size of sizes) {
      const to = channelsAt(options, size);
      const first = size === sizes[0];
      layers.push(
        spectralNorm(
          new ConvTranspose2d(tape, from, to, {
            rng,
            init,
            kernelSize: 4,
            stride: first ? 1 : 2,
            padding: first ? 0 : 1,
          }),
          { rng },
        ),
        new BatchNorm2d(tape, to),
        new ReLU(tape),
      );
      if (options.attentionG.includes(size)) {
        layers.push(...attentionOf(options, tape, to, { rng, init, spectral: true }));
      }
      from = to;
    }
    const last = { rng, init, kernelSize: 4, stride: 2, padding: 1 };
    layers.push(new ConvTranspose2d(tape, from, options.channels, last), new Tanh(tape));
    this.#main = this.child('main', new Sequential(tape, layers));
    this.spectra = new Spectra(this);
  }

  override forward(z: Tensor): Tensor {
    const seed = reshape(z, [-1, this.#latentSize, 1, 1]);
    return this.spectra.during(z, () => this.#main.forward(seed));
  }
}

/**
 * image (N, channels, S, S) → score (N, 1), no sigmoid:
 * [Conv 4, stride 2 → LeakyReLU → attention where asked]… → 4×4 → Conv 4×4. No batch norm.
 */
export class Discriminator extends Layer {
  readonly #main: Sequential;
  readonly spectra: Spectra;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const init = initialisers[options.init];
    const sizes = featureSizes(options.imageSize).reverse();
    const layers: Layer[] = [];
    let from: number = options.channels;
    for (const size of sizes) {
      const to = channelsAt(options, size);
      const conv = { rng, init, kernelSize: 4, stride: 2, padding: 1 };
      layers.push(
        spectralNorm(new Conv2d(tape, from, to, conv), { rng }),
        new LeakyReLU(tape, options.slope),
      );
      if (options.attentionD.includes(size)) {
        layers.push(...attentionOf(options, tape, to, { rng, init, spectral: true }));
      }
      from = to;
    }
    layers.push(spectralNorm(new Conv2d(tape, from, 1, { rng, init, kernelSize: 4 }), { rng }));
    this.#main = this.child('main', new Sequential(tape, layers));
    this.spectra = new Spectra(this);
  }

  override forward(x: Tensor): Tensor {
    return this.spectra.during(x, () => reshape(this.#main.forward(x), [-1, 1]));
  }
}

/** 4×4 convolutions from one number of channels to the next. */
function weightsAlong(options: GanOptions, ends: readonly [number, number]): number {
  const inner = featureSizes(options.imageSize).map((size) => channelsAt(options, size));
  const chain = [ends[0], ...inner, ends[1]];
  return chain.slice(1).reduce((sum, c, i) => sum + 16 * c * (chain[i] ?? 0), 0);
}

/** SAGAN of transposed convolutions (system 4). */
export const sagan: GanFamily = {
  kind: 'gan',
  stages: featureSizes,
  refuse: (options) => refuseSize(options, 8) ?? refuseClasses(options, 'sagan'),
  generator: (tape, options, rng) => new Generator(tape, options, rng),
  discriminator: (tape, options, rng) => new Discriminator(tape, options, rng),
  fewestWeights: (options) => [
    weightsAlong(options, [options.latentSize, options.channels]),
    weightsAlong(options, [1, options.channels]),
  ],
};
