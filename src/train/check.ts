import { parse, stringify } from 'yaml';
import type { z } from 'zod';
import { UserError, messageOf } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';

/** An option as it is written in a config file and on the command line: `imageSize` is `image-size`. */
export function optionName(key: string): string {
  return key.replaceAll(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
}

export function keyOf(option: string): string {
  return option.replaceAll(/-([a-z])/g, (_m, c: string) => c.toUpperCase());
}

/** The value, checked. Throws a `UserError` that begins with what `nameOf` makes of the first wrong option. */
export function check<T>(
  schema: z.ZodType<T>,
  value: object,
  nameOf: (option: string) => string,
): T {
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

export function asText(value: unknown): string {
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

/** Layers of options one over the other; what a layer leaves undefined it does not say. */
export function layered(
  layers: readonly Readonly<Record<string, unknown>>[],
): Record<string, unknown> {
  const asked: Record<string, unknown> = {};
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer)) if (value !== undefined) asked[key] = value;
  }
  return asked;
}

/** Options as the YAML of a config file. */
export function optionsToYaml(options: object): string {
  const entries = Object.entries(options).map(([key, value]) => [
    optionName(key),
    value as unknown,
  ]);
  return stringify(Object.fromEntries(entries));
}

/** What a text of YAML holds. `name` begins the message of the `UserError` for a text that is none. */
export function parseYaml(text: string, name: string): unknown {
  try {
    // Its warnings would go to stderr past us; what they are about is refused by its name.
    return parse(text, { logLevel: 'error' });
  } catch (error) {
    throw new UserError(`${name} is not YAML: ${messageOf(error).split('\n')[0] ?? ''}`);
  }
}
