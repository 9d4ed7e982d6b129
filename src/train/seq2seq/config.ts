import { z } from 'zod';
import { filePairs, generatedPairs, taskNames } from '../../data/pairs.ts';
import type { PairSet } from '../../data/pairs.ts';
import { tokenKinds } from '../../data/vocabulary.ts';
import { UserError } from '../../util/errors.ts';
import { check, keyOf, layered, parseYaml } from '../check.ts';

const count = z.int().min(1);
const decays = ['linear', 'inverse-sqrt', 'none'] as const;

/** Every option of a sequence-to-sequence run, with its help text; `dModel` here is `--d-model`. */
export const seq2seqSchema = z.strictObject({
  task: z
    .enum(taskNames)
    .optional()
    .describe(`generated pairs: ${taskNames.join(', ')}`),
  pairs: z.string().min(1).optional().describe('text file: a source, a tab and a target a line'),
  tokens: z.enum(tokenKinds).describe('what a line of --pairs is cut into: words or chars'),
  length: count
    .max(1024)
    .optional()
    .describe('longest sequence; of --pairs the longest that there is'),
  symbols: z.int().min(2).max(100_000).describe('of --task: numbers below this are its words'),
  heldOut: count.optional().describe('pairs to measure by and never learn from'),
  steps: count.describe('training steps in all'),
  batch: count.describe('pairs a step'),
  seed: z.int().min(0).describe('seed of weights, dropout, order and held-out pairs'),
  dModel: count.max(4096).describe('width of the model'),
  heads: count.describe('heads of every attention; they divide the width'),
  layers: count.max(64).describe('layers of the encoder, and of the decoder'),
  feedForward: count.max(65_536).describe('width inside a feed-forward part'),
  dropout: z.number().min(0).lt(1).describe('chance that an element is dropped in training'),
  labelSmoothing: z.number().min(0).lt(1).describe('share of a target that goes to all words'),
  lr: z.number().positive().describe('learning rate at the end of the warm-up'),
  warmup: z.int().min(0).describe('steps in which the rate rises to --lr, linearly'),
  decay: z.enum(decays).describe(`and then: ${decays.join(', ')}; linear reaches 0 at --steps`),
  beta1: z.number().min(0).lt(1).describe("Adam's first decay"),
  beta2: z.number().min(0).lt(1).describe("Adam's second decay"),
  evalEvery: count.describe('steps between decodings of the held-out pairs'),
  checkpointEvery: count.describe('steps between checkpoints'),
  logEvery: count.describe('steps between lines of metrics.jsonl'),
  timeLimit: z.number().positive().optional().describe('stop and save after this many minutes'),
});

export type Seq2SeqConfig = z.infer<typeof seq2seqSchema>;
export type Seq2SeqKey = keyof Seq2SeqConfig;

const defaults = {
  tokens: 'words',
  symbols: 10,
  steps: 1000,
  batch: 64,
  seed: 0,
  dModel: 64,
  heads: 4,
  layers: 2,
  feedForward: 128,
  dropout: 0,
  labelSmoothing: 0.1,
  lr: 2e-3,
  warmup: 200,
  decay: 'linear',
  beta1: 0.9,
  beta2: 0.98,
  evalEvery: 250,
  checkpointEvery: 250,
  logEvery: 10,
} as const satisfies Partial<Seq2SeqConfig>;

/** Of a generated task. */
const generated = { length: 12, heldOut: 1000 } as const;

/** What a resumed run may not change: its pairs, and what its weights mean. */
export const fixedKeys = [
  ...(['task', 'tokens', 'length', 'symbols', 'heldOut', 'seed'] as const),
  ...(['dModel', 'heads', 'layers', 'feedForward'] as const),
] as const satisfies readonly Seq2SeqKey[];

/** Defaults, then each layer in turn (a run's own config, flags); the whole is checked. Throws a `UserError`. */
export function resolveSeq2Seq(...layers: readonly Readonly<Record<string, unknown>>[]) {
  const asked = layered(layers);
  const own = asked['task'] === undefined ? {} : generated;
  const config = check(seq2seqSchema, { ...defaults, ...own, ...asked }, (name) => `--${name}`);
  checkTogether(config);
  return config;
}

/** Refuses options that do not go together, with the reason. */
function checkTogether(config: Seq2SeqConfig): void {
  const { task, pairs, heads, dModel, decay, warmup, steps } = config;
  if (task === undefined && pairs === undefined) {
    throw new UserError(`--task or --pairs is missing: one of ${taskNames.join(', ')}, or a file`);
  }
  if (task !== undefined && pairs !== undefined) {
    throw new UserError(`--task ${task} and --pairs ${pairs}: a run learns from one of them`);
  }
  if (task !== undefined && config.tokens !== defaults.tokens) {
    throw new UserError(`--tokens ${config.tokens} is for --pairs: a task is made of numbers`);
  }
  if (pairs !== undefined && config.symbols !== defaults.symbols) {
    throw new UserError(`--symbols ${config.symbols} is for --task: a file has its own words`);
  }
  if (dModel % heads !== 0) {
    throw new UserError(`--heads ${heads} does not divide --d-model ${dModel}`);
  }
  if (decay === 'linear' && warmup >= steps) {
    throw new UserError(
      `--warmup ${warmup} leaves nothing of --steps ${steps}: give more steps, or --decay none`,
    );
  }
}

/** The pairs that a config speaks of. Throws a `UserError` for a file that they cannot be read from. */
export function openPairs(config: Seq2SeqConfig): PairSet {
  const { task, pairs, seed, tokens, length, symbols, heldOut } = config;
  if (pairs !== undefined) return filePairs(pairs, { seed, tokens, length, heldOut });
  const sizes = { ...generated, ...(length && { length }), ...(heldOut && { heldOut }) };
  return generatedPairs(task ?? 'reverse', { seed, symbols, ...sizes });
}

/**
 * The learning rate of step 1, 2, …: up to `lr` in `warmup` steps, then down to 0 at the last (`linear`), as 1/√step
 * (Vaswani et al. 2017, §5.3, whose factor is lr·√warmup), or not at all.
 */
export function learningRate(config: Seq2SeqConfig, step: number): number {
  const { lr, warmup, decay, steps } = config;
  if (step < warmup) return (lr * step) / warmup;
  if (decay === 'none') return lr;
  if (decay === 'inverse-sqrt') return lr * Math.sqrt(Math.max(1, warmup) / step);
  return lr * Math.max(0, (steps - step + 1) / (steps - warmup + 1));
}

/** The options of a run from YAML. `name` begins the message of the `UserError` for any that are not one. */
export function seq2seqFromYaml(text: string, name: string): Readonly<Record<string, unknown>> {
  const parsed = parseYaml(text, name);
  if (typeof parsed !== 'object' || parsed === null)
    throw new UserError(`${name} holds no options`);
  const found: [string, unknown][] = Object.entries(parsed);
  const options = Object.fromEntries(found.map(([option, value]) => [keyOf(option), value]));
  if (Object.keys(options).some((key) => !Object.hasOwn(seq2seqSchema.shape, key))) {
    throw new UserError(`${name} is not of a seq2seq run`);
  }
  return check(seq2seqSchema.partial(), options, (option) => `${name}: ${option}`);
}
