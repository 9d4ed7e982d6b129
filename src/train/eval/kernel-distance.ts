import { HostRng } from '../../util/philox.ts';
import { dotTiles, tileCount } from './dots.ts';
import type { OnWork, Rows } from './dots.ts';
import { meanAndSpread } from './spread.ts';

/** Rows of both sets that make one estimate: `real` and `made` of the same length, no row twice. */
export interface Subset {
  readonly real: Uint32Array;
  readonly made: Uint32Array;
}

/** Stream of the host's random numbers that draws the subsets. */
const subsetStream = [0x4b49, 0] as const;

/**
 * `count` subsets of `size` rows each, drawn without replacement; of half of them where there are too few for two such subsets
 * side by side, so that the estimates still differ.
 */
export function drawSubsets(
  rows: { readonly real: number; readonly made: number },
  { count = 100, size = 1000, seed = 0 } = {},
): Subset[] {
  const rng = new HostRng(seed, { stream: subsetStream });
  const each = Math.min(size, Math.max(2, Math.floor(Math.min(rows.real, rows.made) / 2)));
  return Array.from({ length: count }, () => ({
    real: rng.permutation(rows.real).slice(0, each),
    made: rng.permutation(rows.made).slice(0, each),
  }));
}

export interface KernelDistance {
  readonly kid: number;
  /** Standard deviation of the estimates of the subsets. */
  readonly kidStd: number;
}

/**
 * Kernel Inception Distance (Bińkowski et al. 2018, §4): the squared maximum mean discrepancy under k(x, y) = (x·y/d + 1)³, its
 * unbiased estimate on each subset (which may be below 0), and their mean:
 *   Σ_{i≠j} k(xᵢ, xⱼ)/m(m−1) + Σ_{i≠j} k(yᵢ, yⱼ)/m(m−1) − 2·Σ k(xᵢ, yⱼ)/m²
 * Every kernel value is worked out once, for all subsets that hold its pair. Throws a RangeError for fewer than two rows.
 */
export function kernelDistance(
  real: Rows,
  made: Rows,
  subsets: readonly Subset[],
  onWork?: OnWork,
): KernelDistance {
  const m = subsets[0]?.real.length ?? 0;
  if (m < 2)
    throw new RangeError(`the kernel distance needs two rows at least, and there are ${m}`);
  const total =
    tileCount(real, real, { upper: true }) +
    tileCount(made, made, { upper: true }) +
    tileCount(real, made);
  let done = 0;
  const step = () => onWork?.(++done, total);
  const [inReal, inMade] = (['real', 'made'] as const).map((side) =>
    subsets.map((subset) => subset[side].slice().sort()),
  ) as [Uint32Array[], Uint32Array[]];
  const within = (rows: Rows, members: readonly Uint32Array[]) =>
    sums(rows, rows, [members, members], step);
  const xx = within(real, inReal);
  const yy = within(made, inMade);
  const xy = sums(real, made, [inReal, inMade], step);
  const estimates = subsets.map((_s, i) => {
    const same = ((xx[i] ?? NaN) + (yy[i] ?? NaN)) / (m * (m - 1));
    return same - (2 * (xy[i] ?? NaN)) / m ** 2;
  });
  const { mean, std } = meanAndSpread(estimates);
  return { kid: mean, kidStd: std };
}

/** For each subset the sum of k over its pairs of rows; of a set with itself, over the pairs of two different ones. */
function sums(
  a: Rows,
  b: Rows,
  [inA, inB]: readonly [readonly Uint32Array[], readonly Uint32Array[]],
  step: () => void,
): Float64Array {
  const out = new Float64Array(inA.length);
  const upper = a === b;
  for (const { i0, j0, rows, columns, values } of dotTiles(a, b, { upper })) {
    for (let i = 0; i < rows * columns; i++) values[i] = ((values[i] as number) / a.d + 1) ** 3;
    const twice = upper && j0 > i0 ? 2 : 1;
    if (upper && i0 === j0) for (let i = 0; i < rows; i++) values[i * columns + i] = 0;
    for (let s = 0; s < out.length; s++) {
      const down = between(inA[s] as Uint32Array, i0, i0 + rows);
      const across = between(inB[s] as Uint32Array, j0, j0 + columns);
      let sum = 0;
      for (const i of down) {
        const row = (i - i0) * columns - j0;
        for (let j = 0; j < across.length; j++)
          sum += values[row + (across[j] as number)] as number;
      }
      (out[s] as number) += twice * sum;
    }
    step();
  }
  return out;
}

/** The members of an ascending list from `begin` to below `end`. */
function between(list: Uint32Array, begin: number, end: number): Uint32Array {
  return list.subarray(firstFrom(list, begin), firstFrom(list, end));
}

/** The place of the first member that is not below `bound`. */
function firstFrom(list: Uint32Array, bound: number): number {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((list[middle] as number) < bound) low = middle + 1;
    else high = middle;
  }
  return low;
}
