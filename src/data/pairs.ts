import { readFileSync } from 'node:fs';
import { fileError } from '../io/errno.ts';
import { UserError } from '../util/errors.ts';
import { HostRng } from '../util/philox.ts';
import { fingerprintOf } from './fingerprint.ts';
import { Vocabulary, tokenise } from './vocabulary.ts';
import type { TokenKind } from './vocabulary.ts';

/** Numbers of words, without begin, end and padding. */
export interface Pair {
  readonly source: readonly number[];
  readonly target: readonly number[];
}

/** Pairs to learn from, and pairs to measure by that nobody learns from. */
export interface PairSet {
  /** One line for people. */
  readonly description: string;
  /** What tells this set from another. */
  readonly fingerprint: string;
  readonly source: Vocabulary;
  readonly target: Vocabulary;
  /** Words of the longest source or target. */
  readonly length: number;
  /** Distinct in their sources, and in the same order for the same seed. */
  readonly heldOut: readonly Pair[];
  /** The pairs of a step: the same for the same seed and step, whatever came before. */
  batch(step: number, size: number): Pair[];
}

/** Streams of the host's numbers: order of a file, what is held out, and the pairs of a step. */
const streams = { order: 10, heldOut: 11, step: 12 };

// ---- generated ------------------------------------------------------------------------------------------------------

const tasks = {
  reverse: (words: readonly number[]) => words.toReversed(),
  sort: (words: readonly number[]) => words.toSorted((a, b) => a - b),
  copy: (words: readonly number[]) => [...words],
};
export type TaskName = keyof typeof tasks;
export const taskNames = Object.keys(tasks) as [TaskName, ...TaskName[]];

export interface GeneratedOptions {
  readonly seed: number;
  /** Words of the longest sequence; each length from 1 is as likely. */
  readonly length: number;
  /** The words are the numbers below this. */
  readonly symbols: number;
  readonly heldOut: number;
}

/** One source in so many may be held out: which, its words alone decide. */
const heldOutOneIn = 10;
/** Draws in a row that may miss: past them there is next to nothing of the kind. */
const mostMisses = 10_000;

/** Random numbers and the same in another order. Throws a `UserError` where so few are possible that none can be held out. */
export function generatedPairs(task: TaskName, options: GeneratedOptions): PairSet {
  const { seed, length, symbols } = options;
  const words = new Vocabulary(Array.from({ length: symbols }, (_, i) => String(i)));
  const first = words.words.length - symbols;
  const draw = (rng: HostRng, heldOut: boolean): Pair => {
    for (let misses = 0; misses < mostMisses; misses++) {
      const n = 1 + rng.int(length);
      const source = Array.from({ length: n }, () => first + rng.int(symbols));
      if (isHeldOut(source) === heldOut) return { source, target: tasks[task](source) };
    }
    throw new UserError(
      `--symbols ${symbols} and --length ${length} make too few sequences to hold any out; give more of either`,
    );
  };
  return {
    description: `${task} of up to ${length} of ${symbols} numbers, generated`,
    fingerprint: fingerprintOf([task, String(length), String(symbols)]),
    ...{ source: words, target: words, length },
    heldOut: distinct(options.heldOut, new HostRng(seed, { stream: [streams.heldOut, 0] }), draw),
    batch: (step, size) => {
      const rng = new HostRng(seed, { stream: [streams.step, step] });
      return Array.from({ length: size }, () => draw(rng, false));
    },
  };
}

/** FNV-1a: a source is on one side or the other whatever the seed. */
function isHeldOut(source: readonly number[]): boolean {
  const hash = source.reduce((h, word) => Math.imul(h ^ word, 0x0100_0193) >>> 0, 0x811c_9dc5);
  return ((hash ^ (hash >>> 15)) >>> 0) % heldOutOneIn === 0;
}

/** Up to `count` held-out pairs, none twice; fewer where no more are found. */
function distinct(
  count: number,
  rng: HostRng,
  draw: (rng: HostRng, heldOut: boolean) => Pair,
): Pair[] {
  const found = new Map<string, Pair>();
  for (let misses = 0; found.size < count && misses < mostMisses; misses++) {
    const pair = draw(rng, true);
    const key = pair.source.join();
    if (found.has(key)) continue;
    found.set(key, pair);
    misses = 0;
  }
  return [...found.values()];
}

// ---- of a file ------------------------------------------------------------------------------------------------------

export interface FileOptions {
  readonly seed: number;
  readonly tokens: TokenKind;
  /** Longer pairs are left out; absent: none is. */
  readonly length: number | undefined;
  /** Distinct sources to hold out; absent: a tenth, at most 1000. */
  readonly heldOut: number | undefined;
}

