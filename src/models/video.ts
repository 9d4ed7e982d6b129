import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { LeakyReLU, ReLU, Tanh } from '../nn/activation.ts';
import { attentionOf } from '../nn/attention-kinds.ts';
import { OverTime, PerFrame } from '../nn/clips.ts';
import { Conv2d, ConvTranspose2d } from '../nn/conv.ts';
import { initialisers } from '../nn/init.ts';
import { Layer, Sequential } from '../nn/module.ts';
import { BatchNorm2d } from '../nn/norm.ts';
import { SpaceTimeAttention } from '../nn/space-time.ts';
import { Spectra } from '../nn/spectra.ts';
import { spectralNorm } from '../nn/weighted.ts';
import { reshape } from '../ops/layout.ts';
import type { HostRng } from '../util/philox.ts';
import type { GanFamily, GanOptions } from './gan.ts';
import { channelsAt, featureSizes, refuseClasses, refuseSize } from './sizes.ts';

export const videoPresets = {
  /** Trains to moving shapes in minutes on two CPU cores. */
  'video-32-tiny': {
    imageSize: 32,
    frames: 8,
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
  'video-32': {
    imageSize: 32,
    frames: 16,
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
} as const satisfies Record<string, GanOptions>;

/** Frames at a feature size: 2 at 4×4, doubled with the size until all are there. */
function framesAt({ frames = 1 }: GanOptions, size: number): number {
  return Math.min(frames, size / 2);
}

/** The corner of a clip from which the generator grows and at which the discriminator ends: 2 frames of 4×4. */
const corner = { frames: 2, size: 4 } as const;
const inSpace = { kernelSize: 4, stride: 2, padding: 1 } as const;
/** Over time, where the number of frames stays; and where it is halved, or doubled by the transposed convolution. */
const mixing = { kernelSize: [3, 1], padding: [1, 0] } as const;
const resizing = { kernelSize: [4, 1], stride: [2, 1], padding: [1, 0] } as const;

/**
 * z (N, latent) → clip (N, channels, T, S, S) in [−1, 1]:
 * z → ConvT 2×4×4 → 2 frames of 4×4 → BN → ReLU · [over time: ConvT 4, stride 2, or Conv 3 → BN → ReLU · per frame: ConvT 4×4,
 * stride 2 → BN → ReLU → attention where asked]… → over time · per frame: ConvT 4×4, stride 2 → tanh.
 * The convolutions in space-time of VGAN (Vondrick et al. 2016), each in two factors as R(2+1)D (Tran et al. 2018); every one
 * but the last is spectrally normalised, as SAGAN's.
 */
export class VideoGenerator extends Layer {
  readonly #first: Sequential;
  readonly #main: Sequential;
  readonly spectra: Spectra;
  readonly #latentSize: number;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { latentSize, channels, imageSize, attentionG } = options;
    this.#latentSize = latentSize;
    const weights = { rng, init: initialisers[options.init] };
    const normal = (conv: Conv2d | ConvTranspose2d) => spectralNorm(conv, { rng });
    const active = (c: number) => [new BatchNorm2d(tape, c), new ReLU(tape)];
    const overTime = (c: number, size: number) => {
      const doubled = framesAt(options, size) > framesAt(options, size / 2);
      const conv = doubled
        ? new ConvTranspose2d(tape, c, c, { ...weights, ...resizing })
        : new Conv2d(tape, c, c, { ...weights, ...mixing });
      return new OverTime(tape, [normal(conv), ...active(c)]);
    };
    const perFrame = (from: number, to: number) =>
      new ConvTranspose2d(tape, from, to, { ...weights, ...inSpace });
    const attend = (c: number) =>
      attentionOf(options, tape, c, { ...weights, spectral: true }).map(
        (block) => new SpaceTimeAttention(tape, block),
      );

    const [smallest = corner.size, ...others] = featureSizes(imageSize);
    const widest = channelsAt(options, smallest);
    const whole = { ...weights, kernelSize: [corner.frames, corner.size ** 2] } as const;
    const seed = normal(new ConvTranspose2d(tape, latentSize, widest, whole));
    this.#first = this.child('first', new Sequential(tape, [seed, ...active(widest)]));
    const layers: Layer[] = attentionG.includes(smallest) ? attend(widest) : [];
    let from = widest;
    for (const size of others) {
      const to = channelsAt(options, size);
      const grown = new PerFrame(tape, [normal(perFrame(from, to)), ...active(to)]);
      layers.push(overTime(from, size), grown);
      if (attentionG.includes(size)) layers.push(...attend(to));
      from = to;
    }
    const last = new PerFrame(tape, [perFrame(from, channels), new Tanh(tape)]);
    layers.push(overTime(from, imageSize), last);
    this.#main = this.child('main', new Sequential(tape, layers));
    this.spectra = new Spectra(this);
  }

  override forward(z: Tensor): Tensor {
    const { frames, size } = corner;
    return this.spectra.during(z, () => {
      const first = this.#first.forward(reshape(z, [-1, this.#latentSize, 1, 1]));
      const [N = 1, C = 1] = first.shape;
      return this.#main.forward(reshape(first, [N, C, frames, size, size]));
    });
  }
}

/**
 * clip (N, channels, T, S, S) → score (N, 1), no sigmoid: [per frame: Conv 4×4, stride 2 → LeakyReLU · over time: Conv 4,
 * stride 2, or 3 → LeakyReLU → attention where asked]… → 2 frames of 4×4 → Conv 2×4×4. No batch norm.
 */
export class VideoDiscriminator extends Layer {
  readonly #main: Sequential;
  readonly #score: Conv2d;
  readonly spectra: Spectra;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { attentionD, slope } = options;
    const weights = { rng, init: initialisers[options.init] };
    const conv = (
      from: number,
      to: number,
      shape: typeof inSpace | typeof mixing | typeof resizing,
    ) => [
      spectralNorm(new Conv2d(tape, from, to, { ...weights, ...shape }), { rng }),
      new LeakyReLU(tape, slope),
    ];
    const layers: Layer[] = [];
    let from: number = options.channels;
    for (const size of featureSizes(options.imageSize).reverse()) {
      const to = channelsAt(options, size);
      const halved = framesAt(options, size) < framesAt(options, 2 * size);
      layers.push(
        new PerFrame(tape, conv(from, to, inSpace)),
        new OverTime(tape, conv(to, to, halved ? resizing : mixing)),
      );
      if (attentionD.includes(size)) {
        const blocks = attentionOf(options, tape, to, { ...weights, spectral: true });
        layers.push(...blocks.map((block) => new SpaceTimeAttention(tape, block)));
      }
      from = to;
    }
    this.#main = this.child('main', new Sequential(tape, layers));
    const whole = { ...weights, kernelSize: [corner.frames, corner.size ** 2] } as const;
    this.#score = this.child('score', spectralNorm(new Conv2d(tape, from, 1, whole), { rng }));
    this.spectra = new Spectra(this);
  }

  override forward(x: Tensor): Tensor {
    return this.spectra.during(x, () => {
      const features = this.#main.forward(x);
      const [N = 1, C = 1, T = 1] = features.shape;
      return reshape(this.#score.forward(reshape(features, [N, C, T, -1])), [N, 1]);
    });
  }
}

/** Convolutions of 4×4 from one number of channels to the next, and of 3 frames within each. */
function weightsAlong(options: GanOptions, colours: number): number {
  const chain = [...featureSizes(options.imageSize).map((s) => channelsAt(options, s)), colours];
  return chain.slice(1).reduce((n, c, i) => {
    const wide = chain[i] ?? 0;
    return n + 16 * wide * c + 3 * wide ** 2;
  }, 0);
}

/** A GAN of clips, with attention over space and time (system 18). */
export const video: GanFamily = {
  kind: 'gan',
  clips: true,
  stages: featureSizes,
  refuse: (options) => {
    const { imageSize, frames = 1, attention } = options;
    const ofImages = refuseSize(options, 8);
    if (ofImages !== undefined) return ofImages;
    if (frames < 2 || frames > imageSize / 2 || !Number.isInteger(Math.log2(frames))) {
      return `--frames ${frames} is impossible: it must be a power of two from 2 to ${imageSize / 2}, half the image size`;
    }
    if (attention === 'gate') {
      return '--attention gate is made of 3×3 convolutions, which would run from frame to frame: it is for stills';
    }
    return refuseClasses(options, 'video');
  },
  generator: (tape, options, rng) => new VideoGenerator(tape, options, rng),
  discriminator: (tape, options, rng) => new VideoDiscriminator(tape, options, rng),
  fewestWeights: (options) => {
    const [widest = 0] = featureSizes(options.imageSize).map((s) => channelsAt(options, s));
    const inner = weightsAlong(options, options.channels);
    return [inner + 32 * options.latentSize * widest, inner + 32 * widest];
  },
};
