// What comes out of a bench: tables, Markdown, CSV, JSON, a chart, and the README's tables between their markers.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import prettier from 'prettier';
import { slugOf } from '../../bench/environment.ts';
import { formatOf, formatted } from '../../bench/output/formats.ts';
import { cellText, shown } from '../../bench/output/sheet.ts';
import { csvTable } from '../../bench/output/text.ts';
import { fillMarkers, readResults, report } from '../../bench/report.ts';
import { resultSchema } from '../../bench/results.ts';
import type { LadderResult, OverheadResult, StepResult } from '../../bench/results.ts';

const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-output-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const environment = {
  ...{ adapter: 'A <GPU>', kind: 'discrete', description: 'its driver 1.2', driver: 'system' },
  robustness: 'on' as const,
  toggles: { enabled: ['allow_unsafe_apis'], disabled: ['timestamp_quantization'] },
  ...{ clock: 'GPU time stamps, quantisation off', polling: 'immediate', frequencies: '' },
  ...{ wgsagan: '0.1.0', node: '20.0.0', machine: 'linux x64, 2 cores of a CPU' },
  date: '2026-01-02T03:04:05.000Z',
};

const ladder: LadderResult = {
  kind: 'ladder',
  bench: 'matmul',
  environment,
  peaks: { fmaGflops: 1000, copyGBs: 50.5, clock: 'gpu' },
  settings: { rounds: 10, seconds: 3, flush: true },
  cases: [
    {
      ...{ label: '8×8×8', pass: 'forward', ladder: 'matmul', sizes: { m: 8 } },
      ...{ flops: 1024, bytes: 768 },
      rungs: [
        {
          ...{ rung: 'matmul/1_naive', tile: {}, shipped: false, verified: 64 },
          ms: { median: 0.5, p10: 0.25, p90: 1, samples: 10 },
          ...{ gflops: 0.25, gbs: 0.125, percentOfPeak: 12.5, roof: 'memory' as const },
          memoryBytes: 2 ** 20,
        },
        {
          ...{ rung: 'matmul/2_tiled', tile: { T: 16 }, shipped: true, verified: 64 },
          ms: { median: 0.125, p10: 0.125, p90: 0.125, samples: 10 },
          ...{ gflops: 1, gbs: 0.5, percentOfPeak: 50, roof: 'compute' as const },
          memoryBytes: 2 ** 20,
        },
        { rung: 'matmul/9', tile: {}, shipped: false, left: 'needs "all", and more' },
      ],
    },
  ],
};

const step: StepResult = {
  kind: 'step',
  bench: 'step',
  environment,
  settings: { rounds: 5 },
  cases: [
    {
      ...{ preset: 'sagan-32', batch: 64, launches: 500, gflop: 10, gflops: 1000 },
      ms: { median: 10, p10: 9, p90: 11, samples: 5 },
      ...{ stepsPerSecond: 100, imagesPerSecond: 6400, encodeUsPerLaunch: 3.5 },
      ...{ plannedBytes: 2 ** 25, unplannedBytes: 2 ** 27, residentBytes: 2 ** 24 },
    },
  ],
};

const overhead: OverheadResult = {
  kind: 'overhead',
  bench: 'overhead',
  environment,
  settings: { rounds: 5 },
  cases: [
    {
      ...{ preset: 'sagan-32', precision: 'f32', batch: 64, attention: 'none' },
      ...{ stages: { G: [16], D: [16] }, launches: 200, gflop: 8, plannedBytes: 2 ** 25 },
      ms: { median: 8, p10: 8, p90: 9, samples: 5 },
      overNone: { median: 1, p10: 1, p90: 1, samples: 5 },
    },
    {
      ...{ preset: 'sagan-32', precision: 'f32', batch: 64, attention: 'plain' },
      ...{ stages: { G: [16], D: [32, 16] }, launches: 300, gflop: 10, plannedBytes: 2 ** 26 },
      ms: { median: 10, p10: 9, p90: 11, samples: 5 },
      overNone: { median: 1.25, p10: 1.2, p90: 1.3, samples: 5 },
    },
  ],
};

