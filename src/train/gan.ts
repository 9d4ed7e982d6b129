import { to } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { GanFamily, Net } from '../models/gan.ts';
import { presets } from '../models/presets.ts';
import { Adam } from '../optim/adam.ts';
import { GradScaler } from '../optim/scaler.ts';
import { diffAugment, drawsOfAnImage } from '../ops/augment.ts';
import { diversity } from '../ops/diversity.ts';
import { imagesToFloat } from '../ops/images.ts';
import { add, mul } from '../ops/pointwise.ts';
import { mean } from '../ops/reduce.ts';
import { Rng } from '../ops/random.ts';
import { dim } from '../util/shape.ts';
import type { TrainConfig } from './options.ts';
import { freezeAbsent, groupsOf } from './growing.ts';
import { imageShape } from './learner.ts';
import type { Learner, StepInput } from './learner.ts';
import { losses } from './losses.ts';
import type { GanLoss } from './losses.ts';
import {
  averageOf,
  averaging,
  checkClasses,
  checkPrecision,
  descend,
  firstValues,
  insides,
} from './nets.ts';
import { penaltyOf } from './regularizers.ts';

/** A generator, its moving average, and the discriminator that it is trained against. */
export interface Gan extends Learner {
  readonly discriminator: Net;
  readonly optimizers: { readonly G: Adam; readonly D: Adam };
  readonly scalers: { readonly D: GradScaler; readonly G: GradScaler } | undefined;
  step(inputs: readonly StepInput[], batch?: number): StepValues;
}

/** The family of a config that trains a GAN. Throws for another. */
function familyOf({ preset }: TrainConfig): GanFamily {
  const { family } = presets[preset];
  if (family.kind === 'gan') return family;
  throw new Error(`${preset} is no GAN`);
}

/**
 * Builds both nets, their optimisers and the averaged generator from a config; the seed decides every bit. `blank` nets
 * hold nothing that is worth keeping, and wait for a checkpoint's values. Throws a `UserError` for f16 on a device that has
 * none.
 */
export function createGan(
  tape: Tape,
  config: TrainConfig,
  { blank = false }: { readonly blank?: boolean } = {},
): Gan {
  checkPrecision(tape.gpu, config);
  checkClasses(config);
  const half = config.precision === 'f16';
  const { first, rng } = firstValues(config, blank);
  const family = familyOf(config);
  const generator = family.generator(tape, first, rng('generator'));
  const average = averageOf(generator, config, blank);
  const discriminator = family.discriminator(tape, first, rng('other'));
  const adam = { betas: [config.beta1, config.beta2] } as const;
  const ema = new Map(average.namedParameters());
  const grouped = (net: Net) => groupsOf(net).map((params) => ({ params }));
  const G = new Adam(tape, grouped(generator), { ...adam, lr: config.lrG, ema, emaDecay: 0 });
  const D = new Adam(tape, grouped(discriminator), { ...adam, lr: config.lrD });
  const decay = averaging(G, config);
  const nets = { generator, discriminator, average };
  freezeAbsent(G, generator);
  freezeAbsent(D, discriminator);
  const gan: Gan = {
    ...{ tape, config, ...nets, modules: nets, optimizers: { G, D } },
    scalers: half ? { D: new GradScaler(tape), G: new GradScaler(tape) } : undefined,
    rng: new Rng(tape, config.seed),
    reports: reportedBy(config),
    readings: () => insides({ generator, discriminator }),
    shown: { lossD: 'D', lossG: 'G' },
    begin: (step) => {
      decay(step);
      const grown = Object.values(nets).map((net) => net.growth?.begin(step) === true);
      freezeAbsent(G, generator);
      freezeAbsent(D, discriminator);
      return grown.includes(true);
    },
    get stage() {
      return generator.growth?.text;
    },
    largestStep: generator.growth?.largest(config.steps),
    step: (inputs, batch) => ganStep(gan, inputs, batch),
  };
  return gan;
}

/** The numbers that every step reports first, in the order in which they leave the GPU; `lossD` is without any penalty. */
export const stepValues = ['lossD', 'lossG', 'dReal', 'dFake'] as const;
/** Norms of the gradients of both nets, without a loss scale. */
const normValues = ['gradNorm/D', 'gradNorm/G'] as const;
/** `penalty`: the regulariser's, before its weight. `diversity`: of the images that D was shown, as ops/diversity has it. */
const someValues = ['penalty', 'diversity'] as const;
export type StepValue = (typeof stepValues | typeof normValues | typeof someValues)[number];
export type StepValues = Readonly<
  Record<(typeof stepValues | typeof normValues)[number], Tensor>
> & { readonly [name in (typeof someValues)[number]]?: Tensor };

