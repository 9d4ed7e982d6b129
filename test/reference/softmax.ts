// y = exp(x − max) / Σ exp(x − max) along the rows of [rows, cols].
import { type Data, type Round } from './naive.ts';

export interface Softmax {
  readonly x: Data;
  readonly rows: number;
  readonly cols: number;
}

export function softmax({ x, rows, cols }: Softmax, r: Round): Float64Array {
  const y = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    let m = -Infinity;
    for (let j = 0; j < cols; j++) m = Math.max(m, x[i * cols + j]!);
    let l = 0;
    for (let j = 0; j < cols; j++) {
      const e = r(Math.exp(r(x[i * cols + j]! - m)));
      y[i * cols + j] = e;
      l = r(l + e);
    }
    for (let j = 0; j < cols; j++) y[i * cols + j] = r(y[i * cols + j]! / l);
  }
  return y;
}

/** dx = y·(dy − Σ y·dy) */
export function softmaxBackward(o: Softmax, dy: Data, r: Round): { dx: Float64Array } {
  const { rows, cols } = o;
  const y = softmax(o, r);
  const dx = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    let s = 0;
    for (let j = 0; j < cols; j++) s = r(s + r(y[i * cols + j]! * dy[i * cols + j]!));
    for (let j = 0; j < cols; j++) {
      dx[i * cols + j] = r(y[i * cols + j]! * r(dy[i * cols + j]! - s));
    }
  }
  return { dx };
}