/**
 * Pairs of a text file: a source, a tab and a target a line; what follows a second tab is not read, empty lines neither. A
 * source that comes twice is on one side both times. Vocabularies hold the words that are learnt from. Throws a
 * `UserError` for a file that cannot be read, a line without both, or too few pairs.
 */
export function filePairs(path: string, options: FileOptions): PairSet {
  const { seed, tokens, length: most = Infinity } = options;
  const all = linesOf(path).map(([number, line]) =>
    pairOf(line, tokens, `${path}, line ${number}`),
  );
  const pairs = all.filter(({ source, target }) => Math.max(source.length, target.length) <= most);
  const sources = bySource(pairs);
  const { heldOut = Math.min(1000, Math.max(1, Math.floor(sources.length / 10))) } = options;
  if (sources.length <= heldOut) {
    const left = pairs.length < all.length ? ` of at most ${most} words` : '';
    throw new UserError(
      `${path} has ${sources.length} different sources${left}: too few to hold ${heldOut} out and learn from the others`,
    );
  }
  const order = new HostRng(seed, { stream: [streams.heldOut, 0] }).permutation(sources.length);
  const chosen = new Set(order.subarray(0, heldOut));
  const learnt = sources.flatMap((same, i) => (chosen.has(i) ? [] : same));
  // Of a source that comes twice, the first.
  const measured = sources.flatMap((same, i) => (chosen.has(i) ? same.slice(0, 1) : []));
  const words = (side: keyof TextPair) =>
    new Vocabulary([...new Set(learnt.flatMap((pair) => pair[side]))].sort());
  const [source, target] = [words('source'), words('target')];
  const numbered = (pair: TextPair): Pair => ({
    source: source.encode(pair.source),
    target: target.encode(pair.target),
  });
  const training = learnt.map(numbered);
  const skipped = all.length - pairs.length;
  return {
    description:
      `${training.length} pairs of ${path} (${source.own.length} and ${target.own.length} ${tokens}), ${measured.length} held out` +
      (skipped > 0 ? `, ${skipped} longer than ${most} left out` : ''),
    fingerprint: fingerprintOf([tokens, ...pairs.map((p) => JSON.stringify(p))]),
    ...{ source, target },
    length: pairs.reduce((n, p) => Math.max(n, p.source.length, p.target.length), 1),
    heldOut: measured.map(numbered),
    batch: shuffled(training, seed),
  };
}

interface TextPair {
  readonly source: readonly string[];
  readonly target: readonly string[];
}

/** The pairs of each source together, in the order in which sources first come. */
function bySource(pairs: readonly TextPair[]): TextPair[][] {
  const found = new Map<string, TextPair[]>();
  for (const pair of pairs) {
    const key = pair.source.join('\t');
    const same = found.get(key);
    if (same === undefined) found.set(key, [pair]);
    else same.push(pair);
  }
  return [...found.values()];
}

/** Lines that hold something, with their numbers. */
function linesOf(path: string): [number, string][] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw fileError(error, 'read', path);
  }
  const lines = text.replace(/^\uFEFF/, '').split(/\r?\n/);
  return lines.flatMap((line, i) =>
    line.trim() === '' ? [] : [[i + 1, line] as [number, string]],
  );
}

function pairOf(line: string, tokens: TokenKind, place: string): TextPair {
  const [left, right] = line.split('\t');
  if (right === undefined) {
    throw new UserError(`${place}: there is no tab; a line is a source, a tab and a target`);
  }
  const [source, target] = [tokenise(left?.trim() ?? '', tokens), tokenise(right.trim(), tokens)];
  if (source.length === 0 || target.length === 0) {
    const empty = source.length === 0 ? 'source' : 'target';
    throw new UserError(`${place}: the ${empty} is empty`);
  }
  return { source, target };
}

/** Pairs in random order, each once an epoch; where a step stands follows from its number. */
function shuffled(pairs: readonly Pair[], seed: number): PairSet['batch'] {
  let order: { epoch: number; places: Uint32Array } = { epoch: -1, places: new Uint32Array() };
  const at = (n: number): Pair => {
    const epoch = Math.floor(n / pairs.length);
    if (epoch !== order.epoch) {
      const rng = new HostRng(seed, { stream: [streams.order, epoch] });
      order = { epoch, places: rng.permutation(pairs.length) };
    }
    const pair = pairs[order.places[n % pairs.length] ?? 0];
    if (pair === undefined) throw new Error('there are no pairs');
    return pair;
  };
  return (step, size) => Array.from({ length: size }, (_, i) => at(step * size + i));
}
