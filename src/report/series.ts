import type { Alarm, Series } from './data.ts';
import type { Line } from './lines.ts';
import { extremes, thinned } from './thin.ts';

/** What an evaluation says of itself, and not of the images. */
const notMeasured = new Set(['n', 'real', 'kidStd', 'isStd']);

/** What is an axis of the charts, and no curve. */
const axes = new Set(['step', 'seconds']);

type Curve = Map<number, number | null>;

/**
 * The curves of lines of numbers, one for each key. Steps rise: where a run was taken back and went on, the later line of a
 * step holds. Of a curve no more than 4000 points are held, however many lines come: then its steps are cut into 1000 equal
 * spans, and the least and the greatest value of each stay.
 */
export class Curves {
  readonly #curves = new Map<string, Curve>();
  readonly #last = new Map<string, number>();

  /** `nameOf`: the name of a curve by its key and line. */
  add(line: Line, nameOf = (key: string, _line: Line) => key): void {
    const step = line['step'];
    for (const [key, value] of Object.entries(line)) {
      if (typeof value === 'number') this.#last.set(key, value);
    }
    if (typeof step !== 'number' || !Number.isFinite(step)) return;
    for (const [key, value] of Object.entries(line)) {
      // JSON has no word for NaN but null.
      if (axes.has(key) || (typeof value !== 'number' && value !== null)) continue;
      const name = nameOf(key, line);
      const curve: Curve = this.#curves.get(name) ?? new Map<number, number | null>();
      curve.set(step, value);
      this.#curves.set(name, curve.size > mostHeld ? fewer(curve) : curve);
    }
  }

  /** Thinned for a chart. */
  series(): Series[] {
    return [...this.#curves].map(([key, curve]) => {
      const points = inOrder(curve);
      return thinned({ key, steps: points.map(([s]) => s), values: points.map(([, v]) => v) });
    });
  }

  /** The number of a key in the last line that has one. */
  last(key: string): number | undefined {
    return this.#last.get(key);
  }
}

const mostHeld = 4000;

const inOrder = (curve: Curve) => [...curve].sort(([a], [b]) => a - b);

/** At most half of the points that may be held. */
function fewer(curve: Curve): Curve {
  const points = inOrder(curve);
  const [[first] = [0], [last] = [0]] = [points[0], points.at(-1)];
  const spans = mostHeld / 4;
  const spanOf = (step: number) =>
    Math.min(spans - 1, Math.floor(((step - first) / (last - first)) * spans));
  const values = points.map(([, value]) => value);
  const kept: Curve = new Map(points.slice(0, 1));
  for (let from = 0; from < points.length;) {
    const span = spanOf(points[from]?.[0] ?? 0);
    let to = from + 1;
    while (to < points.length && spanOf(points[to]?.[0] ?? 0) === span) to += 1;
    for (const at of extremes(values, from, to)) {
      const point = points[at];
      if (point !== undefined) kept.set(...point);
    }
    from = to;
  }
  for (const end of points.slice(-1)) kept.set(...end);
  return kept;
}

/** The curves of some lines, thinned for a chart. */
export function seriesOf(
  lines: readonly Line[],
  nameOf?: (key: string, line: Line) => string,
): Series[] {
  const curves = new Curves();
  for (const line of lines) curves.add(line, nameOf);
  return curves.series();
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
