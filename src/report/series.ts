import type { Alarm, Series } from './data.ts';
import type { Line } from './lines.ts';
import { thinned } from './thin.ts';

/** What an evaluation says of itself, and not of the images. */
const notMeasured = new Set(['n', 'real', 'kidStd', 'isStd']);

/** What is an axis of the charts, and no curve. */
const axes = new Set(['step', 'seconds']);

/**
 * The curves of lines of numbers, one for each key, thinned. Steps rise: where a run was taken back and went on, the later
 * line of a step holds.
 */
export function seriesOf(lines: readonly Line[], nameOf = (key: string, _line: Line) => key) {
  const curves = new Map<string, Map<number, number | null>>();
  for (const line of lines) {
    const step = line['step'];
    if (typeof step !== 'number' || !Number.isFinite(step)) continue;
    for (const [key, value] of Object.entries(line)) {
      // JSON has no word for NaN but null.
      if (axes.has(key) || (typeof value !== 'number' && value !== null)) continue;
      const name = nameOf(key, line);
      let curve = curves.get(name);
      if (curve === undefined) curves.set(name, (curve = new Map<number, number | null>()));
      curve.set(step, value);
    }
  }
  return [...curves].map(([key, curve]): Series => {
    const points = [...curve].sort(([a], [b]) => a - b);
    return thinned({ key, steps: points.map(([s]) => s), values: points.map(([, v]) => v) });
  });
}

/** What of an evaluation must be alike for its numbers to be compared, beside the extractor's name. */
const conditions = ['generator', 'n', 'real', 'weights', 'data', 'resize'] as const;

/**
 * The curves of eval.jsonl: `fd/EXTRACTOR`, with what else was other than in the first line of that extractor, since numbers
 * made in different ways are not to be compared.
 */
export function evaluationsOf(lines: readonly Line[]): Series[] {
  const measured = lines.map((line) =>
    Object.fromEntries(Object.entries(line).filter(([key]) => !notMeasured.has(key))),
  );
  const usual = new Map<string, Line>();
  return seriesOf(measured, (key, line) => {
    const { extractor } = line;
    if (typeof extractor !== 'string') return key;
    const first = usual.get(extractor) ?? line;
    usual.set(extractor, first);
    const others = conditions
      .filter((name) => line[name] !== first[name])
      .map((name) => `${name} ${String(line[name]).slice(0, 8)}`);
    return [`${key}/${extractor}`, ...others].join(', ');
  });
}

/** The lines of alarms.jsonl that are alarms, the newest last. */
export function alarmsOf(lines: readonly Line[]): Alarm[] {
  return lines.flatMap(({ step, cause, text }) =>
    typeof step === 'number' && typeof text === 'string'
      ? [{ step, cause: typeof cause === 'string' ? cause : '', text }]
      : [],
  );
}

/** The last number of a key. */
export function lastOf(lines: readonly Line[], key: string): number | undefined {
  const value = lines.findLast((line) => typeof line[key] === 'number')?.[key];
  return typeof value === 'number' ? value : undefined;
}
