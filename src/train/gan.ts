import { to } from '../autograd/cast.ts';
import { grad } from '../autograd/tape.ts';
import type { Tape } from '../autograd/tape.ts';
import { empty, tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Net } from '../models/gan.ts';
import { ganPresets } from '../models/presets.ts';
import { Adam } from '../optim/adam.ts';
import { GradScaler } from '../optim/scaler.ts';
import { copyInto } from '../ops/copy.ts';
import { imagesToFloat } from '../ops/images.ts';
import { add, mul } from '../ops/pointwise.ts';
import { mean } from '../ops/reduce.ts';
import { Rng } from '../ops/random.ts';
import { UserError } from '../util/errors.ts';
import { HostRng } from '../util/philox.ts';
import { sizeOf } from '../util/shape.ts';
import type { TrainConfig } from './config.ts';
import { losses } from './losses.ts';
import type { GanLoss } from './losses.ts';
import { penaltyOf } from './regularizers.ts';

/** Everything that training moves: what a checkpoint holds. */
export interface Gan {
  readonly tape: Tape;
  readonly config: TrainConfig;
  readonly generator: Net;
  readonly discriminator: Net;
  /** A generator whose parameters are the moving average of the first one's. */
  readonly average: Net;
  readonly optimizerG: Adam;
  readonly optimizerD: Adam;
  /** Loss scales, where the nets compute in f16. */
  readonly scalers: { readonly G: GradScaler; readonly D: GradScaler } | undefined;
  readonly rng: Rng;
}

/** Streams of the host's random numbers: what each is for. */
const stream = { generator: [1, 0], discriminator: [2, 0] } as const;

/** The first values of weights that are about to be replaced: drawing and orthogonalising real ones can take minutes. */
class NoRng extends HostRng {
  override word(): number {
    return 2 ** 31;
  }
}

/** A generator that waits for the values of another, or of a file. */
export function blankGenerator(tape: Tape, config: TrainConfig): Net {
  const { family } = ganPresets[config.preset];
  return family.generator(tape, { ...config, init: 'default' }, new NoRng(0));
}

/** A discriminator that waits for the values of a file. */
export function blankDiscriminator(tape: Tape, config: TrainConfig): Net {
  const { family } = ganPresets[config.preset];
  return family.discriminator(tape, { ...config, init: 'default' }, new NoRng(0));
}

/** Throws a `UserError` for f16 on a device that has none. */
export function checkPrecision({ adapter, features }: Gpu, { precision }: TrainConfig): void {
  if (precision !== 'f16' || features.has('shader-f16')) return;
  throw new UserError(
    `--precision f16 needs the feature shader-f16, which ${adapter.name} has not`,
  );
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
  if (config.conditional && config.classes === 0) {
    throw new UserError('--conditional needs to know how many classes there are: give --classes');
  }
  const half = config.precision === 'f16';
  const host = (which: keyof typeof stream) =>
    blank ? new NoRng(0) : new HostRng(config.seed, { stream: stream[which] });
  const first = blank ? { ...config, init: 'default' as const } : config;
  const { family } = ganPresets[config.preset];
  const generator = family.generator(tape, first, host('generator'));
  const average = blankGenerator(tape, config);
  if (!blank) {
    const own = average.stateDict();
    for (const [name, value] of generator.stateDict()) {
      const target = own.get(name);
      if (target !== undefined) copyInto(target, value);
    }
  }
  const discriminator = family.discriminator(tape, first, host('discriminator'));
  const adam = { betas: [config.beta1, config.beta2] } as const;
  const ema = new Map(average.namedParameters());
  const optimizerG = new Adam(tape, [
    { params: generator.namedParameters(), ...adam, lr: config.lrG, ema, emaDecay: 0 },
  ]);
  const optimizerD = new Adam(tape, [
    { params: discriminator.namedParameters(), ...adam, lr: config.lrD },
  ]);
  const scalers = half ? { G: new GradScaler(tape), D: new GradScaler(tape) } : undefined;
  const rng = new Rng(tape, config.seed);
  const nets = { generator, discriminator, average };
  return { tape, config, ...nets, optimizerG, optimizerD, scalers, rng };
}

/** What an update of D is given from outside. */
export interface StepInput {
  /** A batch of uint8 images [batch, channels, size, size], four to a u32 word. */
  readonly images: Tensor;
  /** Their classes (batch) u32, where the nets are told them. */
  readonly labels: Tensor | undefined;
}

/** u32 words that hold a batch of uint8 images. */
export function imageWords(config: TrainConfig, batch: number): number {
  return Math.ceil(sizeOf([batch, config.channels, config.imageSize, config.imageSize]) / 4);
}

