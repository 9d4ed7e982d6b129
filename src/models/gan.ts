import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { AttentionKind } from '../nn/attention-kinds.ts';
import type { InitName } from '../nn/init.ts';
import type { Layer } from '../nn/module.ts';
import type { Spectra } from '../nn/spectra.ts';
import type { HostRng } from '../util/philox.ts';
import type { Growth } from './growth.ts';

/** What decides the shape of a GAN's two nets, whatever their family; of a VAE's likewise: its decoder is a generator. */
export interface GanOptions {
  /** Side of the images in pixels. */
  readonly imageSize: number;
  /** Frames of a clip, for a family of clips; 1 or left out for stills. */
  readonly frames?: number;
  /** 1 grey, 3 colour. */
  readonly channels: 1 | 3;
  readonly latentSize: number;
  /** Channels at the widest stage of the images; each family says how they grow. */
  readonly width: number;
  /** Which attention block, and at which feature sizes (pixels a side) of each net: `attentionG` the generator's. */
  readonly attention: AttentionKind;
  /** Heads of multihead, and the positions that each one looks at in topk; the blocks have their own defaults. */
  readonly heads?: number;
  readonly topk?: number;
  readonly attentionG: readonly number[];
  readonly attentionD: readonly number[];
  readonly init: InitName;
  /** LeakyReLU's slope in the discriminator or in both nets, where the family has one. */
  readonly slope: number;
  /** Both nets are told classes, so many: found in the data, 0 before that. */
  readonly conditional: boolean;
  readonly classes: number;
  /** Of nets that grow: steps that a new stage fades in, and then stays. */
  readonly stageSteps?: number | undefined;
}

/**
 * A generator, z (N, latent) → images (N, channels, S, S) or clips (N, channels, T, S, S) in [−1, 1], or a discriminator, those →
 * scores (N, 1).
 */
export interface Net extends Layer {
  /** Of a net that grows while it trains: its stage. */
  readonly growth?: Growth;
  /** Of a net with spectral norms. */
  readonly spectra?: Spectra;
  /** `labels` (N) u32, for nets that are told classes. */
  forward(x: Tensor, labels?: Tensor): Tensor;
}

/** One architecture in all its sizes: a generator, and the net that it is trained with. */
export interface Family {
  /** Its images are clips of several frames. Default false. */
  readonly clips?: boolean;
  /** Feature sizes at which the nets may have attention, smallest first. */
  stages(imageSize: number): number[];
  /** What is impossible about the options, in words; undefined for nothing. */
  refuse(options: GanOptions): string | undefined;
  generator(tape: Tape, options: GanOptions, rng: HostRng): Net;
  /** Weights of the large layers of the generator and of the other net: a bound from below, found without making them. */
  fewestWeights(options: GanOptions): readonly [generator: number, other: number];
  /** Of nets that grow: the training steps that they are made for. */
  steps?(options: GanOptions): number;
}

/** A family whose generator is trained against a discriminator. */
export interface GanFamily extends Family {
  readonly kind: 'gan';
  discriminator(tape: Tape, options: GanOptions, rng: HostRng): Net;
}