describe('formats', () => {
  test('a table names its case once, aligns numbers and says what it was made on', () => {
    const text = formatted(ladder, 'table');
    const lines = text.split('\n');
    expect(lines[0]).toBe('bench matmul');
    for (const part of ['robustness on', 'allow_unsafe_apis', 'quantisation off', 'Node 20.0.0']) {
      expect(text).toContain(part);
    }
    const rows = lines.slice(lines.findIndex((line) => line.startsWith('case')));
    expect(rows.slice(0, 4)).toEqual([
      'case   pass     rung                 ms    p10    p90  GFLOP/s   GB/s  % of peak  MiB  roof',
      '8×8×8  forward  matmul/1_naive    0.500  0.250      1    0.250  0.125       12.5    1  memory',
      '                matmul/2_tiled ✓  0.125  0.125  0.125        1  0.500         50    1  compute',
      '                matmul/9              –      –      –        –      –          –    –  needs "all", and more',
    ]);
  });

  test('an overhead is a row a kind, held to none', () => {
    const rows = formatted(overhead, 'csv').trimEnd().split('\n');
    expect(rows).toEqual([
      'preset,attention,at,precision,batch,ms,× none,p10,p90,GFLOP,launches,MiB planned',
      'sagan-32,none,16×16,f32,64,8,1,1,1,8,200,32',
      'sagan-32,plain,"G 16×16; D 32×32, 16×16",f32,64,10,1.25,1.2,1.3,10,300,64',
    ]);
  });

  test('CSV keeps every digit, and quotes what needs it', () => {
    const [head, first, , last] = formatted(ladder, 'csv').split('\n');
    expect(head).toBe('case,pass,rung,ms,p10,p90,GFLOP/s,GB/s,% of peak,MiB,roof');
    expect(first).toBe('8×8×8,forward,matmul/1_naive,0.5,0.25,1,0.25,0.125,12.5,1,memory');
    expect(last).toBe('8×8×8,forward,matmul/9,,,,,,,,"needs ""all"", and more"');
    const third = csvTable({ title: '', notes: [], head: ['x'], rows: [[1 / 3]], texts: 0 });
    expect(third).toBe('x\n0.3333333333333333\n');
  });

  test('JSON reads back as the result that it was', () => {
    for (const result of [ladder, step, overhead]) {
      expect(resultSchema.parse(JSON.parse(formatted(result, 'json')))).toEqual(result);
    }
  });

  test('Markdown is as prettier leaves it', async () => {
    for (const result of [ladder, step, overhead]) {
      const text = formatted(result, 'md');
      const options = { parser: 'markdown', printWidth: 100, proseWrap: 'preserve' as const };
      expect(await prettier.format(text, options)).toBe(text);
    }
  });

  test('the chart is well-formed, escapes text, draws longer bars for faster rungs, and has two modes', () => {
    const svg = formatted(ladder, 'svg');
    const open: string[] = [];
    for (const [, end, name = '', , own] of svg.matchAll(/<(\/?)(\w+)([^>]*?)(\/?)>/g)) {
      if (end === '/') expect(open.pop()).toBe(name);
      else if (own !== '/') open.push(name);
    }
    expect(open).toEqual([]);
    expect(svg).toContain('A &lt;GPU&gt;');
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
    expect(svg).toContain('prefers-color-scheme:dark');
    const widths = [...svg.matchAll(/width="([\d.]+)" height="15"/g)].map(([, w]) => Number(w));
    expect(widths).toHaveLength(2);
    expect(widths[1]! / widths[0]!).toBeCloseTo(4, 2);
    expect(svg.match(/class="ships"/g)).toHaveLength(1);
    expect(formatted(step, 'svg')).toContain('sagan-32, batch 64');
    expect(formatted(overhead, 'svg')).toContain('10 ms  (× 1.25)');
  });

  test('the format is the one asked for, else the one of the file', () => {
    expect(formatOf(undefined, undefined)).toBe('table');
    expect(formatOf(undefined, 'a/b.SVG')).toBe('svg');
    expect(formatOf('csv', 'x.json')).toBe('csv');
    expect(() => formatOf('xml', undefined)).toThrow(
      '--format xml is unknown; there are table, md',
    );
  });

  test('numbers keep three digits', () => {
    expect([0, 12, 0.0123456, 1.5, 99.95, 123.4, 6400.7].map(shown)).toEqual([
      ...['0', '12', '0.0123', '1.50', '100', '123', '6401'],
    ]);
    expect(cellText(undefined)).toBe('–');
    expect(slugOf('llvmpipe (LLVM 15.0.6, 128 bits)')).toBe('llvmpipe-LLVM-15.0.6-128-bits');
  });
});

