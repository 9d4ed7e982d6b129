// Pairs, words, options and rates of sequence to sequence; what is held out is never learnt from.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join as joinPath } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { filePairs, generatedPairs, taskNames } from '../../src/data/pairs.ts';
import type { PairSet } from '../../src/data/pairs.ts';
import { Vocabulary, join, special, tokenise } from '../../src/data/vocabulary.ts';
import { optionsToYaml } from '../../src/train/check.ts';
import {
  learningRate,
  openPairs,
  resolveSeq2Seq,
  seq2seqFromYaml,
} from '../../src/train/seq2seq/config.ts';
import { padded } from '../../src/train/seq2seq/learner.ts';
import { UserError } from '../../src/util/errors.ts';

const folder = mkdtempSync(joinPath(os.tmpdir(), 'wgsagan-pairs-'));
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

let files = 0;
function fileOf(text: string): string {
  const path = joinPath(folder, `${files++}.tsv`);
  writeFileSync(path, text);
  return path;
}

const batches = (set: PairSet, steps: number, size: number) =>
  Array.from({ length: steps }, (_, step) => set.batch(step, size)).flat();
const keyOf = ({ source }: { source: readonly number[] }) => source.join();

describe('words', () => {
  test('are cut at blanks or one by one, and joined again', () => {
    expect(tokenise(' ein  Baum\t', 'words')).toEqual(['ein', 'Baum']);
    expect(tokenise('a\u0308 🌳', 'chars')).toEqual(['ä', ' ', '🌳']);
    expect(join(['ein', 'Baum'], 'words')).toBe('ein Baum');
    expect(join(['ä', ' ', '🌳'], 'chars')).toBe('ä 🌳');
  });

  test('have numbers behind those of the special ones; others are unknown', () => {
    const words = new Vocabulary(['b', 'a']);
    expect(words.encode(['a', 'x', 'b'])).toEqual([5, special.unknown, 4]);
    expect(words.decode([5, 4, special.unknown, 99])).toEqual(['a', 'b', '<unknown>', '<unknown>']);
    expect(words.own).toEqual(['b', 'a']);
  });
});

describe('generated pairs', () => {
  const options = { seed: 3, length: 6, symbols: 5, heldOut: 200 };

  test.each(taskNames)(
    '%s does what it says, of every length, the same for a seed and step',
    (task) => {
      const set = generatedPairs(task, options);
      const pairs = [...batches(set, 8, 32), ...set.heldOut];
      for (const { source, target } of pairs) {
        const wanted = { reverse: [...source].reverse(), sort: [...source].sort(), copy: source }[
          task
        ];
        expect(target).toEqual(wanted);
      }
      expect(new Set(pairs.map(({ source }) => source.length))).toEqual(
        new Set([1, 2, 3, 4, 5, 6]),
      );
      const again = generatedPairs(task, options);
      expect(again.batch(7, 32)).toEqual(set.batch(7, 32));
      expect(again.heldOut).toEqual(set.heldOut);
      expect(set.batch(6, 32)).not.toEqual(set.batch(7, 32));
      expect(generatedPairs(task, { ...options, seed: 4 }).batch(7, 32)).not.toEqual(
        set.batch(7, 32),
      );
    },
  );

  test('of one seed or another, none is held out and learnt from', () => {
    const held = new Set<string>();
    const learnt = new Set<string>();
    for (const seed of [1, 2, 3]) {
      const set = generatedPairs('reverse', { ...options, seed });
      expect(new Set(set.heldOut.map(keyOf)).size).toBe(200);
      for (const pair of set.heldOut) held.add(keyOf(pair));
      for (const pair of batches(set, 40, 64)) learnt.add(keyOf(pair));
    }
    expect([...held].filter((key) => learnt.has(key))).toEqual([]);
    expect(learnt.size).toBeGreaterThan(1000);
  });

  test('too few to hold any out are refused', () => {
    const tiny = { seed: 0, length: 1, symbols: 1, heldOut: 5 };
    expect(() => generatedPairs('copy', tiny)).toThrow(
      '--symbols 1 and --length 1 make too few sequences to hold any out; give more of either',
    );
  });
});

