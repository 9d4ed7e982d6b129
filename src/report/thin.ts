import type { Series } from './data.ts';

/** A series as it is held: NaN where a value was not finite, or null. */
export interface HeldSeries {
  readonly key: string;
  readonly steps: ArrayLike<number>;
  readonly values: ArrayLike<number | null>;
}

/** A page draws no more points than this of a curve: a chart has fewer columns of pixels. */
export const mostPoints = 1000;

/** Digits that a chart can show, and a few more. */
const digits = 6;

/**
 * The series with at most `most` points: the first and the last, and of each bucket of equal many points between them the
 * least and the greatest, in their order. A peak of one step stays. `most` is 4 or more.
 */
export function thinned(series: HeldSeries, most: number = mostPoints): Series {
  const { key, steps, values } = series;
  const rounded = (at: readonly number[]): Series => ({
    key,
    steps: at.map((i) => steps[i] ?? 0),
    values: at.map((i) => round(values[i] ?? null)),
  });
  const n = steps.length;
  if (n <= most) return rounded(Array.from(steps, (_step, i) => i));
  const buckets = Math.floor((most - 2) / 2);
  const kept: number[] = [0];
  for (let b = 0; b < buckets; b++) {
    const from = 1 + Math.floor((b * (n - 2)) / buckets);
    const to = 1 + Math.floor(((b + 1) * (n - 2)) / buckets);
    kept.push(...extremes(values, from, to));
  }
  return rounded([...kept, n - 1]);
}

/** The places of the least and the greatest value in [from, to), in order; a gap counts where there is nothing else. */
export function extremes(values: HeldSeries['values'], from: number, to: number): number[] {
  let [low, high] = [-1, -1];
  for (let i = from; i < to; i++) {
    const value = values[i] ?? NaN;
    if (Number.isNaN(value)) continue;
    if (low < 0 || value < (values[low] ?? 0)) low = i;
    if (high < 0 || value > (values[high] ?? 0)) high = i;
  }
  if (low < 0) return [from];
  return low === high ? [low] : [Math.min(low, high), Math.max(low, high)];
}

function round(value: number | null): number | null {
  return value === null || Number.isNaN(value) ? null : Number(value.toPrecision(digits));
}

/**
 * Places of at most `most` (2 or more) of `count` things in a row: the first, the last, and every 2ᵏ-th between. As things
 * are added the choice changes seldom, so that what was made of one can be used again.
 */
export function spread(count: number, most: number): number[] {
  let stride = 1;
  while (Math.ceil((count - 1) / stride) + 1 > most && stride < count) stride *= 2;
  const places: number[] = [];
  for (let i = 0; i < count - 1; i += stride) places.push(i);
  return count > 0 ? [...places, count - 1] : [];
}
