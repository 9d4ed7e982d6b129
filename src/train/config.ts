import { readFileSync } from 'node:fs';
import { parse, stringify } from 'yaml';
import { z } from 'zod';
import { fileError } from '../io/errno.ts';
import type { GanOptions } from '../models/gan.ts';
import { ganPresetNames, ganPresets } from '../models/presets.ts';
import type { GanPreset, GanPresetName } from '../models/presets.ts';
import { attentionKindNames } from '../nn/attention-kinds.ts';
import { initialisers } from '../nn/init.ts';
import type { InitName } from '../nn/init.ts';
import { UserError, messageOf } from '../util/errors.ts';
import { didYouMean, unknownWord } from '../util/nearest.ts';
import { lossNames, losses } from './losses.ts';
import { regularizerNames } from './regularizers.ts';

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
    .describe('image folder, IDX folder, fashion-mnist, avatars or moving-shapes'),
  preset: z.enum(ganPresetNames).describe(`architecture: ${ganPresetNames.join(', ')}`),
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
  attentionG: sizes.describe('feature sizes with attention in the generator'),
  attentionD: sizes.describe('feature sizes with attention in the discriminator'),
  heads: count.describe('heads of multihead attention; they divide the width'),
  topk: count.max(64).describe('positions that each one looks at in topk attention'),
  conditional: z.boolean().describe('tell both nets the classes of the images'),
  classes: z.int().min(0).describe('how many classes those are; found in the data'),
  init: z.enum(initNames).describe(`first weights: ${initNames.join(', ')}`),
  slope: z.number().min(0).max(1).describe("LeakyReLU's slope in the discriminator"),
  precision: z
    .enum(['f32', 'f16'])
    .describe('f32, or f16 for activations and copies of weights: sums and weights stay f32'),
  loss: z.enum(lossNames).describe(`adversarial loss: ${lossNames.join(', ')}`),
  labelSmoothing: z.number().min(0).max(0.5).describe('label of real images below 1, for bce'),
  regularizer: z
    .enum(regularizerNames)
    .describe(`penalty on the discriminator's slope: ${regularizerNames.join(', ')}`),
  regularizerWeight: z.number().min(0).describe('factor of that penalty'),
  lrG: rate.describe("generator's learning rate"),
  lrD: rate.describe("discriminator's learning rate"),
  beta1: z.number().min(0).lt(1).describe("Adam's first decay"),
  beta2: z.number().min(0).lt(1).describe("Adam's second decay"),
  dSteps: count.max(mostDSteps).describe('discriminator steps for each generator step'),
  emaDecay: z.number().min(0).lt(1).describe("decay of the generator's averaged weights"),
  emaStart: z.int().min(0).describe('step at which averaging begins'),
  flip: z.boolean().describe('mirror half of the images'),
  strict: z.boolean().describe('a broken image is an error instead of being skipped'),
  sampleEvery: count.describe('steps between sample grids'),
  checkpointEvery: count.describe('steps between checkpoints'),
  logEvery: count.describe('steps between lines of metrics.jsonl'),
  timeLimit: z.number().positive().optional().describe('stop and save after this many minutes'),
});

export type TrainConfig = z.infer<typeof configSchema>;
export type ConfigKey = keyof TrainConfig;
/** Some of the options: what a file or the flags say. */
export type PartialConfig = { readonly [K in ConfigKey]?: TrainConfig[K] | undefined };

/** What holds where neither preset, file nor flag says anything. */
const defaults = {
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
  lrG: 1e-4,
  lrD: 4e-4,
  beta1: 0,
  beta2: 0.9,
  dSteps: 1,
  emaDecay: 0.999,
  emaStart: 1000,
  flip: false,
  strict: false,
  sampleEvery: 500,
  checkpointEvery: 1000,
  logEvery: 10,
} as const satisfies Partial<TrainConfig>;

/** Training options that belong to a preset, besides its architecture. */
const recipes: Readonly<Partial<Record<GanPresetName, Partial<TrainConfig>>>> = {
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
] as const satisfies readonly ConfigKey[];

