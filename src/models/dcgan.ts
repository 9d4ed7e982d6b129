import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { LeakyReLU, Tanh } from '../nn/activation.ts';
import { attentionOf } from '../nn/attention-kinds.ts';
import { Conv2d, ConvTranspose2d } from '../nn/conv.ts';
import { initialisers } from '../nn/init.ts';
import { Linear } from '../nn/linear.ts';
import { Layer, Sequential } from '../nn/module.ts';
import { BatchNorm2d } from '../nn/norm.ts';
import { reshape } from '../ops/layout.ts';
import type { HostRng } from '../util/philox.ts';
import type { GanFamily, GanOptions } from './gan.ts';
import { channelsAt, featureSizes, refuseClasses, refuseSize } from './sizes.ts';

export const dcganPresets = {
  /** Seed 000's nets, with one stage more in the generator, so that both are of the same image size. */
  'dcgan-attention': {
    imageSize: 32,
    channels: 3,
    latentSize: 100,
    width: 64,
    attention: 'plain',
    attentionG: [4],
    attentionD: [16],
    init: 'default',
    slope: 0.2,
    conditional: false,
    classes: 0,
  },
} as const satisfies Record<string, GanOptions>;

const halve = { kernelSize: 4, stride: 2, padding: 1 };

/**
 * z (N, latent) → image (N, channels, S, S) in [−1, 1]:
 * z → Linear → (the reshape that the seed forgot) 4×4 → LeakyReLU → BN · [attention where asked → ConvT 4, stride 2 →
 * LeakyReLU → BN]… → ConvT 4, stride 2 → tanh. No spectral norm.
 */
export class DcganGenerator extends Layer {
  readonly #project: Linear;
  readonly #main: Sequential;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { latentSize, channels, slope, attentionG } = options;
    const weights = { rng, init: initialisers[options.init] };
    const sizes = featureSizes(options.imageSize);
    const widest = channelsAt(options, 4);
    this.#project = this.child('project', new Linear(tape, latentSize, 16 * widest, weights));
    const layers = sizes.flatMap((size): Layer[] => {
      const from = channelsAt(options, size);
      const block = attentionG.includes(size) ? attentionOf(options, tape, from, weights) : [];
      const activated = [new LeakyReLU(tape, slope), new BatchNorm2d(tape, from), ...block];
      const to = size === sizes.at(-1) ? channels : from / 2;
      return [...activated, new ConvTranspose2d(tape, from, to, { ...weights, ...halve })];
    });
    this.#main = this.child('main', new Sequential(tape, [...layers, new Tanh(tape)]));
  }

  override forward(z: Tensor): Tensor {
    return this.#main.forward(reshape(this.#project.forward(z), [z.shape[0] ?? 1, -1, 4, 4]));
  }
}

/**
 * image (N, channels, S, S) → logit (N, 1): [Conv 4, stride 2 → LeakyReLU → BN but in the first → attention where asked]… →
 * 4×4 → Conv 4×4. The seed's sigmoid is the loss's (`bce`), which is stable from the logit.
 */
export class DcganDiscriminator extends Layer {
  readonly #main: Sequential;

  constructor(tape: Tape, options: GanOptions, rng: HostRng) {
    super(tape);
    const { channels, slope, attentionD } = options;
    const weights = { rng, init: initialisers[options.init] };
    const sizes = featureSizes(options.imageSize).reverse();
    const layers = sizes.flatMap((size, i): Layer[] => {
      const from = i === 0 ? channels : channelsAt(options, 2 * size);
      const to = channelsAt(options, size);
      return [
        new Conv2d(tape, from, to, { ...weights, ...halve }),
        new LeakyReLU(tape, slope),
        ...(i === 0 ? [] : [new BatchNorm2d(tape, to)]),
        ...(attentionD.includes(size) ? attentionOf(options, tape, to, weights) : []),
      ];
    });
    const last = new Conv2d(tape, channelsAt(options, 4), 1, { ...weights, kernelSize: 4 });
    this.#main = this.child('main', new Sequential(tape, [...layers, last]));
  }

  override forward(x: Tensor): Tensor {
    return reshape(this.#main.forward(x), [-1, 1]);
  }
}

/** DCGAN with attention (system 3; Radford et al. 2016, seed 000). */
export const dcgan: GanFamily = {
  kind: 'gan',
  stages: featureSizes,
  refuse: (options) => refuseSize(options, 8) ?? refuseClasses(options, 'dcgan'),
  generator: (tape, options, rng) => new DcganGenerator(tape, options, rng),
  discriminator: (tape, options, rng) => new DcganDiscriminator(tape, options, rng),
  fewestWeights: (options) => {
    const chain = featureSizes(options.imageSize).map((size) => channelsAt(options, size));
    const inner = chain.slice(1).reduce((sum, c, i) => sum + 16 * c * (chain[i] ?? 0), 0);
    const [widest = 0] = chain;
    return [inner + 16 * options.latentSize * widest, inner + 16 * widest];
  },
};
