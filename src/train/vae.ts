import { to } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Net } from '../models/gan.ts';
import { presets } from '../models/presets.ts';
import type { VaeDecoder, VaeFamily } from '../models/vae.ts';
import { Adam } from '../optim/adam.ts';
import { GradScaler } from '../optim/scaler.ts';
import { imagesToFloat } from '../ops/images.ts';
import { slice } from '../ops/layout.ts';
import { add, affine, exp, mul } from '../ops/pointwise.ts';
import { Rng } from '../ops/random.ts';
import { sum } from '../ops/reduce.ts';
import { dim } from '../util/shape.ts';
import type { TrainConfig } from './options.ts';
import { imageShape } from './learner.ts';
import type { Learner, StepInput } from './learner.ts';
import {
  averageOf,
  averaging,
  checkClasses,
  checkPrecision,
  descend,
  firstValues,
  insides,
} from './nets.ts';
import { divergence, reconstructions } from './vae-losses.ts';

/** An encoder, the decoder that it is trained with, which is the generator, and the decoder's moving average. */
export interface Vae extends Learner {
  readonly encoder: Net;
  readonly generator: VaeDecoder;
  readonly optimizers: { readonly G: Adam };
  readonly scalers: { readonly G: GradScaler } | undefined;
  step(inputs: readonly StepInput[], batch?: number): VaeStepValues;
}

/** The numbers that every step reports: `loss` is reconstruction + klWeight·kl; `gradNorm/G` is of both nets' gradients. */
export const vaeStepValues = ['loss', 'reconstruction', 'kl', 'gradNorm/G'] as const;
export type VaeStepValues = Readonly<Record<(typeof vaeStepValues)[number], Tensor>>;

/** The family of a config that trains a VAE. Throws for another. */
function familyOf({ preset }: TrainConfig): VaeFamily {
  const { family } = presets[preset];
  if (family.kind === 'vae') return family;
  throw new Error(`${preset} is no VAE`);
}

/**
 * Builds both nets, their one optimiser and the averaged decoder from a config; the seed decides every bit. `blank` as in
 * `createLearner`. Throws a `UserError` for f16 on a device that has none.
 */
export function createVae(
  tape: Tape,
  config: TrainConfig,
  { blank = false }: { readonly blank?: boolean } = {},
): Vae {
  checkPrecision(tape.gpu, config);
  checkClasses(config);
  const { first, rng } = firstValues(config, blank);
  const family = familyOf(config);
  const generator = family.generator(tape, first, rng('generator'));
  const average = averageOf(generator, config, blank);
  const encoder = family.encoder(tape, first, rng('other'));
  const ema = new Map(average.namedParameters());
  const { lrG: lr, beta1, beta2 } = config;
  const G = new Adam(
    tape,
    [
      { params: generator.namedParameters(), ema, emaDecay: 0 },
      { params: encoder.namedParameters() },
    ],
    { lr, betas: [beta1, beta2] },
  );
  const nets = { generator, encoder, average };
  const vae: Vae = {
    ...{ tape, config, ...nets, modules: nets, optimizers: { G } },
    scalers: config.precision === 'f16' ? { G: new GradScaler(tape) } : undefined,
    rng: new Rng(tape, config.seed),
    reports: vaeStepValues,
    readings: () => insides({ generator, encoder }),
    shown: { loss: 'loss', reconstruction: 'rec', kl: 'KL' },
    begin: averaging(G, config),
    step: ([input], batch) => {
      if (input === undefined) throw new Error('a step needs a batch of images');
      return vaeStep(vae, input, batch);
    },
    reconstruct: (input, batch) => reconstruct(vae, input, batch),
  };
  return vae;
}

/** One update of both nets. Losses are f32 whatever the nets compute in. Launches only, so it can be captured. */
export function vaeStep(vae: Vae, input: StepInput, batch = vae.config.batch): VaeStepValues {
  const { tape, config, rng, optimizers, scalers } = vae;
  return tape.gpu.within({ scope: 'VAE', layer: 'loss' }, () => {
    rng.begin();
    const noise = tape.gpu.within({ layer: 'noise' }, () => rng.normal([batch, config.latentSize]));
    const values = lossesOf(vae, imagesOf(vae, input, batch), { noise, labels: input.labels });
    const norm = descend(optimizers.G, values.loss, scalers?.G);
    tape.gpu.within({ layer: 'noise' }, () => {
      rng.advance();
    });
    return { ...values, 'gradNorm/G': norm };
  });
}

/**
 * The losses of images (batch, C, S, S) f32, by way of z = μ + σ·noise (Kingma & Welling 2014, §2.4):
 *   loss = reconstruction + klWeight · KL(q(z|x) ‖ N(0, 1)),
 * both of them sums over an image and means over the batch.
 */
export function lossesOf(
  vae: Vae,
  images: Tensor,
  { noise, labels }: { readonly noise: Tensor; readonly labels: Tensor | undefined },
): Omit<VaeStepValues, 'gradNorm/G'> {
  const { precision, klWeight, reconstruction: chosen } = vae.config;
  const { mean, logVar } = momentsOf(vae, to(images, precision), labels);
  const z = add(mean, mul(exp(affine(logVar, 0.5, 0)), noise));
  const logits = to(vae.generator.logits(to(z, precision), labels), 'f32');
  const pixels = reconstructions[chosen](images, logits);
  const reconstruction = affine(sum(pixels), 1 / dim(images.shape, 0), 0);
  const kl = divergence(mean, logVar);
  return { loss: add(reconstruction, mul(kl, klWeight)), reconstruction, kl };
}

/** Images by way of the means of their latents: no noise, nothing is trained, and all of it in f32. */
function reconstruct(vae: Vae, input: StepInput, batch: number): Tensor {
  return vae.tape.noGrad(() => {
    const { mean } = momentsOf(vae, imagesOf(vae, input, batch), input.labels);
    return vae.generator.forward(mean, input.labels);
  });
}

/** The images of a batch in f32. */
function imagesOf({ tape, config }: Vae, { images }: StepInput, batch: number): Tensor {
  return tape.gpu.within({ layer: 'images' }, () =>
    imagesToFloat(images, imageShape(config, batch)),
  );
}

/** Means and logarithms of the variances of q(z|x), (N, latent) in f32 whatever the encoder computes in. */
function momentsOf({ config, encoder }: Vae, images: Tensor, labels: Tensor | undefined) {
  const { latentSize } = config;
  const moments = to(encoder.forward(images, labels), 'f32');
  return {
    mean: slice(moments, 1, 0, latentSize),
    logVar: slice(moments, 1, latentSize, latentSize),
  };
}
