import { dotTiles, rowsOf, transposed } from './dots.ts';
import type { OnWork, Rows } from './dots.ts';

/** A distribution as the Fréchet distance sees it: mean and covariance Σ (divisor n − 1). */
export interface Moments {
  readonly n: number;
  readonly mean: Float64Array;
  /** The sum of the variances. */
  readonly trace: number;
  /** Rows F with Fᵀ·F = Σ: no more of them than Σ has rank, or samples. */
  readonly factor: Rows;
}

/** Samples that enter the covariance at a time. */
const blockRows = 512;

/**
 * Mean and factored covariance of features [n, d]. Two passes, the mean before the squares, so that a mean far from zero costs
 * no digits. Throws a RangeError for fewer than two rows.
 */
export function momentsOf(features: Float32Array, d: number, onWork?: OnWork): Moments {
  const n = features.length / d;
  if (n < 2) throw new RangeError(`a covariance needs two rows at least, and there are ${n}`);
  const mean = meanOf(features, d);
  if (n <= d) {
    const factor = rowsOf(features, d, { shift: mean, scale: 1 / Math.sqrt(n - 1) });
    return { n, mean, trace: squares(factor.data), factor };
  }
  const covariance = covarianceOf(features, mean, onWork);
  let trace = 0;
  for (let k = 0; k < d; k++) trace += covariance[k * d + k] ?? NaN;
  return { n, mean, trace, factor: pivotedCholesky(covariance, d) };
}

function meanOf(features: Float32Array, d: number): Float64Array {
  const mean = new Float64Array(d);
  for (let at = 0; at < features.length; at += d) {
    for (let k = 0; k < d; k++) mean[k] = (mean[k] ?? 0) + (features[at + k] ?? NaN);
  }
  return mean.map((sum) => (sum * d) / features.length);
}

/** [d, d] */
function covarianceOf(features: Float32Array, mean: Float64Array, onWork?: OnWork): Float64Array {
  const d = mean.length;
  const n = features.length / d;
  const out = new Float64Array(d * d);
  const scale = 1 / Math.sqrt(n - 1);
  for (let first = 0; first < n; first += blockRows) {
    const part = { first, n: Math.min(blockRows, n - first), shift: mean, scale };
    const columns = transposed(rowsOf(features, d, part));
    for (const tile of dotTiles(columns, columns, { upper: true })) {
      for (let i = 0; i < tile.rows; i++) {
        const row = (tile.i0 + i) * d + tile.j0;
        for (let j = 0; j < tile.columns; j++) {
          out[row + j] = (out[row + j] ?? 0) + (tile.values[i * tile.columns + j] ?? NaN);
        }
      }
    }
    onWork?.(first + part.n, n);
  }
  for (let i = 0; i < d; i++) for (let j = 0; j < i; j++) out[i * d + j] = out[j * d + i] ?? NaN;
  return out;
}

/**
 * Rows F with Fᵀ·F = S of a symmetric S [d, d] that is positive or has eigenvalues of zero. The largest variance that is left
 * comes next, and it ends where none is above rounding: a set of images that are all alike has no rows (Higham 2002, §10.3).
 */
export function pivotedCholesky(matrix: Float64Array, d: number): Rows {
  const left = Float64Array.from({ length: d }, (_u, k) => matrix[k * d + k] ?? NaN);
  const rounding = d * Number.EPSILON * left.reduce((most, v) => Math.max(most, v), 0);
  const data = new Float64Array(d * d);
  let n = 0;
  for (; n < d; n++) {
    let pivot = 0;
    for (let k = 1; k < d; k++) if ((left[k] ?? 0) > (left[pivot] ?? 0)) pivot = k;
    const variance = left[pivot] ?? 0;
    if (variance <= rounding) break;
    const row = data.subarray(n * d, (n + 1) * d);
    row.set(matrix.subarray(pivot * d, (pivot + 1) * d));
    for (let j = 0; j < n; j++) {
      const factor = data[j * d + pivot] as number;
      if (factor === 0) continue;
      for (let k = 0; k < d; k++) (row[k] as number) -= factor * (data[j * d + k] as number);
    }
    const scale = 1 / Math.sqrt(variance);
    for (let k = 0; k < d; k++) {
      const value = (row[k] as number) * scale;
      row[k] = value;
      (left[k] as number) -= value * value;
    }
    left[pivot] = 0;
  }
  return { n, d, data: data.slice(0, n * d) };
}

function squares(values: Float64Array): number {
  return values.reduce((sum, v) => sum + v * v, 0);
}
