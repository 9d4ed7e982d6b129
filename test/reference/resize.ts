// Resizing of x [N, C, H, W], as torch.nn.functional.interpolate.
//   nearest   by a whole factor (default 2): y[i] = x[⌊i / factor⌋]
//   bilinear  to [P, Q], no antialias: source = max(0, (i + ½)·H/P − ½), or i·(H − 1)/(P − 1) with align_corners
import { type Data, type Round } from './naive.ts';

interface Images {
  readonly x: Data;
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
}

export interface Nearest extends Images {
  readonly factor?: number;
}

export interface Bilinear extends Images {
  readonly P: number;
  readonly Q: number;
  /** Default false. */
  readonly alignCorners?: boolean;
}

function eachNearest(o: Nearest, visit: (ix: number, iy: number) => void): void {
  const { N, C, H, W, factor = 2 } = o;
  for (let plane = 0; plane < N * C; plane++) {
    for (let p = 0; p < H * factor; p++) {
      for (let q = 0; q < W * factor; q++) {
        const h = Math.floor(p / factor);
        const w = Math.floor(q / factor);
        visit((plane * H + h) * W + w, (plane * H * factor + p) * W * factor + q);
      }
    }
  }
}

export function nearest(o: Nearest, _r: Round): Float64Array {
  const y = new Float64Array(o.x.length * (o.factor ?? 2) ** 2);
  eachNearest(o, (ix, iy) => {
    y[iy] = o.x[ix]!;
  });
  return y;
}

export function nearestBackward(o: Nearest, dy: Data, r: Round): { dx: Float64Array } {
  const dx = new Float64Array(o.x.length);
  eachNearest(o, (ix, iy) => {
    dx[ix] = r(dx[ix]! + dy[iy]!);
  });
  return { dx };
}

/** The two source rows (or columns) of output i and their weights. */
function taps(i: number, from: number, to: number, r: Round, alignCorners = false) {
  const source = alignCorners
    ? r(i * (to > 1 ? r((from - 1) / (to - 1)) : 0))
    : Math.max(0, r(r(r(i + 0.5) * r(from / to)) - 0.5));
  const low = Math.min(Math.floor(source), from - 1);
  const high = Math.min(low + 1, from - 1);
  const t = r(source - low);
  return [
    { at: low, weight: r(1 - t) },
    { at: high, weight: t },
  ];
}

export function bilinear(o: Bilinear, r: Round): Float64Array {
  const { x, N, C, H, W, P, Q } = o;
  const y = new Float64Array(N * C * P * Q);
  for (let plane = 0; plane < N * C; plane++) {
    for (let p = 0; p < P; p++) {
      for (let q = 0; q < Q; q++) {
        let sum = 0;
        for (const row of taps(p, H, P, r, o.alignCorners)) {
          let line = 0;
          for (const col of taps(q, W, Q, r, o.alignCorners)) {
            line = r(line + r(col.weight * x[(plane * H + row.at) * W + col.at]!));
          }
          sum = r(sum + r(row.weight * line));
        }
        y[(plane * P + p) * Q + q] = sum;
      }
    }
  }
  return y;
}

export function bilinearBackward(o: Bilinear, dy: Data, r: Round): { dx: Float64Array } {
  const { N, C, H, W, P, Q } = o;
  const dx = new Float64Array(o.x.length);
  for (let plane = 0; plane < N * C; plane++) {
    for (let p = 0; p < P; p++) {
      for (let q = 0; q < Q; q++) {
        for (const row of taps(p, H, P, r, o.alignCorners)) {
          for (const col of taps(q, W, Q, r, o.alignCorners)) {
            const i = (plane * H + row.at) * W + col.at;
            const g = r(r(row.weight * col.weight) * dy[(plane * P + p) * Q + q]!);
            dx[i] = r(dx[i]! + g);
          }
        }
      }
    }
  }
  return { dx };
}
