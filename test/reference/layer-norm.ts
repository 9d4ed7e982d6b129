// y = (x − mean)/√(var + eps)·gamma + beta along the rows of [rows, cols], with the biased variance.
import { type Data, type Round } from './naive.ts';

export interface LayerNorm {
  readonly x: Data;
  readonly gamma: Data;
  readonly beta: Data;
  readonly rows: number;
  readonly cols: number;
  readonly eps: number;
}

export interface LayerNormResult {
  readonly y: Float64Array;
  readonly mean: Float64Array;
  readonly invStd: Float64Array;
}

export function layerNorm(o: LayerNorm, r: Round): LayerNormResult {
  const { x, gamma, beta, rows, cols, eps } = o;
  const y = new Float64Array(rows * cols);
  const [mean, invStd] = [new Float64Array(rows), new Float64Array(rows)];
  for (let i = 0; i < rows; i++) {
    let sum = 0;
    for (let j = 0; j < cols; j++) sum = r(sum + x[i * cols + j]!);
    const m = r(sum / cols);
    let squares = 0;
    for (let j = 0; j < cols; j++) {
      const d = r(x[i * cols + j]! - m);
      squares = r(squares + r(d * d));
    }
    const s = r(1 / r(Math.sqrt(r(r(squares / cols) + eps))));
    for (let j = 0; j < cols; j++) {
      y[i * cols + j] = r(r(r(r(x[i * cols + j]! - m) * s) * gamma[j]!) + beta[j]!);
    }
    mean[i] = m;
    invStd[i] = s;
  }
  return { y, mean, invStd };
}

export interface LayerNormGrads {
  readonly dx: Float64Array;
  readonly dgamma: Float64Array;
  readonly dbeta: Float64Array;
}

/** dx = invStd·(g − mean(g) − x̂·mean(g·x̂)) with g = gamma·dy;  dgamma = Σ dy·x̂;  dbeta = Σ dy */
export function layerNormBackward(o: LayerNorm, dy: Data, r: Round): LayerNormGrads {
  const { x, gamma, rows, cols } = o;
  const { mean, invStd } = layerNorm(o, r);
  const dx = new Float64Array(rows * cols);
  const [dgamma, dbeta] = [new Float64Array(cols), new Float64Array(cols)];
  for (let i = 0; i < rows; i++) {
    const hat = (j: number) => r(r(x[i * cols + j]! - mean[i]!) * invStd[i]!);
    const g = (j: number) => r(gamma[j]! * dy[i * cols + j]!);
    let [sum, sumHat] = [0, 0];
    for (let j = 0; j < cols; j++) {
      sum = r(sum + g(j));
      sumHat = r(sumHat + r(g(j) * hat(j)));
      dgamma[j] = r(dgamma[j]! + r(dy[i * cols + j]! * hat(j)));
      dbeta[j] = r(dbeta[j]! + dy[i * cols + j]!);
    }
    for (let j = 0; j < cols; j++) {
      const centred = r(r(g(j) - r(sum / cols)) - r(hat(j) * r(sumHat / cols)));
      dx[i * cols + j] = r(invStd[i]! * centred);
    }
  }
  return { dx, dgamma, dbeta };
}
