// The mean over the rows that count of Σ_c w_c·(ln Σ e^x − x_c), w = (1 − smoothing)·[c is the label] + smoothing/classes.
import { type Data, type Round } from './naive.ts';

export interface CrossEntropy {
  readonly logits: Data;
  readonly labels: ArrayLike<number>;
  readonly rows: number;
  readonly classes: number;
  /** Rows with this label are left out, as are those whose label is no class. */
  readonly ignore: number;
  readonly smoothing: number;
}

export interface CrossEntropyResult {
  readonly mean: number;
  /** 1/(rows that count), 0 for none. */
  readonly share: number;
  readonly lse: Float64Array;
  readonly loss: Float64Array;
  readonly dx: Float64Array;
}

/** With dx, the gradient of the mean. */
export function crossEntropy(o: CrossEntropy, r: Round): CrossEntropyResult {
  const { logits, labels, rows, classes, ignore, smoothing } = o;
  const counts = (i: number) => labels[i] !== ignore && labels[i]! < classes;
  const [lse, loss] = [new Float64Array(rows), new Float64Array(rows)];
  const dx = new Float64Array(rows * classes);
  let [total, n] = [0, 0];
  for (let i = 0; i < rows; i++) {
    const x = (j: number) => logits[i * classes + j]!;
    let m = -Infinity;
    for (let j = 0; j < classes; j++) m = Math.max(m, x(j));
    let [l, sum] = [0, 0];
    for (let j = 0; j < classes; j++) {
      l = r(l + r(Math.exp(r(x(j) - m))));
      sum = r(sum + r(x(j) - m));
    }
    lse[i] = r(m + r(Math.log(l)));
    if (!counts(i)) continue;
    const right = r((1 - smoothing) * r(x(labels[i]!) - m));
    loss[i] = r(r(r(Math.log(l)) - right) - r(smoothing * r(sum / classes)));
    total = r(total + loss[i]!);
    n++;
  }
  const share = n === 0 ? 0 : r(1 / n);
  for (let i = 0; i < rows; i++) {
    if (!counts(i)) continue;
    for (let j = 0; j < classes; j++) {
      const w = (labels[i] === j ? 1 - smoothing : 0) + smoothing / classes;
      const p = r(Math.exp(r(logits[i * classes + j]! - lse[i]!)));
      dx[i * classes + j] = r(share * r(p - r(w)));
    }
  }
  return { mean: n === 0 ? 0 : r(total / n), share, lse, loss, dx };
}
