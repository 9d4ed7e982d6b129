import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { fileError } from '../src/io/errno.ts';
import { UserError, messageOf } from '../src/util/errors.ts';
import { unknownWord } from '../src/util/nearest.ts';
import type { Axis, CaseSizes, Family, Size } from './families/family.ts';

/** What a call says of its cases; nothing at all means the family's usual ones. */
export interface CaseChoice {
  /** `--sizes`: cases between commas, the numbers of one joined by `x`. */
  readonly sizes?: string;
  /** `--cases`: a YAML or JSON file, a list of records. */
  readonly file?: string;
  /** A flag of an axis: its values between commas. Every case is taken with every one of them. */
  readonly axes?: Readonly<Record<string, string>>;
}

/** The cases of a call, each with a value for every axis. Throws a `UserError` for what makes none. */
export function resolveCases(family: Family, choice: CaseChoice, software: boolean): CaseSizes[] {
  if (choice.sizes !== undefined && choice.file !== undefined) {
    throw new UserError('--sizes and --cases exclude each other');
  }
  const lists = family.axes.flatMap((axis) => {
    const text = choice.axes?.[axis.name];
    if (text === undefined) return [];
    return [{ axis, values: text.split(',').map((word) => sizeOf(axis, word)) }];
  });
  // What has a usual value makes more of the usual cases; what has none makes cases of its own.
  const named = lists.some(({ axis }) => axis.usual === undefined);
  const begun = startOf(family, choice, { software, named });
  const product = lists.reduce(
    (cases, { axis, values }) =>
      cases.flatMap((sizes) => values.map((value) => ({ ...sizes, [axis.name]: value }))),
    begun,
  );
  return product
    .flatMap((sizes) => inEveryWord(family, sizes))
    .map((sizes) => completed(family, sizes));
}

/** The case in every word of the axes that are taken so, unless it says one itself. */
function inEveryWord(family: Family, sizes: CaseSizes): CaseSizes[] {
  return family.axes.reduce<CaseSizes[]>(
    (cases, { name, words, every }) =>
      every === true && words !== undefined && sizes[name] === undefined
        ? cases.flatMap((one) => words.map((word) => ({ ...one, [name]: word })))
        : cases,
    [sizes],
  );
}

function startOf(
  family: Family,
  { sizes, file }: CaseChoice,
  { software, named }: { software: boolean; named: boolean },
): CaseSizes[] {
  if (sizes !== undefined) return parseSizes(family, sizes);
  if (file !== undefined) return readCases(family, file);
  return named ? [{}] : [...family.usualCases(software)];
}

/** `256x256x256,16x64x64`: the numbers of a case in the order of the family's axes, those at the end at will. */
export function parseSizes(family: Family, text: string): CaseSizes[] {
  const axes = family.axes.filter((axis) => axis.words === undefined);
  return text.split(',').map((word) => {
    const parts = word.trim().split(/[x×]/);
    if (parts.length > axes.length) {
      const order = axes.map((axis) => axis.name).join('x');
      throw new UserError(`--sizes ${word}: ${family.name} takes at most ${order}`);
    }
    return Object.fromEntries(
      axes.slice(0, parts.length).map((axis, i) => [axis.name, sizeOf(axis, parts[i] ?? '')]),
    );
  });
}

/** The cases of a file: a list of records with the names of the axes for keys. */
function readCases(family: Family, file: string): CaseSizes[] {
  const found = parseFile(file);
  if (!Array.isArray(found) || found.length === 0) {
    throw new UserError(`${file} is no list of cases, as - {${exampleOf(family)}}`);
  }
  return found.map((entry: unknown, i) => {
    const where = `${file}, case ${i + 1}`;
    if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) {
      throw new UserError(`${where} is no record, as {${exampleOf(family)}}`);
    }
    const sizes = Object.entries(entry as Record<string, unknown>).map(([name, value]) => {
      const axis = family.axes.find((a) => a.name === name);
      if (axis === undefined) {
        const names = family.axes.map((a) => a.name);
        throw new UserError(`${where}: ${unknownWord(name, names)}`);
      }
      return [name, sizeOf(axis, String(value), `${where}: `)];
    });
    return Object.fromEntries(sizes) as CaseSizes;
  });
}

function parseFile(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw fileError(error, 'read', file);
  }
  try {
    return parse(text);
  } catch (error) {
    throw new UserError(`${file} is neither YAML nor JSON: ${messageOf(error)}`);
  }
}

function exampleOf(family: Family): string {
  const given = family.usualCases(true)[0] ?? {};
  return Object.entries(given)
    .map(([name, value]) => `${name}: ${value}`)
    .join(', ');
}

function sizeOf(axis: Axis, text: string, where = ''): Size {
  const word = text.trim();
  if (axis.words !== undefined) {
    if (axis.words.includes(word)) return word;
    throw new UserError(
      `${where}${axis.name} ${word} is unknown; it is ${axis.words.join(' or ')}`,
    );
  }
  const [value, least] = [Number(word), axis.least ?? 1];
  if (word !== '' && Number.isSafeInteger(value) && value >= least) return value;
  throw new UserError(
    `${where}${axis.name} ${word || '(nothing)'} is no whole number from ${least}`,
  );
}

/** The case with the usual values of what it does not say. */
function completed(family: Family, sizes: CaseSizes): CaseSizes {
  const missing = family.axes.filter((axis) => !axis.usual && sizes[axis.name] === undefined);
  if (missing.length > 0) {
    const names = missing.map((axis) => `--${axis.name}`).join(', ');
    throw new UserError(`a case of ${family.name} lacks ${names}`);
  }
  let whole: CaseSizes = {};
  for (const { name, usual } of family.axes) {
    const value = sizes[name] ?? usual?.(whole);
    if (value !== undefined) whole = { ...whole, [name]: value };
  }
  // Refuses sizes that fit each for itself and not together.
  for (const pass of family.passes) pass.dims(whole);
  return whole;
}
