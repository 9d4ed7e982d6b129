import { readFileSync } from 'node:fs';
import { fileError } from '../io/errno.ts';
import type { GanOptions } from '../models/gan.ts';
import { presetNames, presets } from '../models/presets.ts';
import type { Preset } from '../models/presets.ts';
import { UserError } from '../util/errors.ts';
import { didYouMean, unknownWord } from '../util/nearest.ts';
import { asText, check, keyOf, layered, optionName, optionsToYaml, parseYaml } from './check.ts';
import { configSchema, defaults, recipes } from './options.ts';
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
  const parsed = parseYaml(text, `config ${path}`);
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
  const asked = layered(layers);
  if (asked['data'] === undefined) {
    throw new UserError(
      '--data is missing: name a folder or zip of images, fashion-mnist, avatars or moving-shapes',
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

/** The resolved options as the YAML that `--config` reads. */
export function configToYaml(config: TrainConfig): string {
  return optionsToYaml(config);
}
