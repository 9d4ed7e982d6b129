// Is a series of measurements flat? Measured on machines that do other things besides, so by medians and not by means.
import { HostRng } from '../../src/util/philox.ts';
import { median, percentile } from '../../src/util/statistics.ts';

export interface Flatness {
  readonly first: number;
  readonly last: number;
  readonly middle: number;
  /** What the line through the series gains from its first point to its last, as a share of the middle. */
  readonly drift: number;
  /** Where `drift` would lie, in 95 of 100 cases, if the same noise came again in another order. */
  readonly interval: readonly [low: number, high: number];
  /** The most that `drift` may be. */
  readonly bound: number;
  readonly judged: Judged;
  readonly verdict: Verdict;
}

/**
 * `estimate`: by the drift as it is, for what is counted without noise. `interval`: by where it lies, for what is measured
 * through the noise of a shared machine. Then flat is only what is shown to be: all of the interval has to lie within the
 * bound. Were it enough that the interval reaches down to the bound, more noise would make any series flat.
 */
export type Judged = 'estimate' | 'interval';

/** `drowned`: the interval has the bound within it, so that the noise hides whether the drift is more or less. */
export type Verdict = 'flat' | 'not flat' | 'drowned';

type Points = readonly (readonly [x: number, y: number])[];

const resamples = 500;

/**
 * Judges a series by the slope of Theil and Sen: the median of the slopes between all pairs of points, which a few
 * outliers do not move. A series that falls is as flat as one that stays. Throws a RangeError for fewer than three points.
 *
 * The interval is a bootstrap of the residuals in moving blocks. Sen's own interval takes the noise of each point to be
 * its own, and of a shared machine it is not: a neighbour that computes does so for minutes, which are several points on end,
 * and such stretches look like slopes. Blocks of √n residuals are put in another order, as a ring, on the line that was
 * found; the slopes of 500 such series spread as the slopes of series with such stretches do.
 */
export function flatnessOf(points: Points, bound: number, judged: Judged = 'estimate'): Flatness {
  if (points.length < 3) throw new RangeError(`a slope needs three points, not ${points.length}`);
  const values = points.map(([, y]) => y);
  const middle = median(values);
  const span = points.at(-1)![0] - points[0]![0];
  const slope = slopeOf(points);
  const driftOf = (one: number) => (one === 0 ? 0 : (one * span) / middle);
  const drifts = otherSlopes(points, slope).map(driftOf);
  const [drift, low, high] = [driftOf(slope), percentile(drifts, 0.025), percentile(drifts, 0.975)];
  const most = judged === 'interval' ? high : drift;
  const least = judged === 'interval' ? low : drift;
  // Of what may not grow at all one jump is too much, and no median of slopes sees it.
  const jumped = bound === 0 && values.at(-1)! > values[0]!;
  const verdict = jumped
    ? 'not flat'
    : most <= bound
      ? 'flat'
      : least > bound
        ? 'not flat'
        : 'drowned';
  const ends = { first: values[0]!, last: values.at(-1)!, middle };
  return { ...ends, drift, interval: [low, high], bound, judged, verdict };
}

function slopeOf(points: Points): number {
  const n = points.length;
  const slopes = new Float64Array((n * (n - 1)) / 2);
  let count = 0;
  for (let i = 0; i < n; i++) {
    const [x, y] = points[i]!;
    for (let j = i + 1; j < n; j++) {
      const [u, v] = points[j]!;
      slopes[count++] = (v - y) / (u - x);
    }
  }
  slopes.sort();
  return (slopes[(count - 1) >> 1]! + slopes[count >> 1]!) / 2;
}

/** Slopes of series of the same line and residuals, these in blocks in another order; the same whenever it is asked. */
function otherSlopes(points: Points, slope: number): number[] {
  const n = points.length;
  const length = Math.ceil(Math.sqrt(n));
  const rests = points.map(([x, y]) => y - slope * x);
  const base = median(rests);
  if (rests.every((rest) => rest === base)) return [slope];
  const random = new HostRng(1);
  return Array.from({ length: resamples }, () => {
    let from = 0;
    return slopeOf(
      points.map(([x], i) => {
        if (i % length === 0) from = random.int(n);
        return [x, slope * x + rests[(from + (i % length)) % n]!] as const;
      }),
    );
  });
}