/** The names of what the steps of a config report: a penalty only where there is one, and no diversity of one image. */
export function reportedBy({ regularizer, batch }: TrainConfig): readonly StepValue[] {
  const there = { penalty: regularizer !== 'none', diversity: batch > 1 };
  return [...stepValues, ...someValues.filter((name) => there[name]), ...normValues];
}

/**
 * One training step: an update of the discriminator on each of `inputs`, one of the generator, each on noise and classes of
 * its own. Launches only, so it can be captured.
 */
export function ganStep(
  gan: Gan,
  inputs: readonly StepInput[],
  batch = gan.config.batch,
): StepValues {
  const { gpu } = gan.tape;
  gan.rng.begin();
  let report: DiscriminatorValues | undefined;
  for (const input of inputs) {
    const update = () => discriminatorStep(gan, input, batch);
    report = gpu.within({ scope: 'D', layer: 'loss' }, update);
  }
  if (report === undefined) throw new Error('a step needs at least one batch of images');
  const made = gpu.within({ scope: 'G', layer: 'loss' }, () => generatorStep(gan, batch));
  return { ...report, ...made };
}

type GeneratorValues = Pick<StepValues, 'lossG' | 'gradNorm/G'>;
type DiscriminatorValues = Omit<StepValues, keyof GeneratorValues>;

function discriminatorStep(gan: Gan, input: StepInput, batch: number): DiscriminatorValues {
  const { tape, config, generator, discriminator, optimizers, scalers } = gan;
  const images = tape.gpu.within({ layer: 'images' }, () => {
    const whole = imagesToFloat(input.images, imageShape(config, batch), config.precision);
    return discriminator.growth?.show(whole) ?? whole;
  });
  const realSeen = shown(gan, images);
  const real = score(gan, realSeen, input.labels);
  const { z, labels } = noise(gan, batch);
  const made = tape.noGrad(() => generator.forward(z, labels));
  const fakeSeen = shown(gan, made);
  const fake = score(gan, fakeSeen, labels);
  const loss: GanLoss = losses[config.loss];
  const lossD = loss.discriminator(real, fake, config.labelSmoothing);
  const penalty = penaltyAt(gan, { real: realSeen, fake: fakeSeen, labels: input.labels });
  const total = penalty === undefined ? lossD : add(lossD, mul(penalty, config.regularizerWeight));
  const norm = descend(optimizers.D, total, scalers?.D);
  return tape.noGrad(() => ({
    ...{ lossD, dReal: mean(real), dFake: mean(fake), 'gradNorm/D': norm },
    ...(penalty === undefined ? {} : { penalty }),
    ...(batch > 1 ? { diversity: diversity(images, made) } : {}),
  }));
}

function generatorStep(gan: Gan, batch: number): GeneratorValues {
  const { tape, config, generator, optimizers, scalers, rng } = gan;
  const { z, labels } = noise(gan, batch);
  const made = shown(gan, generator.forward(z, labels));
  const lossG = losses[config.loss].generator(score(gan, made, labels));
  const norm = descend(optimizers.G, lossG, scalers?.G);
  tape.gpu.within({ layer: 'noise' }, () => {
    rng.advance();
  });
  return { lossG, 'gradNorm/G': norm };
}

/**
 * The regulariser's penalty on the discriminator, at images as it saw them. Slopes of slopes would leave f16's range, so its pass through the
 * discriminator is f32 whatever the others are.
 */
function penaltyAt(
  { tape, config, discriminator, rng }: Gan,
  at: { readonly real: Tensor; readonly fake: Tensor; readonly labels: Tensor | undefined },
): Tensor | undefined {
  const score = (images: Tensor) => discriminator.forward(images, at.labels);
  return tape.gpu.within({ layer: 'penalty' }, () =>
    penaltyOf(config.regularizer, {
      ...{ score, rng, real: to(at.real, 'f32'), fake: to(at.fake, 'f32') },
    }),
  );
}

/** Images as the discriminator is to see them: augmented, each by numbers of its own, where a config says so. */
function shown({ tape, config, rng }: Gan, images: Tensor): Tensor {
  if (config.augment.length === 0) return images;
  return tape.gpu.within({ layer: 'augment' }, () => {
    const u = rng.uniform([dim(images.shape, 0), drawsOfAnImage]);
    return diffAugment(images, u, config.augment);
  });
}

/** The discriminator's scores, in f32 whatever it computes in: losses are never f16. */
function score({ discriminator }: Gan, images: Tensor, labels: Tensor | undefined): Tensor {
  return to(discriminator.forward(images, labels), 'f32');
}

/** Noise in the float type that the nets compute in, and classes drawn evenly where they are told any. */
function noise({ tape, config, rng }: Gan, batch: number) {
  const { latentSize, precision, conditional, classes } = config;
  return tape.gpu.within({ layer: 'noise' }, () => ({
    z: to(rng.normal([batch, latentSize]), precision),
    labels: conditional ? rng.int([batch], classes) : undefined,
  }));
}
