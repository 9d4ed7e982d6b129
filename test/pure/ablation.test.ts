import { describe, expect, test } from 'vitest';
import { ablationTable, trainedOf } from '../../bench/ablation/report.ts';
import { fillMarkers } from '../../bench/report.ts';

const one = (attention: string, seed: number, fd: number, seconds: number) =>
  trainedOf({
    ...{ attention, seed, step: 100, seconds, fd, kid: fd / 100 },
    ...{ precision: 0.5, recall: 0.25, density: 1, coverage: 0.75, extra: 'left out' },
  });

const ablation = {
  ...{ preset: 'sagan-32-tiny', data: 'fashion-mnist', imageSize: 32, steps: 100, batch: 16 },
  ...{ n: 50, real: 40, extractor: 'classifier-own', weights: 'abcdef0123456789ffff' },
  environment: { adapter: 'some adapter' },
  trained: [one('plain', 0, 4, 30), one('none', 0, 5, 20), one('plain', 1, 8, 30)],
};

describe('the table of an ablation', () => {
  const table = ablationTable({
    ...ablation,
    trained: [...ablation.trained, one('none', 1, 3, 20)],
  });
  const row = (...start: string[]) =>
    table
      .split('\n')
      .map((line) => line.split('|').map((cell) => cell.trim()))
      .find((cells) => start.every((cell, i) => cells[i + 1] === cell));

  test('has a row a training, mean and deviation of a kind, and what the kind changes', () => {
    const cells = ['plain', '0', '4.00', '0.0400', '0.500', '0.250', '0.750', '30'];
    expect(row('plain', '0')).toEqual(['', ...cells, '']);
    // Deviation of a sample of two: |8 − 4|/√2.
    expect(row('plain', 'mean ± std')?.[3]).toBe('6.00 ± 2.83');
    expect(row('none', 'mean ± std')?.[3]).toBe('4.00 ± 1.41');
    expect(table).toContain(
      'plain against none: FD +50.0 %, KID +50.0 %, time +50.0 %; FD is less with it for 1 of 2 seeds.',
    );
    expect(table).toContain(
      'weights abcdef0123456789, of 50 made and 40 real images: they are no FID',
    );
  });

  test('of one seed has no deviation', () => {
    const one = ablationTable({ ...ablation, trained: ablation.trained.slice(0, 2) });
    expect(one).toMatch(/^\| plain +\| mean ± std \| 4\.00 /m);
    expect(one).not.toContain('NaN');
  });

  test('stands in a page between its markers, or the page says how to make it', () => {
    const page = 'a\n<!-- bench:ablation -->\nold\n<!-- /bench:ablation -->\nz\n';
    expect(fillMarkers(page, [], { peers: [], ablation: [table] })).toBe(
      `a\n<!-- bench:ablation -->\n\n${table}\n\n<!-- /bench:ablation -->\nz\n`,
    );
    expect(() => fillMarkers(page, [])).toThrow('make them by `node bench/ablation`');
  });

  test('is not made of an evaluation that lacks a number', () => {
    expect(() => trainedOf({ ...ablation.trained[0], kid: undefined })).toThrow();
  });
});
