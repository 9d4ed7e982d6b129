import { describe, expect, test } from 'vitest';
import { lineChart } from '../../src/train/chart.ts';
import type { Curve } from '../../src/train/chart.ts';

const curve = (points: Curve['points'], name = 'lossD'): Curve => ({
  name,
  colour: '#d1495b',
  points,
});

/** Attribute `d` of every curve (the grid lines have none of a stroke). */
function pathsOf(svg: string): string[] {
  return [...svg.matchAll(/<path d="([^"]*)" fill="none"/g)].map((m) => m[1]!);
}

function pointsOf(path: string): [number, number][] {
  return [...path.matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)].map((m) => [Number(m[1]), Number(m[2])]);
}

describe('line chart', () => {
  test('holds the title, the axis label, a legend and one path a curve', () => {
    const svg = lineChart(
      'losses',
      [
        curve([
          [0, 1],
          [10, 2],
        ]),
        curve(
          [
            [0, 2],
            [10, 0],
          ],
          'lossG',
        ),
      ],
      'step',
    );
    expect(svg).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" viewBox="0 0 720 320"/);
    expect(svg.trimEnd().endsWith('</svg>')).toBe(true);
    for (const text of ['losses', 'step', 'lossD', 'lossG'])
      expect(svg).toContain(`>${text}</text>`);
    expect(pathsOf(svg)).toHaveLength(2);
  });

  test('larger values stand higher, later steps further right, all inside the frame', () => {
    const svg = lineChart(
      't',
      [
        curve([
          [0, -3],
          [50, 7],
          [100, 2.5],
        ]),
      ],
      'x',
    );
    const [first, second, third] = pointsOf(pathsOf(svg)[0]!) as [number, number][];
    expect(first![0]).toBe(56);
    expect(third![0]).toBe(704);
    expect(second![0]).toBe(380);
    expect(second![1]).toBeLessThan(third![1]);
    expect(third![1]).toBeLessThan(first![1]);
    for (const [, y] of [first!, second!, third!]) {
      expect(y).toBeGreaterThanOrEqual(36);
      expect(y).toBeLessThanOrEqual(284);
    }
    // halfway between −3 and 8 would be 2.5 if the scale were linear: ticks −4 … 8 by 2
    expect([...svg.matchAll(/text-anchor="end">([^<]*)</g)].map((m) => Number(m[1]))).toEqual([
      -4, -2, 0, 2, 4, 6, 8,
    ]);
  });

  test.each([
    ['no points', []],
    ['one point', [[5, 0.25]]],
    [
      'a flat curve',
      [
        [0, 2],
        [1, 2],
      ],
    ],
    [
      'tiny values',
      [
        [0, 1e-12],
        [1, 2e-12],
      ],
    ],
    [
      'huge values',
      [
        [0, -1e30],
        [1, 1e30],
      ],
    ],
  ] as [string, [number, number][]][])('%s give a chart of finite coordinates', (_what, points) => {
    const svg = lineChart('t', [curve(points)], 'x');
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    expect(pointsOf(pathsOf(svg)[0]!)).toHaveLength(points.length);
  });

  test('a loss that is not finite leaves the rest of the curve readable', () => {
    const svg = lineChart(
      't',
      [
        curve([
          [0, 1],
          [1, NaN],
          [2, Infinity],
          [3, 2],
        ]),
      ],
      'x',
    );
    expect(svg).not.toMatch(/NaN|Infinity/);
    const points = pointsOf(pathsOf(svg)[0]!);
    expect(points).toHaveLength(2);
    expect(points[1]![1]).toBeLessThan(points[0]![1]);
  });
});
