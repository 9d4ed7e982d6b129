import { dotTiles } from './dots.ts';
import type { OnWork, Rows } from './dots.ts';
import type { Moments } from './factor.ts';
import { nuclearNorm } from './nuclear.ts';

/**
 * The squared Fréchet distance of two normal distributions (Dowson & Landau 1982; as a score of generators Heusel et al. 2017):
 *   |m₁ − m₂|² + tr Σ₁ + tr Σ₂ − 2·tr (Σ₁·Σ₂)^½
 * With Σ = Fᵀ·F the last trace is the sum of the singular values of F₁·F₂ᵀ: the roots of the eigenvalues of Σ₁^½·Σ₂·Σ₁^½, found
 * without squaring anything. No matrix is inverted and no root taken of one, so it is right for fewer samples than features, and
 * for images that are all alike, where its matrix is empty. In units of a feature, squared; never below 0.
 */
export function frechetDistance(a: Moments, b: Moments, onWork?: OnWork): number {
  let apart = 0;
  a.mean.forEach((m, k) => {
    apart += (m - (b.mean[k] ?? NaN)) ** 2;
  });
  const both = nuclearNorm(products(a.factor, b.factor), onWork);
  return Math.max(0, apart + a.trace + b.trace - 2 * both);
}

/** a·bᵀ */
function products(a: Rows, b: Rows): Rows {
  const data = new Float64Array(a.n * b.n);
  for (const { i0, j0, rows, columns, values } of dotTiles(a, b)) {
    for (let i = 0; i < rows; i++) {
      data.set(values.subarray(i * columns, (i + 1) * columns), (i0 + i) * b.n + j0);
    }
  }
  return { n: a.n, d: b.n, data };
}
