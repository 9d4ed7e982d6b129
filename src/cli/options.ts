import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { readConfigFile, resolveConfig } from '../train/config.ts';
import { optionName } from '../train/check.ts';
import { configSchema } from '../train/options.ts';
import type { ConfigKey, TrainConfig } from '../train/options.ts';

/** Turns a flag's text into the value that the schema checks; the schema says what is wrong with it. */
function parser(key: ConfigKey): (text: string) => unknown {
  if (stageKeys.has(key)) {
    return (text) => (text === '' || text === 'none' ? [] : text.split(',').map(toNumber));
  }
  if (listKeys.has(key)) {
    return (text) => (text === '' || text === 'none' ? [] : text.split(',').map((s) => s.trim()));
  }
  if (textKeys.has(key)) return (text) => text;
  return toNumber;
}

const textKeys = new Set<ConfigKey>([
  ...(['data', 'preset', 'init', 'loss', 'regularizer', 'precision', 'attention'] as const),
  ...(['reconstruction', 'onNan', 'resize', 'evalInception'] as const),
]);
const stageKeys = new Set<ConfigKey>(['attentionAt', 'attentionG', 'attentionD']);
/** Lists of words. */
const listKeys = new Set<ConfigKey>(['augment']);
const switchKeys = new Set<ConfigKey>([
  ...(['flip', 'strict', 'conditional', 'balanced', 'cache', 'tensorboard'] as const),
]);

/** Parses any number; a schema says which it may be. */
export function toNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || Number.isNaN(value)) {
    throw new InvalidArgumentError(`"${text}" is not a number.`);
  }
  return value;
}

const configKeys = Object.keys(configSchema.shape) as ConfigKey[];

/** Options of a run as flags, all of them if `keys` are left out, with the help text of their schema. */
export function addConfigOptions(
  command: Command,
  keys: readonly ConfigKey[] = configKeys,
): Command {
  for (const key of keys) {
    const schema = configSchema.shape[key];
    const flag = `--${optionName(key)}`;
    const help = schema.description ?? '';
    if (switchKeys.has(key)) {
      command.addOption(new Option(flag, help));
      command.addOption(new Option(`--no-${optionName(key)}`, `not ${flag}, whatever a file says`));
    } else {
      command.addOption(new Option(`${flag} <${valueName(key)}>`, help).argParser(parser(key)));
    }
  }
  return command;
}

function valueName(key: ConfigKey): string {
  if (key === 'data') return 'source';
  if (stageKeys.has(key)) return 'sizes';
  if (listKeys.has(key)) return 'names';
  return textKeys.has(key) ? 'name' : 'number';
}

/** The flags among a command's options that belong to the config. */
export function configFlags(
  options: Readonly<Record<string, unknown>>,
  keys: readonly string[] = configKeys,
): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([key]) => keys.includes(key)));
}

/** What a run's data, length and reports decide has no part in one step of it. */
const beyondAStep: readonly ConfigKey[] = [
  ...(['data', 'steps', 'resize', 'flip', 'balanced', 'strict', 'timeLimit'] as const),
  ...(['cache', 'cacheLimit'] as const),
  ...(['sampleEvery', 'checkpointEvery', 'keep', 'logEvery', 'tensorboard'] as const),
  ...(['evalEvery', 'evalSamples', 'evalInception'] as const),
  ...(['onNan', 'rollbackFactor', 'rollbacks'] as const),
];
const stepKeys = configKeys.filter((key) => !beyondAStep.includes(key));

/** The options that make a training step what it is, for a command that looks at one. */
export function addStepOptions(command: Command): Command {
  command.option('--config <file>', 'YAML file of options; flags override it', someText);
  return addConfigOptions(command, stepKeys);
}

/** The config of a step that nobody trains by. Throws a `UserError` as `train` does. */
export function stepConfig(options: Readonly<Record<string, unknown>>): TrainConfig {
  const { config } = options;
  const file = typeof config === 'string' ? readConfigFile(config) : {};
  return resolveConfig({ data: 'none' }, file, configFlags(options, stepKeys));
}

/** Takes the text of a path; the empty one would mean the folder that the command was typed in. */
export function someText(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('It is empty.');
  return text;
}

/** Parses a whole number from 1 for flags that are not in the config. */
export function positiveInt(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError(`"${text}" is not a whole number from 1.`);
  }
  return value;
}

/** Parses a number above 0 for flags that are not in the config. */
export function positiveNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value <= 0) {
    throw new InvalidArgumentError(`"${text}" is not a number above 0.`);
  }
  return value;
}

export function wholeNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0) {
    throw new InvalidArgumentError(`"${text}" is not a whole number from 0.`);
  }
  return value;
}

export const adapterOption = () =>
  new Option(
    '--adapter <name>',
    'auto, discrete, integrated, software, lavapipe, swiftshader or part of a name',
  ).default('auto');
