// What `wgsagan bench` measures: cases from flags, from files and by default, and the sizes that they become.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { parseSizes, resolveCases } from '../../bench/cases.ts';
import { families } from '../../bench/families/all.ts';
import { attentionFamily } from '../../bench/families/attention.ts';
import { convFamily } from '../../bench/families/conv.ts';
import { matmulFamily } from '../../bench/families/matmul.ts';
import { normFamily } from '../../bench/families/norm.ts';
import { oracleOf } from '../../bench/oracles/all.ts';
import { percentile, summarise } from '../../src/util/statistics.ts';
import { chooseUnits } from '../../bench/verify.ts';
import { ladders } from '../../src/kernels/ladders.ts';

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-cases-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function fileOf(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

describe('--sizes', () => {
  test('names the numbers of a case in the order of the axes', () => {
    expect(parseSizes(matmulFamily, '256x128x64,8×8×8x3')).toEqual([
      { m: 256, n: 128, k: 64 },
      { m: 8, n: 8, k: 8, batch: 3 },
    ]);
  });

  test('may leave the last ones to what is usual', () => {
    expect(resolveCases(matmulFamily, { sizes: '96' }, true)).toEqual([
      { m: 96, n: 96, k: 96, batch: 1, trans: 'nn', precision: 'f32' },
    ]);
    const [one] = resolveCases(attentionFamily, { sizes: '2x64x8x32' }, true);
    expect(one).toEqual({
      ...{ batch: 2, positions: 64, dk: 8, dv: 32, keys: 64, top: 16 },
      ...{ kind: 'plain', layout: 'channel', precision: 'f32' },
    });
    const [conv] = resolveCases(convFamily, { sizes: '1x2x3x8x4x2' }, true);
    const image = { n: 1, c: 2, k: 3, size: 8, window: 4, stride: 2, pad: 1 };
    expect(conv).toEqual({ ...image, precision: 'f32' });
  });

  test.each([
    ['0x4x4', /^m 0 is no whole number from 1$/],
    ['4xx4', /^n \(nothing\) is no whole number from 1$/],
    ['4x4.5x4', /^n 4\.5 is no whole number from 1$/],
    ['1x2x3x4x5', /^--sizes 1x2x3x4x5: matmul takes at most mxnxkxbatch$/],
  ])('%s is refused', (sizes, message) => {
    expect(() => resolveCases(matmulFamily, { sizes }, true)).toThrow(message);
  });
});

test.each([
  ['conv: window 7 is larger than the padded image, 6', convFamily, '1x1x1x2x7x1x2'],
  ['norm: one value a channel; statistics need two or more', normFamily, '1x4x1'],
])('sizes that do not go together are refused: %s', (message, family, sizes) => {
  expect(() => resolveCases(family, { sizes }, true)).toThrow(message);
});

describe('flags of the axes', () => {
  test('multiply the cases that are there', () => {
    const made = resolveCases(matmulFamily, { sizes: '8,16', axes: { trans: 'nn,tt' } }, true);
    expect(made.map(({ m, trans }) => [m, trans])).toEqual([
      [8, 'nn'],
      [8, 'tt'],
      [16, 'nn'],
      [16, 'tt'],
    ]);
  });

  test('say how exactly to multiply, in the sizes and in the label', () => {
    const axes = { precision: 'f32,f16,stored-f16' };
    const made = resolveCases(matmulFamily, { sizes: '8', axes }, true);
    const [f32 = {}, ...others] = made.map((sizes) => matmulFamily.passes[0]!.dims(sizes));
    expect(f32).not.toHaveProperty('precision');
    expect(f32).not.toHaveProperty('stored');
    expect(others).toEqual([
      { ...f32, precision: 'f16' },
      { ...f32, stored: 'f16' },
    ]);
    expect(made.map((sizes) => matmulFamily.label(sizes))).toEqual([
      ...['8×8×8', '8×8×8 f16', '8×8×8 stored-f16'],
    ]);
    expect(() => resolveCases(convFamily, { axes: { precision: 'f64' } }, true)).toThrow(
      'precision f64 is unknown; it is f32 or f16 or stored-f16',
    );
  });

  test('take every kind of attention where none is said, each by its own ladder', () => {
    const made = resolveCases(attentionFamily, { sizes: '2x64x8x32' }, true);
    const [pass] = attentionFamily.passes;
    expect(made.map((sizes) => [sizes['kind'], pass!.ladder(sizes).name])).toEqual([
      ['plain', 'attention-forward'],
      ['causal', 'masked-attention-forward'],
      ['masked', 'masked-attention-forward'],
      ['topk', 'topk-attention-forward'],
      ['linear', 'linear-attention-forward'],
    ]);
    const some = resolveCases(attentionFamily, { axes: { kind: 'topk,causal', top: '4' } }, true);
    expect(new Set(some.map((sizes) => sizes['kind']))).toEqual(new Set(['topk', 'causal']));
    expect(() => {
      resolveCases(attentionFamily, { sizes: '1x8x8x8', axes: { top: '9' } }, true);
    }).toThrow('attention: top 9 is more than 8');
  });

  test('make a case alone, and say what it lacks', () => {
    const axes = { batch: '1', positions: '16,32', dk: '8', dv: '8', kind: 'plain' };
    expect(resolveCases(attentionFamily, { axes }, true).map((s) => s['positions'])).toEqual([
      16, 32,
    ]);
    expect(() => resolveCases(attentionFamily, { axes: { positions: '16' } }, true)).toThrow(
      'a case of attention lacks --batch, --dk, --dv',
    );
    expect(() => resolveCases(attentionFamily, { axes: { layout: 'rows' } }, true)).toThrow(
      'layout rows is unknown; it is channel or sequence',
    );
  });
});

describe('--cases', () => {
  test.each([
    '- { m: 4, n: 5, k: 6 }\n- { m: 7, trans: tn }\n',
    '[{"m": 4, "n": 5, "k": 6}, {"m": 7, "trans": "tn"}]',
  ])('reads YAML and JSON: %s', (text) => {
    const file = fileOf('cases', text);
    expect(resolveCases(matmulFamily, { file }, true)).toEqual([
      { m: 4, n: 5, k: 6, batch: 1, trans: 'nn', precision: 'f32' },
      { m: 7, n: 7, k: 7, batch: 1, trans: 'tn', precision: 'f32' },
    ]);
  });

  test.each([
    ['a number', '3', /cases is no list of cases, as - \{m: 256/],
    ['a list of numbers', '[3]', /cases, case 1 is no record, as \{m: 256/],
    [
      'an unknown key',
      '- {m: 3, bach: 2}',
      /case 1: bach is unknown; did you mean batch\? There are m, /,
    ],
    ['a size of text', '- {m: many}', /case 1: m many is no whole number from 1$/],
    ['nothing to parse', '- [', /cases is neither YAML nor JSON: /],
  ])('%s is refused', (_what, text, message) => {
    const file = fileOf('cases', text);
    expect(() => resolveCases(matmulFamily, { file }, true)).toThrow(message);
  });

  test('and --sizes exclude each other; a file that is not there is named', () => {
    expect(() => resolveCases(matmulFamily, { file: 'x', sizes: '8' }, true)).toThrow('exclude');
    const file = join(folder, 'nowhere.yaml');
    expect(() => resolveCases(matmulFamily, { file }, true)).toThrow(/nowhere\.yaml/);
  });
});

describe.each(families.map((family) => ({ name: family.name, family })))('$name', ({ family }) => {
  test('has usual cases, each with a label of its own', () => {
    for (const software of [true, false]) {
      const labels = resolveCases(family, {}, software).map((sizes) => family.label(sizes));
      expect(labels.length).toBeGreaterThan(1);
      expect(new Set(labels).size).toBe(labels.length);
      for (const label of labels) expect(label).not.toMatch(/undefined|NaN/);
    }
  });
});

describe.each(
  families.flatMap((family) =>
    family.passes.map((pass) => ({ family, pass, what: `${family.name} ${pass.name}` })),
  ),
)('$what', ({ family, pass }) => {
  test('has a ladder, an oracle, and work to do in every usual case', () => {
    for (const sizes of resolveCases(family, {}, false)) {
      const ladder = pass.ladder(sizes);
      const oracle = oracleOf(ladder.name);
      const dims = pass.dims(sizes);
      const operands = ladder.operands(dims);
      for (const n of Object.values(operands)) expect(n).toBeGreaterThan(0);
      expect(ladder.outputs.every((name) => name in operands)).toBe(true);
      expect(oracle.units(dims)).toBeGreaterThan(0);
      expect(ladder.flops(dims)).toBeGreaterThan(0);
      expect(ladder.bytes(dims)).toBeGreaterThan(0);
    }
  });
});

test('every ladder has an oracle of what it computes', () => {
  for (const { name } of ladders) expect(oracleOf(name).ladder).toBe(name);
  expect(() => oracleOf('nonsense')).toThrow('no oracle tells what the ladder nonsense computes');
});

describe('statistics', () => {
  test('median and tenths, interpolated', () => {
    expect(summarise([4, 1, 3, 2])).toEqual({ median: 2.5, p10: 1.3, p90: 3.7, samples: 4 });
    expect(percentile([7], 0.9)).toBe(7);
    expect(percentile([], 0.5)).toBeNaN();
  });

  test('all units of a small result are looked at, and the ends of a large one', () => {
    expect(chooseUnits(5, 1000)).toEqual([0, 1, 2, 3, 4]);
    const some = chooseUnits(1_000_000, 1024);
    expect(some).toHaveLength(512);
    expect([some[0], some.at(-1)]).toEqual([0, 999_999]);
    expect(new Set(some).size).toBe(some.length);
    expect(chooseUnits(1_000_000, 1024)).toEqual(some);
    expect(chooseUnits(1000, 1e9)).toHaveLength(4);
  });
});