describe('pairs of a file', () => {
  const lines = Array.from(
    { length: 30 },
    (_, i) => `w${i % 6} x${Math.floor(i / 6)}\tx v${i % 7}\tnot read`,
  );
  const options = { seed: 1, tokens: 'words', length: undefined, heldOut: 5 } as const;

  test('are split by their sources; each comes once an epoch, in an order of its own', () => {
    const path = fileOf(`\uFEFF${lines.join('\r\n')}\r\n\nw3 x0\tanother\n`);
    const set = filePairs(path, options);
    const held = new Set(set.heldOut.map(keyOf));
    expect([set.heldOut.length, held.size, set.length]).toEqual([5, 5, 2]);
    const n = Number(/^(\d+) pairs/.exec(set.description)?.[1]);
    expect([25, 26]).toContain(n);
    const [first, second] = [batches(set, n, 1), batches(set, 2 * n, 1).slice(n)];
    const text = (pairs: typeof first) => pairs.map((pair) => JSON.stringify(pair));
    expect(new Set(text(first)).size).toBe(n);
    expect(text(first).sort()).toEqual(text(second).sort());
    expect(text(first)).not.toEqual(text(second));
    expect(first.filter((pair) => held.has(keyOf(pair)))).toEqual([]);
    // A step's pairs are its own, whatever was asked before.
    expect(filePairs(path, options).batch(3, 8)).toEqual(set.batch(3, 8));
    // A word that only a held-out source has is not learnt.
    const alone = Array.from({ length: 4 }, (_, i) => `only${i}\ty`).join('\n');
    const [one] = filePairs(fileOf(alone), { ...options, heldOut: 1 }).heldOut;
    expect(one?.source).toEqual([special.unknown]);
  });

  test('longer ones are left out, and a tenth is held out unless a number is given', () => {
    const path = fileOf([...lines, 'a b c\td'].join('\n'));
    const set = filePairs(path, { ...options, length: 2, heldOut: undefined });
    expect(set.description).toMatch(/^27 pairs .* 3 held out, 1 longer than 2 left out$/);
    expect(filePairs(path, options).length).toBe(3);
    expect(filePairs(path, options).fingerprint).not.toBe(set.fingerprint);
  });

  test.each([
    ['no tab here', ', line 1: there is no tab; a line is a source, a tab and a target'],
    ['a\tb\n\t c', ', line 2: the source is empty'],
    ['a\tb\nc\t ', ', line 2: the target is empty'],
    ['a\tb\nc\td', ' has 2 different sources: too few to hold 5 out and learn from the others'],
  ])('%j is refused with its place', (text, message) => {
    const path = fileOf(text);
    expect(() => filePairs(path, options)).toThrow(new UserError(`${path}${message}`));
  });

  test('a file that is not there is named', () => {
    expect(() => filePairs(joinPath(folder, 'none.tsv'), options)).toThrow(/read .*none\.tsv/);
  });
});

describe('options', () => {
  test.each([
    [{}, '--task or --pairs is missing: one of reverse, sort, copy, or a file'],
    [
      { task: 'sort', pairs: 'x.tsv' },
      '--task sort and --pairs x.tsv: a run learns from one of them',
    ],
    [{ task: 'revers' }, '--task revers is unknown; did you mean reverse?'],
    [{ task: 'copy', tokens: 'chars' }, '--tokens chars is for --pairs: a task is made of numbers'],
    [{ pairs: 'x', symbols: 4 }, '--symbols 4 is for --task: a file has its own words'],
    [{ task: 'copy', heads: 3 }, '--heads 3 does not divide --d-model 64'],
    [
      { task: 'copy', steps: 200 },
      '--warmup 200 leaves nothing of --steps 200: give more steps, or --decay none',
    ],
    [{ task: 'copy', dropout: 1 }, '--dropout is 1: expected less than 1'],
    [{ task: 'copy', batch: 1.5 }, '--batch is 1.5: expected a whole number'],
  ])('%j: %s', (asked, message) => {
    expect(() => resolveSeq2Seq(asked)).toThrow(message);
  });

  test('go through YAML and back; those of another run are refused', () => {
    const config = resolveSeq2Seq({ task: 'sort', dModel: 32, timeLimit: 3 });
    expect(resolveSeq2Seq(seq2seqFromYaml(optionsToYaml(config), 'config'))).toEqual(config);
    expect(() => seq2seqFromYaml('preset: sagan-32', 'c')).toThrow('c is not of a seq2seq run');
    expect(() => seq2seqFromYaml('batch: [', 'c')).toThrow('c is not YAML');
    expect(openPairs(config).description).toBe('sort of up to 12 of 10 numbers, generated');
  });

  test('the rate rises to its peak, and falls as it is told to', () => {
    const of = (more: object) => {
      const config = resolveSeq2Seq({ task: 'copy', lr: 1, warmup: 4, steps: 13, ...more });
      return (step: number) => learningRate(config, step);
    };
    const linear = of({});
    expect([1, 2, 3, 4].map(linear)).toEqual([0.25, 0.5, 0.75, 1]);
    expect([9, 13].map(linear)).toEqual([0.5, 0.1]);
    const root = of({ decay: 'inverse-sqrt' });
    expect([4, 16, 64].map(root)).toEqual([1, 0.5, 0.25]);
    expect(of({ decay: 'none' })(1000)).toBe(1);
    expect(of({ warmup: 0 })(1)).toBeLessThan(1);
  });
});

test('rows are filled up with padding', () => {
  expect([...padded([[4, 5], [], [6]], 3)]).toEqual([4, 5, 0, 0, 0, 0, 6, 0, 0]);
});
