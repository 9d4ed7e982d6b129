// conv2d           x [N, C, H, W],   w [K, C, R, S],       bias [K]     →  y [N, K, P, Q]
// convTranspose2d  x [N, Cin, H, W], w [Cin, Cout, R, S],  bias [Cout]  →  y [N, Cout, P, Q]
// Cross-correlation, zero padding, no dilation and no groups, as torch.nn.functional. pairs are [vertical, horizontal].
import { type Data, type Round } from './naive.ts';

export type Pair = readonly [number, number];

export interface Conv2d {
  readonly x: Data;
  readonly w: Data;
  readonly bias?: Data;
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
  readonly K: number;
  readonly R: number;
  readonly S: number;
  readonly stride: Pair;
  readonly pad: Pair;
}

export interface ConvTranspose2d {
  readonly x: Data;
  readonly w: Data;
  readonly bias?: Data;
  readonly N: number;
  readonly Cin: number;
  readonly H: number;
  readonly W: number;
  readonly Cout: number;
  readonly R: number;
  readonly S: number;
  readonly stride: Pair;
  readonly pad: Pair;
  readonly outputPad: Pair;
}

/** [P, Q] of conv2d: ⌊(H + 2·pad − R) / stride⌋ + 1. */
export function conv2dSize(
  o: Pick<Conv2d, 'H' | 'W' | 'R' | 'S' | 'stride' | 'pad'>,
): [number, number] {
  return [
    Math.floor((o.H + 2 * o.pad[0] - o.R) / o.stride[0]) + 1,
    Math.floor((o.W + 2 * o.pad[1] - o.S) / o.stride[1]) + 1,
  ];
}

/** [P, Q] of convTranspose2d: (H − 1)·stride − 2·pad + R + outputPad. */
export function convTranspose2dSize(
  o: Pick<ConvTranspose2d, 'H' | 'W' | 'R' | 'S' | 'stride' | 'pad' | 'outputPad'>,
): [number, number] {
  return [
    (o.H - 1) * o.stride[0] - 2 * o.pad[0] + o.R + o.outputPad[0],
    (o.W - 1) * o.stride[1] - 2 * o.pad[1] + o.S + o.outputPad[1],
  ];
}

/** Calls `visit(offset in x, offset in w, offset in y)` for every product inside the image. */
function eachConv(o: Conv2d, visit: (ix: number, iw: number, iy: number) => void): void {
  const { N, C, H, W, K, R, S, stride, pad } = o;
  const [P, Q] = conv2dSize(o);
  for (let n = 0; n < N; n++) {
    for (let k = 0; k < K; k++) {
      for (let p = 0; p < P; p++) {
        for (let q = 0; q < Q; q++) {
          for (let c = 0; c < C; c++) {
            for (let a = 0; a < R; a++) {
              for (let b = 0; b < S; b++) {
                const h = p * stride[0] - pad[0] + a;
                const w = q * stride[1] - pad[1] + b;
                if (h < 0 || h >= H || w < 0 || w >= W) continue;
                visit(
                  ((n * C + c) * H + h) * W + w,
                  ((k * C + c) * R + a) * S + b,
                  ((n * K + k) * P + p) * Q + q,
                );
              }
            }
          }
        }
      }
    }
  }
}

export function conv2d(o: Conv2d, r: Round): Float64Array {
  const [P, Q] = conv2dSize(o);
  const y = new Float64Array(o.N * o.K * P * Q);
  eachConv(o, (ix, iw, iy) => {
    y[iy] = r(y[iy]! + r(o.x[ix]! * o.w[iw]!));
  });
  addBias(y, o.bias, o.K, P * Q, r);
  return y;
}

export function conv2dBackward(
  o: Conv2d,
  dy: Data,
  r: Round,
): { dx: Float64Array; dw: Float64Array; dbias: Float64Array } {
  const [P, Q] = conv2dSize(o);
  const dx = new Float64Array(o.x.length);
  const dw = new Float64Array(o.w.length);
  eachConv(o, (ix, iw, iy) => {
    dx[ix] = r(dx[ix]! + r(dy[iy]! * o.w[iw]!));
    dw[iw] = r(dw[iw]! + r(dy[iy]! * o.x[ix]!));
  });
  return { dx, dw, dbias: biasGradient(dy, o.K, P * Q, r) };
}

/** Calls `visit(offset in x, offset in w, offset in y)` for every product that lands inside the output. */
function eachConvTranspose(
  o: ConvTranspose2d,
  visit: (ix: number, iw: number, iy: number) => void,
): void {
  const { N, Cin, H, W, Cout, R, S, stride, pad } = o;
  const [P, Q] = convTranspose2dSize(o);
  for (let n = 0; n < N; n++) {
    for (let c = 0; c < Cin; c++) {
      for (let h = 0; h < H; h++) {
        for (let w = 0; w < W; w++) {
          for (let k = 0; k < Cout; k++) {
            for (let a = 0; a < R; a++) {
              for (let b = 0; b < S; b++) {
                const p = h * stride[0] - pad[0] + a;
                const q = w * stride[1] - pad[1] + b;
                if (p < 0 || p >= P || q < 0 || q >= Q) continue;
                visit(
                  ((n * Cin + c) * H + h) * W + w,
                  ((c * Cout + k) * R + a) * S + b,
                  ((n * Cout + k) * P + p) * Q + q,
                );
              }
            }
          }
        }
      }
    }
  }
}

export function convTranspose2d(o: ConvTranspose2d, r: Round): Float64Array {
  const [P, Q] = convTranspose2dSize(o);
  const y = new Float64Array(o.N * o.Cout * P * Q);
  eachConvTranspose(o, (ix, iw, iy) => {
    y[iy] = r(y[iy]! + r(o.x[ix]! * o.w[iw]!));
  });
  addBias(y, o.bias, o.Cout, P * Q, r);
  return y;
}

export function convTranspose2dBackward(
  o: ConvTranspose2d,
  dy: Data,
  r: Round,
): { dx: Float64Array; dw: Float64Array; dbias: Float64Array } {
  const [P, Q] = convTranspose2dSize(o);
  const dx = new Float64Array(o.x.length);
  const dw = new Float64Array(o.w.length);
  eachConvTranspose(o, (ix, iw, iy) => {
    dx[ix] = r(dx[ix]! + r(dy[iy]! * o.w[iw]!));
    dw[iw] = r(dw[iw]! + r(dy[iy]! * o.x[ix]!));
  });
  return { dx, dw, dbias: biasGradient(dy, o.Cout, P * Q, r) };
}

function addBias(y: Float64Array, bias: Data | undefined, K: number, area: number, r: Round): void {
  if (!bias) return;
  for (let i = 0; i < y.length; i++) y[i] = r(y[i]! + bias[Math.floor(i / area) % K]!);
}

/** Σ over batch and positions of dy, one number a channel. */
export function biasGradient(dy: Data, K: number, area: number, r: Round): Float64Array {
  const db = new Float64Array(K);
  for (let i = 0; i < dy.length; i++) {
    const k = Math.floor(i / area) % K;
    db[k] = r(db[k]! + dy[i]!);
  }
  return db;
}
