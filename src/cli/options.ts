import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { configSchema, optionName } from '../train/config.ts';
import type { ConfigKey } from '../train/config.ts';

/** Turns a flag's text into the value that the schema checks; the schema says what is wrong with it. */
function parser(key: ConfigKey): (text: string) => unknown {
  if (key === 'attentionG' || key === 'attentionD') {
    return (text) => (text === '' || text === 'none' ? [] : text.split(',').map(toNumber));
  }
  if (textKeys.has(key)) return (text) => text;
  return toNumber;
}

const textKeys = new Set<ConfigKey>(['data', 'preset', 'init', 'loss']);
const switchKeys = new Set<ConfigKey>(['flip', 'strict']);

function toNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || Number.isNaN(value)) {
    throw new InvalidArgumentError(`"${text}" is not a number.`);
  }
  return value;
}

/** Every option of a run as a flag, with the help text of its schema. */
export function addConfigOptions(command: Command): Command {
  for (const [name, schema] of Object.entries(configSchema.shape)) {
    const key = name as ConfigKey;
    const flag = `--${optionName(name)}`;
    const help = schema.description ?? '';
    if (switchKeys.has(key)) {
      command.addOption(new Option(flag, help));
      command.addOption(
        new Option(`--no-${optionName(name)}`, `not ${flag}, whatever a file says`),
      );
    } else {
      command.addOption(new Option(`${flag} <${valueName(key)}>`, help).argParser(parser(key)));
    }
  }
  return command;
}

function valueName(key: ConfigKey): string {
  if (key === 'data') return 'source';
  if (key === 'attentionG' || key === 'attentionD') return 'sizes';
  return textKeys.has(key) ? 'name' : 'number';
}

/** The flags among a command's options that belong to the config. */
export function configFlags(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const keys = Object.keys(configSchema.shape);
  return Object.fromEntries(Object.entries(options).filter(([key]) => keys.includes(key)));
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