describe('the README', () => {
  const text = '# A\n\n<!-- bench:matmul -->\n\nold\n\n<!-- /bench:matmul -->\n\nafter\n';

  test('gets the tables between its markers, and the same again the second time', () => {
    const filled = fillMarkers(text, [ladder, step]);
    expect(filled).toMatch(/^# A\n\n<!-- bench:matmul -->\n\n\*\*A <GPU>\*\*\n\n\| case /);
    expect(filled).toMatch(/\n\n<!-- \/bench:matmul -->\n\nafter\n$/);
    expect(filled).not.toContain('old');
    // What ships, and how far above the simplest rung it stands.
    expect(filled).toMatch(
      /\| 8×8×8 \| forward \| matmul\/2_tiled \| 0\.125 \|.* 4 \|\n\n- A <GPU>/,
    );
    expect(filled).not.toContain('1_naive');
    expect(fillMarkers(filled, [ladder, step])).toBe(filled);
  });

  test('gets the tables of all adapters', () => {
    const other = { ...ladder, environment: { ...environment, adapter: 'B' } };
    const filled = fillMarkers(text, [ladder, other]);
    expect(filled.indexOf('**B**')).toBeGreaterThan(filled.indexOf('**A <GPU>**'));
  });

  test('is refused with a marker that nothing was measured for, or that is not closed', () => {
    expect(() => fillMarkers(text, [step])).toThrow(
      '<!-- bench:matmul --> has no results: make them by `npx wgsagan bench matmul --save`',
    );
    const open = text.replace('<!-- /bench:matmul -->', '');
    expect(() => fillMarkers(open, [ladder])).toThrow(
      '<!-- bench:matmul --> is not closed by <!-- /bench:matmul -->',
    );
  });

  test('is written by report, and only looked at with --check', async () => {
    const readme = join(folder, 'README.md');
    writeFileSync(readme, text);
    writeFileSync(join(folder, 'matmul-A.json'), formatted(ladder, 'json'));
    writeFileSync(join(folder, 'peers-A.json'), '{"peers": []}');
    const options = { readme, results: folder, check: true };
    await expect(report(options)).rejects.toThrow('run `npx wgsagan bench report`');
    expect(readFileSync(readme, 'utf8')).toBe(text);
    expect(await report({ ...options, check: false })).toEqual(['matmul']);
    expect(readFileSync(readme, 'utf8')).toContain('| 8×8×8 |');
    expect(await report(options)).toEqual(['matmul']);
  });

  test('is not made of a file that is no result', () => {
    const broken = join(folder, 'broken');
    const path = join(folder, 'step-A.json');
    writeFileSync(path, JSON.stringify({ ...step, cases: [{ preset: 3 }] }));
    expect(() => readResults(folder)).toThrow(
      /step-A\.json is no result of this bench: cases\.0\.preset /,
    );
    writeFileSync(path, '{');
    expect(() => readResults(folder)).toThrow(/step-A\.json is not JSON: /);
    expect(readResults(broken)).toEqual([]);
  });
});