export function optionName(key: string): string {
  return key.replaceAll(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
}

export function keyOf(option: string): string {
  return option.replaceAll(/-([a-z])/g, (_m, c: string) => c.toUpperCase());
}

const knownOptions = Object.keys(configSchema.shape).map(optionName);

/** Options from a YAML file. Throws a `UserError` for a file that cannot be read, is no map, or has an unknown key. */
export function readConfigFile(path: string): PartialConfig {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw fileError(error, 'read', `config ${path}`);
  }
  return parseConfig(text, path);
}

export function parseConfig(text: string, path: string): PartialConfig {
  let parsed: unknown;
  try {
    parsed = parse(text);
  } catch (error) {
    throw new UserError(`config ${path} is not YAML: ${messageOf(error).split('\n')[0] ?? ''}`);
  }
  if (parsed === null || parsed === undefined) return {};
  if (typeof parsed !== 'object' || Array.isArray(parsed)) {
    throw new UserError(`config ${path} must be a map of options, such as "batch: 32"`);
  }
  const out: Record<string, unknown> = {};
  for (const [option, value] of Object.entries(parsed)) {
    if (!knownOptions.includes(option)) {
      throw new UserError(
        `config ${path}: unknown key ${option}${didYouMean(option, knownOptions)}`,
      );
    }
    out[keyOf(option)] = value;
  }
  return check(configSchema.partial(), out, (option) => `config ${path}: ${option}`);
}

/** Defaults, then preset, then each layer in turn (file, flags); the whole is checked. Throws a `UserError`. */
export function resolveConfig(
  ...layers: readonly Readonly<Record<string, unknown>>[]
): TrainConfig {
  const asked: Record<string, unknown> = {};
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer)) if (value !== undefined) asked[key] = value;
  }
  if (asked['data'] === undefined) {
    throw new UserError(
      '--data is missing: name a folder of images, fashion-mnist, avatars or moving-shapes',
    );
  }
  const preset = asked['preset'] ?? 'sagan-32';
  const name = ganPresetNames.find((known) => known === preset);
  if (name === undefined) {
    throw new UserError(`--preset ${unknownWord(asText(preset), ganPresetNames)}`);
  }
  const { attentionAt, ...given } = asked;
  // Said for both nets, where it is not said for one.
  const both =
    attentionAt === undefined ? {} : { attentionG: attentionAt, attentionD: attentionAt };
  const own = { ...both, ...given };
  const shaped = reshapeAttention(ganPresets[name], own);
  const merged = { ...defaults, ...shaped, ...recipes[name], ...own, preset: name };
  const config = check(configSchema, merged, (option) => `--${option}`);
  checkOptions(config);
  return config;
}

/** Another image size than the preset's keeps only the attention stages that still exist. */
function reshapeAttention(
  { family, options }: GanPreset,
  asked: Readonly<Record<string, unknown>>,
): GanOptions {
  const size = asked['imageSize'];
  if (typeof size !== 'number' || size === options.imageSize) return options;
  const there = family.stages(size);
  const keep = (stages: readonly number[]) => stages.filter((s) => there.includes(s));
  return { ...options, attentionG: keep(options.attentionG), attentionD: keep(options.attentionD) };
}

/** Refuses options that do not go together, with the reason. */
function checkOptions(config: TrainConfig): void {
  const { imageSize, attentionG, attentionD, conditional, classes } = config;
  const { family } = ganPresets[config.preset];
  checkFrames(config);
  const reason = family.refuse(config);
  if (reason !== undefined) throw new UserError(reason);
  if (classes > 0 && !conditional) {
    throw new UserError(`--classes ${classes} says nothing without --conditional`);
  }
  checkLoss(config);
  if (config.attention === 'class' && !conditional) {
    throw new UserError('--attention class needs --conditional: it is told the classes of images');
  }
  const there = family.stages(imageSize);
  for (const [option, stages] of [
    ['attention-g', attentionG],
    ['attention-d', attentionD],
  ] as const) {
    const bad = stages.find((s) => !there.includes(s));
    if (bad !== undefined) {
      throw new UserError(
        `--${option} ${bad} is no feature size of a ${imageSize}-pixel image; there are ${there.join(', ')}`,
      );
    }
  }
  checkAttention(config);
}

