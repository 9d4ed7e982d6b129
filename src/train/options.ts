import { z } from 'zod';
import { resizeNames } from '../data/decode.ts';
import { presetNames } from '../models/presets.ts';
import type { PresetName } from '../models/presets.ts';
import { attentionKindNames } from '../nn/attention-kinds.ts';
import { initialisers } from '../nn/init.ts';
import type { InitName } from '../nn/init.ts';
import { augmentations } from '../ops/augment.ts';
import { lossNames } from './losses.ts';
import { regularizerNames } from './regularizers.ts';
import { reconstructionNames } from './vae-losses.ts';

const initNames = Object.keys(initialisers) as [InitName, ...InitName[]];

const count = z.int().min(1);
const rate = z.number().positive();
const sizes = z.array(z.int().min(1));
/** All of a step is one submission, and a driver takes only so many launches in one. */
const mostDSteps = 100;

/**
 * Every option of a run, with its help text. One vocabulary: `imageSize` here is `image-size` in a config file and
 * `--image-size` on the command line.
 */
export const configSchema = z.strictObject({
  data: z
    .string()
    .min(1)
    .describe(
      'folder, zip or tar of images, IDX or CIFAR folder, .npz, .npy, fashion-mnist, avatars or moving-shapes',
    ),
  preset: z.enum(presetNames).describe(`architecture: ${presetNames.join(', ')}`),
  steps: count.describe('training steps in all'),
  batch: count.describe('images a step'),
  seed: z.int().min(0).describe('seed of weights, noise and data order'),
  imageSize: z.int().describe('side of the images in pixels, a power of two'),
  channels: z.literal([1, 3]).describe('1 grey, 3 colour'),
  frames: count.max(256).describe('frames of a clip, a power of two; 1 for presets of stills'),
  latentSize: count.max(16_384).describe('length of the noise vector'),
  width: count.max(4096).describe('channels at half the image size'),
  attention: z.enum(attentionKindNames).describe(`block: ${attentionKindNames.join(', ')}`),
  attentionAt: sizes.optional().describe('feature sizes with attention in both nets, as 16,32'),
  attentionG: sizes.describe('feature sizes with attention in the generator or decoder'),
  attentionD: sizes.describe('feature sizes with attention in the discriminator or encoder'),
  heads: count.describe('heads of multihead attention; they divide the width'),
  topk: count.max(64).describe('positions that each one looks at in topk attention'),
  conditional: z.boolean().describe('tell both nets the classes of the images'),
  classes: z.int().min(0).describe('how many classes those are; found in the data'),
  stageSteps: count
    .optional()
    .describe('steps that each new stage of a progressive preset fades in, and then stays'),
  init: z.enum(initNames).describe(`first weights: ${initNames.join(', ')}`),
  slope: z.number().min(0).max(1).describe("LeakyReLU's slope in the discriminator, or in a VAE"),
  precision: z
    .enum(['f32', 'f16'])
    .describe('f32, or f16 for activations and copies of weights: sums and weights stay f32'),
  loss: z.enum(lossNames).describe(`adversarial loss: ${lossNames.join(', ')}`),
  labelSmoothing: z.number().min(0).max(0.5).describe('label of real images below 1, for bce'),
  regularizer: z
    .enum(regularizerNames)
    .describe(`penalty on the discriminator's slope: ${regularizerNames.join(', ')}`),
  regularizerWeight: z.number().min(0).describe('factor of that penalty'),
  augment: z
    .array(z.enum(augmentations))
    .describe(`what the discriminator's images go through: ${augmentations.join(', ')}`),
  reconstruction: z
    .enum(reconstructionNames)
    .describe(`a VAE's loss of a pixel: ${reconstructionNames.join(', ')}`),
  klWeight: z.number().min(0).describe('factor of the divergence in the loss of a VAE'),
  lrG: rate.describe("learning rate of the generator, or of a VAE's nets"),
  lrD: rate.describe("discriminator's learning rate"),
  beta1: z.number().min(0).lt(1).describe("Adam's first decay"),
  beta2: z.number().min(0).lt(1).describe("Adam's second decay"),
  dSteps: count.max(mostDSteps).describe('discriminator steps for each generator step'),
  emaDecay: z.number().min(0).lt(1).describe("decay of the generator's averaged weights"),
  emaStart: z.int().min(0).describe('step at which averaging begins'),
  resize: z
    .enum(resizeNames)
    .describe('how an image becomes a square: cover scales and crops it, crop cuts its centre out'),
  flip: z.boolean().describe('mirror half of the images'),
  balanced: z.boolean().describe('show each class as often as any other'),
  strict: z.boolean().describe('a broken image is an error instead of being skipped'),
  cache: z.boolean().describe('keep decoded images on disk between epochs and runs'),
  cacheLimit: z.number().positive().describe('GiB that they may fill; those used longest ago go'),
  sampleEvery: count.describe('steps between sample grids'),
  checkpointEvery: count.describe('steps between checkpoints'),
  keep: count.describe('checkpoints that are kept, the newest ones'),
  evalEvery: count
    .optional()
    .describe('steps between evaluations, each of a checkpoint; none where it is left out'),
  evalInception: z
    .string()
    .min(1)
    .optional()
    .describe("Inception's weights to evaluate by: FID; else a classifier of the data's own"),
  evalSamples: count
    .min(6)
    .describe('images that an evaluation makes, and real ones it holds them against'),
  logEvery: count.describe('steps between lines of metrics.jsonl'),
  onNan: z
    .enum(['stop', 'rollback'])
    .describe('where a loss is NaN or infinite: stop, or rollback to the last checkpoint'),
  rollbackFactor: z
    .number()
    .positive()
    .lt(1)
    .describe('what a rollback multiplies the learning rates by'),
  rollbacks: count.describe('how often a run may be rolled back before it stops'),
  tensorboard: z.boolean().describe('write event files for TensorBoard into the run folder'),
  timeLimit: z.number().positive().optional().describe('stop and save after this many minutes'),
});

