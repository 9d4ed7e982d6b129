import type { Alarm, Series } from './data.ts';
import type { Line } from './lines.ts';
import { extremes, mostPoints, thinned } from './thin.ts';
import type { HeldSeries } from './thin.ts';

/** What an evaluation says of itself, and not of the images. */
const notMeasured = new Set(['n', 'real', 'kidStd', 'isStd']);

/** What is an axis of the charts, and no curve. */
const axes = new Set(['step', 'seconds']);

/** Points of a curve that are held: twice what a page draws, so that what has been thinned is seldom thinned again. */
const mostHeld = 2 * mostPoints;
/** A run has some dozens: a file that names more is damaged. */
const mostCurves = 1000;
/** Fewer cannot be cut into spans. */
const fewestHeld = 16;

/**
 * The points of one curve, by rising steps, in two arrays of the most that may be held: they are made once, and what they take
 * is taken from the first point on. When they are full their steps are cut into equal spans, of each of which the least and the
 * greatest value stay, and of all the first and the last point: at most half.
 */
class HeldCurve {
  readonly #steps: Float64Array;
  readonly #values: Float64Array;
  #length = 0;

  constructor(most: number) {
    this.#steps = new Float64Array(most);
    this.#values = new Float64Array(most);
  }

  /** In the place of what the step had. */
  set(step: number, value: number): void {
    let at = this.#length;
    while (at > 0 && (this.#steps[at - 1] ?? 0) >= step) at -= 1;
    if (at === this.#length || this.#steps[at] !== step) {
      if (this.#length === this.#steps.length) {
        this.#thin();
        this.set(step, value);
        return;
      }
      this.#steps.copyWithin(at + 1, at, this.#length);
      this.#values.copyWithin(at + 1, at, this.#length);
      this.#length += 1;
    }
    this.#steps[at] = step;
    this.#values[at] = value;
  }

  /** A view of what is held, until the next `set`. */
  held(key: string): HeldSeries {
    const n = this.#length;
    return { key, steps: this.#steps.subarray(0, n), values: this.#values.subarray(0, n) };
  }

  #thin(): void {
    const [steps, values, n] = [this.#steps, this.#values, this.#length];
    const [first, last] = [steps[0] ?? 0, steps[n - 1] ?? 0];
    const spans = Math.floor(n / 4) - 1;
    const spanOf = (at: number) =>
      Math.min(spans - 1, Math.floor((((steps[at] ?? 0) - first) / (last - first)) * spans));
    let kept = 0;
    const keep = (at: number) => {
      if (kept > 0 && steps[kept - 1] === steps[at]) return;
      // What is kept never comes to stand behind where it stood.
      steps[kept] = steps[at] ?? 0;
      values[kept] = values[at] ?? NaN;
      kept += 1;
    };
    keep(0);
    for (let from = 0; from < n;) {
      const span = spanOf(from);
      let to = from + 1;
      while (to < n && spanOf(to) === span) to += 1;
      for (const at of extremes(values, from, to)) keep(at);
      from = to;
    }
    keep(n - 1);
    this.#length = kept;
  }
}

/**
 * The curves of lines of numbers, one for each key. Steps rise: where a run was taken back and went on, the later line of a
 * step holds. Of a curve no more than 2000 points are held, however many lines come, the least and the greatest of every span
 * among them; of keys no more than 1000.
 */
export class Curves {
  readonly #most: number;
  readonly #curves = new Map<string, HeldCurve>();
  readonly #last = new Map<string, number>();

  /** `most`: how many points of a curve there can be, where that is known to be few. */
  constructor(most: number = mostHeld) {
    this.#most = Math.min(Math.max(most, fewestHeld), mostHeld);
  }

  /** `nameOf`: the name of a curve by its key and line. */
  add(line: Line, nameOf = (key: string, _line: Line) => key): void {
    const step = line['step'];
    const known = typeof step === 'number' && Number.isSafeInteger(step);
    for (const key of Object.keys(line)) {
      const value = line[key];
      if (typeof value === 'number') this.#last.set(key, value);
      // JSON has no word for NaN but null.
      else if (value !== null) continue;
      if (!known || axes.has(key)) continue;
      const name = nameOf(key, line);
      let curve = this.#curves.get(name);
      if (curve === undefined) {
        if (this.#curves.size >= mostCurves) continue;
        this.#curves.set(name, (curve = new HeldCurve(this.#most)));
      }
      curve.set(step, value ?? NaN);
    }
  }

  /** Thinned for a chart. */
  series(): Series[] {
    return [...this.#curves].map(([key, curve]) => thinned(curve.held(key)));
  }

  /** The number of a key in the last line that has one. */
  last(key: string): number | undefined {
    return this.#last.get(key);
  }
}

/** The curves of some lines, thinned for a chart. */
export function seriesOf(
  lines: readonly Line[],
  nameOf?: (key: string, line: Line) => string,
): Series[] {
  const curves = new Curves(lines.length);
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