/** Refuses clips for a family of stills, and stills for one of clips. */
function checkFrames({ preset, frames }: TrainConfig): void {
  const clips = ganPresets[preset].family.clips ?? false;
  if (clips === frames > 1) return;
  const makers = ganPresetNames.filter((name) => ganPresets[name].family.clips === true);
  throw new UserError(
    clips
      ? `--frames 1 is a still, and ${preset} makes clips: give 2 or more`
      : `--frames ${frames} says nothing to ${preset}, which makes stills; clips are made by ${makers.join(' and ')}`,
  );
}

/** Refuses sizes that the chosen attention cannot have. Every stage has a multiple of `width` channels. */
function checkAttention({
  attention,
  attentionG,
  attentionD,
  width,
  heads,
  topk,
}: TrainConfig): void {
  const stages = [...attentionG, ...attentionD];
  if (stages.length === 0) return;
  if (attention === 'multihead' && width % heads !== 0) {
    throw new UserError(
      `--heads ${heads} does not divide --width ${width}: heads share the channels evenly`,
    );
  }
  const smallest = Math.min(...stages);
  if (attention === 'topk' && topk > smallest ** 2) {
    throw new UserError(
      `--topk ${topk} is more than the ${smallest ** 2} positions of attention at ${smallest}×${smallest}`,
    );
  }
}

/** Refuses what the loss or the regulariser that was chosen would leave unread. */
function checkLoss({ loss, labelSmoothing, regularizer, regularizerWeight }: TrainConfig): void {
  const smooths = (name: keyof typeof losses) => losses[name].smooths;
  if (labelSmoothing > 0 && !smooths(loss)) {
    const able = lossNames.filter(smooths).join(' or ');
    throw new UserError(`--label-smoothing ${labelSmoothing} is for --loss ${able}, not ${loss}`);
  }
  if (regularizer === 'none' && regularizerWeight !== defaults.regularizerWeight) {
    throw new UserError(
      `--regularizer-weight ${regularizerWeight} says nothing without --regularizer`,
    );
  }
}

/** The value, checked. Throws a `UserError` that begins with what `nameOf` makes of the first wrong option. */
function check<T>(schema: z.ZodType<T>, value: object, nameOf: (option: string) => string): T {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  if (issue === undefined) throw result.error;
  const name = nameOf(optionName(String(issue.path[0])));
  if (issue.code === 'invalid_value' && issue.values.every((v) => typeof v === 'string')) {
    throw new UserError(`${name} ${unknownWord(asText(issue.input), issue.values)}`);
  }
  throw new UserError(`${name} is ${show(issue.input)}: expected ${expectedBy(issue)}`);
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** A value as it is written in a config; JSON has no word for the numbers that are not finite. */
function show(value: unknown): string {
  return typeof value === 'number' ? String(value) : JSON.stringify(value);
}

function expectedBy(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      if (issue.expected === 'int') return 'a whole number';
      if (issue.expected === 'number' && typeof issue.input === 'number') return 'a finite number';
      return issue.expected === 'array' ? 'a list' : `a ${issue.expected}`;
    case 'too_small':
      if (issue.origin === 'string') return 'some text';
      return issue.inclusive === false ? `more than ${issue.minimum}` : `${issue.minimum} or more`;
    case 'too_big':
      return issue.inclusive === false ? `less than ${issue.maximum}` : `${issue.maximum} or less`;
    case 'invalid_value':
      return issue.values.map(String).join(' or ');
    default:
      return issue.message;
  }
}

/** The resolved options as the YAML that `--config` reads. */
export function configToYaml(config: TrainConfig): string {
  const entries = Object.entries(config).map(([key, value]) => [optionName(key), value]);
  return stringify(Object.fromEntries(entries));
}
