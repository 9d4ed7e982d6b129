// Is a series of measurements flat? Measured on machines that do other things besides, so by medians and not by means.
import { median } from '../../src/util/statistics.ts';

export interface Flatness {
  readonly first: number;
  readonly last: number;
  readonly middle: number;
  /** What the line through the series gains from its first point to its last, as a share of the middle. */
  readonly drift: number;
  /** The most that `drift` may be. */
  readonly bound: number;
  readonly flat: boolean;
}

/**
 * Judges a series by the slope of Theil and Sen: the median of the slopes between all pairs of points, which a few
 * outliers do not move. A series that falls is as flat as one that stays. Throws a RangeError for fewer than three points.
 */
export function flatnessOf(
  points: readonly (readonly [x: number, y: number])[],
  bound: number,
): Flatness {
  if (points.length < 3) throw new RangeError(`a slope needs three points, not ${points.length}`);
  const slopes = points.flatMap(([x, y], i) =>
    points.slice(i + 1).map(([u, v]) => (v - y) / (u - x)),
  );
  const values = points.map(([, y]) => y);
  const middle = median(values);
  const span = points.at(-1)![0] - points[0]![0];
  const gained = median(slopes) * span;
  const drift = gained === 0 ? 0 : gained / middle;
  return { first: values[0]!, last: values.at(-1)!, middle, drift, bound, flat: drift <= bound };
}
