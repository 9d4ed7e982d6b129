import type { OnWork, Rows } from './dots.ts';
import { transposed } from './dots.ts';

/**
 * The sum of the singular values of a matrix, each right to about ε times the largest: Householder reflections make it
 * bidiagonal (Golub & Kahan 1965), and the singular values of that are the positive eigenvalues of the symmetric tridiagonal
 * matrix with zeros on its diagonal and d₁, e₁, d₂, e₂, …, d beside it. No vectors, so 8/3·d³ operations are all there are.
 * Throws a RangeError for NaN or infinity.
 */
export function nuclearNorm(matrix: Rows, onWork?: OnWork): number {
  if (!matrix.data.every(Number.isFinite)) {
    throw new RangeError('a matrix with NaN or infinity in it has no singular values');
  }
  const tall = matrix.n >= matrix.d ? { ...matrix, data: matrix.data.slice() } : transposed(matrix);
  const beside = bidiagonal(tall, onWork);
  const eigenvalues = tridiagonalEigenvalues(new Float64Array(beside.length + 1), beside);
  return eigenvalues.reduce((sum, v) => sum + Math.abs(v), 0) / 2;
}

/** d₁, e₁, d₂, e₂, …, of a tall matrix, which is overwritten. */
function bidiagonal({ n: m, d: n, data: a }: Rows, onWork?: OnWork): Float64Array {
  const out = new Float64Array(Math.max(0, 2 * n - 1));
  const [v, w, u] = [new Float64Array(m), new Float64Array(n), new Float64Array(n)];
  for (let k = 0; k < n; k++) {
    for (let i = k; i < m; i++) v[i] = a[i * n + k] as number;
    const left = reflector(v, k);
    out[2 * k] = left.length;
    if (k === n - 1) break;
    w.fill(0);
    for (let i = k; i < m; i++) {
      const factor = left.beta * (v[i] as number);
      if (factor === 0) continue;
      for (let j = k + 1; j < n; j++) (w[j] as number) += factor * (a[i * n + j] as number);
    }
    const first = v[k] as number;
    for (let j = k + 1; j < n; j++) u[j] = (a[k * n + j] as number) - first * (w[j] as number);
    const right = reflector(u, k + 1);
    out[2 * k + 1] = right.length;
    // Both reflections of a row while it is at hand.
    for (let i = k + 1; i < m; i++) {
      const row = i * n;
      const down = v[i] as number;
      let along = 0;
      for (let j = k + 1; j < n; j++) {
        const value = (a[row + j] as number) - down * (w[j] as number);
        a[row + j] = value;
        along += value * (u[j] as number);
      }
      along *= right.beta;
      for (let j = k + 1; j < n; j++) (a[row + j] as number) -= along * (u[j] as number);
    }
    onWork?.(k + 1, n);
  }
  return out;
}

/**
 * Overwrites x, from `from` on, by the v for which (1 − β·v·vᵀ)·x lies along the first axis, and tells how long it is there.
 */
function reflector(x: Float64Array, from: number): { beta: number; length: number } {
  let most = 0;
  for (let i = from; i < x.length; i++) most = Math.max(most, Math.abs(x[i] as number));
  if (most === 0) return { beta: 0, length: 0 };
  let sum = 0;
  for (let i = from; i < x.length; i++) sum += ((x[i] as number) / most) ** 2;
  const first = x[from] as number;
  const length = (first > 0 ? -1 : 1) * most * Math.sqrt(sum);
  x[from] = first - length;
  // vᵀ·v = 2·length·(length − first), divided first by its scale: the squares of small numbers are none.
  return { beta: 1 / length / (length - first), length };
}

/** More than a matrix ever takes. */
const mostSweeps = 60;

/**
 * Eigenvalues of a symmetric tridiagonal matrix, in no order: implicit QL with Wilkinson's shift (Golub & Van Loan 2013, §8.3;
 * by rows from the top). Both arrays are overwritten.
 */
function tridiagonalEigenvalues(diagonal: Float64Array, beside: Float64Array): Float64Array {
  const n = diagonal.length;
  const [d, e] = [diagonal, beside];
  let scale = 0;
  for (let i = 0; i < n; i++) scale = Math.max(scale, Math.abs(d[i] ?? 0), Math.abs(e[i] ?? 0));
  const negligible = Number.EPSILON * scale;
  for (let l = 0; l < n; l++) {
    for (let sweep = 0; ; sweep++) {
      let m = l;
      while (m < n - 1 && Math.abs(e[m] as number) > negligible) m++;
      if (m === l) break;
      if (sweep === mostSweeps) throw new Error('the eigenvalues of a matrix do not settle');
      qlSweep(d, e, l, m);
    }
  }
  return d;
}

/** One sweep of rotations over the block l … m. */
function qlSweep(d: Float64Array, e: Float64Array, l: number, m: number): void {
  const at = (values: Float64Array, i: number) => values[i] as number;
  const half = (at(d, l + 1) - at(d, l)) / (2 * at(e, l));
  const root = Math.hypot(half, 1);
  let g = at(d, m) - at(d, l) + at(e, l) / (half + (half >= 0 ? root : -root));
  let sine = 1;
  let cosine = 1;
  let shift = 0;
  for (let i = m - 1; i >= l; i--) {
    const f = sine * at(e, i);
    const b = cosine * at(e, i);
    const r = Math.hypot(f, g);
    // Beside the block's last row there is no place where it ends the matrix; typed arrays drop what is put there.
    e[i + 1] = r;
    if (r === 0) {
      d[i + 1] = at(d, i + 1) - shift;
      e[m] = 0;
      return;
    }
    sine = f / r;
    cosine = g / r;
    g = at(d, i + 1) - shift;
    const t = (at(d, i) - g) * sine + 2 * cosine * b;
    shift = sine * t;
    d[i + 1] = g + shift;
    g = cosine * t - b;
  }
  d[l] = at(d, l) - shift;
  e[l] = g;
  e[m] = 0;
}