/** The inputs of a step's updates of D, black images of class 0; `empty`: promises of them, for a step that is only traced. */
export function stepInputs(
  { tape, config }: Gan,
  { batch = config.batch, empty: promised = false }: { batch?: number; empty?: boolean } = {},
): StepInput[] {
  const make = (n: number, label: string) =>
    promised
      ? empty(tape, [n], { dtype: 'u32', label })
      : tensor(tape, new Uint32Array(n), [n], { label });
  return Array.from({ length: config.dSteps }, (_u, i) => ({
    images: make(imageWords(config, batch), `images ${i}`),
    labels: config.conditional ? make(batch, `labels ${i}`) : undefined,
  }));
}

/** The numbers that every step reports, in the order in which they leave the GPU; `lossD` is without any penalty. */
export const stepValues = ['lossD', 'lossG', 'dReal', 'dFake'] as const;
export type StepValue = (typeof stepValues)[number] | 'penalty';
/** `penalty`: the regulariser's, before its weight. */
export type StepValues = Readonly<Record<(typeof stepValues)[number], Tensor>> & {
  readonly penalty?: Tensor;
};

/** The names of what the steps of a config report: those of every step, then the penalty where there is one. */
export function reportedBy({ regularizer }: TrainConfig): readonly StepValue[] {
  return regularizer === 'none' ? stepValues : [...stepValues, 'penalty'];
}

/**
 * What a step shows, in the order in which it leaves the GPU: what it reports, then the loss scales of D and G if there
 * are any.
 */
export function watchedOf(gan: Gan, values: StepValues): Tensor['storage'][] {
  const scales = gan.scalers === undefined ? [] : [gan.scalers.D, gan.scalers.G];
  return [
    ...reportedBy(gan.config).flatMap((name) => values[name]?.storage ?? []),
    ...scales.map(({ state }) => state.storage),
  ];
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
  let report: Omit<StepValues, 'lossG'> | undefined;
  for (const input of inputs) {
    const update = () => discriminatorStep(gan, input, batch);
    report = gpu.within({ scope: 'D', layer: 'loss' }, update);
  }
  if (report === undefined) throw new Error('a step needs at least one batch of images');
  const lossG = gpu.within({ scope: 'G', layer: 'loss' }, () => generatorStep(gan, batch));
  return { ...report, lossG };
}

function discriminatorStep(gan: Gan, input: StepInput, batch: number): Omit<StepValues, 'lossG'> {
  const { tape, config, generator, optimizerD, scalers } = gan;
  const { channels, imageSize, precision } = config;
  const images = tape.gpu.within({ layer: 'images' }, () =>
    imagesToFloat(input.images, [batch, channels, imageSize, imageSize], precision),
  );
  const real = score(gan, images, input.labels);
  const { z, labels } = noise(gan, batch);
  const made = tape.noGrad(() => generator.forward(z, labels));
  const fake = score(gan, made, labels);
  const loss: GanLoss = losses[config.loss];
  const lossD = loss.discriminator(real, fake, config.labelSmoothing);
  const penalty = penaltyAt(gan, { real: images, fake: made, labels: input.labels });
  const total = penalty === undefined ? lossD : add(lossD, mul(penalty, config.regularizerWeight));
  descend(optimizerD, total, scalers?.D);
  const report = tape.noGrad(() => ({ lossD, dReal: mean(real), dFake: mean(fake) }));
  return penalty === undefined ? report : { ...report, penalty };
}

function generatorStep(gan: Gan, batch: number): Tensor {
  const { tape, config, generator, optimizerG, scalers, rng } = gan;
  const { z, labels } = noise(gan, batch);
  const lossG = losses[config.loss].generator(score(gan, generator.forward(z, labels), labels));
  descend(optimizerG, lossG, scalers?.G);
  tape.gpu.within({ layer: 'noise' }, () => {
    rng.advance();
  });
  return lossG;
}

/**
 * The regulariser's penalty on the discriminator. Slopes of slopes would leave f16's range, so its pass through the
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

/** The discriminator's scores, in f32 whatever it computes in: losses are never f16. */
function score({ discriminator }: Gan, images: Tensor, labels: Tensor | undefined): Tensor {
  return to(discriminator.forward(images, labels), 'f32');
}

/** Moves an optimiser's parameters by the gradient of a loss. */
function descend(optimizer: Adam, loss: Tensor, scaler: GradScaler | undefined): void {
  const seed = scaler === undefined ? {} : { gradOutputs: [scaler.scale] };
  optimizer.step(grad([loss], optimizer.parameters(), seed), { scaler });
  scaler?.update();
}

/** Noise in the float type that the nets compute in, and classes drawn evenly where they are told any. */
function noise({ tape, config, rng }: Gan, batch: number) {
  const { latentSize, precision, conditional, classes } = config;
  return tape.gpu.within({ layer: 'noise' }, () => ({
    z: to(rng.normal([batch, latentSize]), precision),
    labels: conditional ? rng.int([batch], classes) : undefined,
  }));
}

/** Decay of the averaged weights for the step about to run: 0 (a copy) until averaging begins. */
export function emaDecayAt(config: TrainConfig, step: number): number {
  return step < config.emaStart ? 0 : config.emaDecay;
}
