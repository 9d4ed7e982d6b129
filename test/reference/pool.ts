// Max and average pooling of x [N, C, H, W] → [N, C, P, Q], as torch.nn.functional (no dilation, floor mode). Max: padding is −∞, and the first maximum of a window in row order takes the gradient.
import { conv2dSize, type Pair } from './conv.ts';
import { type Data, type Round } from './naive.ts';

export interface Pool {
  readonly x: Data;
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
  readonly kernel: Pair;
  /** Default: the kernel. */
  readonly stride?: Pair;
  readonly pad?: Pair;
  /** Of means. Default true. */
  readonly countIncludePad?: boolean;
}

export function poolSize(o: Pick<Pool, 'H' | 'W' | 'kernel' | 'stride' | 'pad'>): [number, number] {
  const { H, W, kernel, stride = kernel, pad = [0, 0] } = o;
  return conv2dSize({ H, W, R: kernel[0], S: kernel[1], stride, pad });
}

/** Calls `visit(output offset, input offsets of its window inside the image)`. */
function eachWindow(o: Pool, visit: (iy: number, window: number[]) => void): void {
  const { N, C, H, W, kernel, stride = kernel, pad = [0, 0] } = o;
  const [P, Q] = poolSize(o);
  for (let plane = 0; plane < N * C; plane++) {
    for (let p = 0; p < P; p++) {
      for (let q = 0; q < Q; q++) {
        const window: number[] = [];
        for (let a = 0; a < kernel[0]; a++) {
          for (let b = 0; b < kernel[1]; b++) {
            const h = p * stride[0] - pad[0] + a;
            const w = q * stride[1] - pad[1] + b;
            if (h >= 0 && h < H && w >= 0 && w < W) window.push((plane * H + h) * W + w);
          }
        }
        visit((plane * P + p) * Q + q, window);
      }
    }
  }
}

function firstMaximum(x: Data, window: readonly number[]): number {
  return window.reduce((best, i) => (x[i]! > x[best]! ? i : best));
}

function outputs(o: Pool): Float64Array {
  const [P, Q] = poolSize(o);
  return new Float64Array(o.N * o.C * P * Q);
}

export function maxPool2d(o: Pool, _r: Round): Float64Array {
  const y = outputs(o);
  eachWindow(o, (iy, window) => {
    y[iy] = o.x[firstMaximum(o.x, window)]!;
  });
  return y;
}

export function maxPool2dBackward(o: Pool, dy: Data, r: Round): { dx: Float64Array } {
  const dx = new Float64Array(o.x.length);
  eachWindow(o, (iy, window) => {
    const i = firstMaximum(o.x, window);
    dx[i] = r(dx[i]! + dy[iy]!);
  });
  return { dx };
}

/** What a mean over a window divides by. */
function areaOf({ kernel, countIncludePad = true }: Pool, window: readonly number[]): number {
  return countIncludePad ? kernel[0] * kernel[1] : window.length;
}

export function avgPool2d(o: Pool, r: Round): Float64Array {
  const y = outputs(o);
  eachWindow(o, (iy, window) => {
    let sum = 0;
    for (const i of window) sum = r(sum + o.x[i]!);
    y[iy] = r(sum / areaOf(o, window));
  });
  return y;
}

export function avgPool2dBackward(o: Pool, dy: Data, r: Round): { dx: Float64Array } {
  const dx = new Float64Array(o.x.length);
  eachWindow(o, (iy, window) => {
    for (const i of window) dx[i] = r(dx[i]! + r(dy[iy]! / areaOf(o, window)));
  });
  return { dx };
}
