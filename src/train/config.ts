import { readFileSync } from 'node:fs';
import { parse, stringify } from 'yaml';
import type { z } from 'zod';
import { fileError } from '../io/errno.ts';
import type { GanOptions } from '../models/gan.ts';
import { presetNames, presets } from '../models/presets.ts';
import type { Preset } from '../models/presets.ts';
import { UserError, messageOf } from '../util/errors.ts';
import { didYouMean, unknownWord } from '../util/nearest.ts';
import { configSchema, defaults, keyOf, optionName, recipes } from './options.ts';
import type { PartialConfig, TrainConfig } from './options.ts';
import { checkOptions } from './refusals.ts';

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
  const name = presetNames.find((known) => known === preset);
  if (name === undefined) {
    throw new UserError(`--preset ${unknownWord(asText(preset), presetNames)}`);
  }
  const { attentionAt, ...given } = asked;
  // Said for both nets, where it is not said for one.
  const both =
    attentionAt === undefined ? {} : { attentionG: attentionAt, attentionD: attentionAt };
  const own = { ...both, ...given };
  const shaped = reshapeAttention(presets[name], own);
  const merged = { ...defaults, ...shaped, ...recipes[name], ...own, preset: name };
  const checked = check(configSchema, merged, (option) => `--${option}`);
  checkOptions(checked);
  const { family } = presets[name];
  const steps = asked['steps'] === undefined ? family.steps?.(checked) : undefined;
  return steps === undefined ? checked : { ...checked, steps };
}

/** Another image size than the preset's keeps only the attention stages that still exist. */
function reshapeAttention(
  { family, options }: Preset,
  asked: Readonly<Record<string, unknown>>,
): GanOptions {
  const size = asked['imageSize'];
  if (typeof size !== 'number' || size === options.imageSize) return options;
  const there = family.stages(size);
  const keep = (stages: readonly number[]) => stages.filter((s) => there.includes(s));
  return { ...options, attentionG: keep(options.attentionG), attentionD: keep(options.attentionD) };
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