export type TrainConfig = z.infer<typeof configSchema>;
export type ConfigKey = keyof TrainConfig;
/** Some of the options: what a file or the flags say. */
export type PartialConfig = { readonly [K in ConfigKey]?: TrainConfig[K] | undefined };

/** Options of a rollback where none are given. */
export const rollbackDefaults = { onNan: 'stop', rollbackFactor: 0.5, rollbacks: 3 } as const;

/** What holds where neither preset, file nor flag says anything. */
export const defaults = {
  steps: 100_000,
  batch: 64,
  seed: 0,
  frames: 1,
  heads: 4,
  topk: 16,
  precision: 'f32',
  loss: 'hinge',
  labelSmoothing: 0,
  regularizer: 'none',
  regularizerWeight: 10,
  augment: [],
  reconstruction: 'mse',
  klWeight: 1,
  lrG: 1e-4,
  lrD: 4e-4,
  beta1: 0,
  beta2: 0.9,
  dSteps: 1,
  emaDecay: 0.999,
  emaStart: 1000,
  resize: 'cover',
  flip: false,
  balanced: false,
  strict: false,
  cache: true,
  cacheLimit: 20,
  sampleEvery: 500,
  checkpointEvery: 1000,
  keep: 3,
  evalSamples: 2048,
  logEvery: 10,
  ...rollbackDefaults,
  tensorboard: false,
} as const satisfies Partial<TrainConfig>;

/** Adam's own decays: no other net moves what a VAE descends on. */
const vaeRecipe = { lrG: 1e-3, beta1: 0.9, beta2: 0.999 };

/** Training options that belong to a preset, besides its architecture. */
export const recipes: Readonly<Partial<Record<PresetName, Partial<TrainConfig>>>> = {
  'sagan-32-tiny': {
    batch: 16,
    lrG: 8e-4,
    lrD: 4e-4,
    emaDecay: 0.99,
    emaStart: 400,
    sampleEvery: 250,
    checkpointEvery: 250,
  },
  'video-32-tiny': {
    batch: 8,
    lrG: 1e-3,
    lrD: 5e-4,
    emaDecay: 0.99,
    emaStart: 400,
    sampleEvery: 250,
    checkpointEvery: 250,
  },
  // Seed 000's.
  'dcgan-attention': { loss: 'bce', lrG: 2e-4, lrD: 2e-4, beta1: 0.5, beta2: 0.999 },
  // As the released code: it names no beta2, and TensorFlow's is this.
  'sagan-resnet-32': { beta2: 0.999 },
  'sagan-resnet-64': { beta2: 0.999 },
  'sagan-resnet-128': { beta2: 0.999 },
  'vae-32-tiny': { ...vaeRecipe, batch: 32, emaDecay: 0.99, emaStart: 100 },
  'vae-32': vaeRecipe,
  'vae-64': vaeRecipe,
};

/** The options that fix the meaning of the weights: a resumed run may not change them. */
export const architectureKeys = [
  'preset',
  'imageSize',
  'frames',
  'channels',
  'latentSize',
  'width',
  'attention',
  'attentionG',
  'attentionD',
  'heads',
  'topk',
  'slope',
  'classes',
  'stageSteps',
] as const satisfies readonly ConfigKey[];
