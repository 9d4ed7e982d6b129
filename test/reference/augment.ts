// DiffAugment, step by step as it is defined: brightness, saturation, contrast, shift, square.
import type { Data, Round } from './naive.ts';

export interface AugmentCase {
  /** [N, C, T, H, W] */
  readonly x: Data;
  /** [N, 8] in [0, 1) */
  readonly u: Data;
  readonly N: number;
  readonly C: number;
  readonly T: number;
  readonly H: number;
  readonly W: number;
  readonly which: readonly string[];
}

const mean = (values: readonly number[], r: Round) =>
  r(values.reduce((sum, v) => r(sum + v), 0) / values.length);

/** The numbers that row n of u stands for. */
function drawn({ u, H, W }: AugmentCase, n: number) {
  const of = (i: number) => u[8 * n + i]!;
  const whole = (i: number, bound: number) =>
    Math.min(Math.floor(Math.fround(of(i) * bound)), bound - 1);
  const shift = (i: number, size: number) => {
    const reach = Math.floor(size / 8 + 0.5);
    return whole(i, 2 * reach + 1) - reach;
  };
  const square = (i: number, size: number) => {
    const side = Math.floor(size / 2 + 0.5);
    const from = whole(i, size + 1 - (side % 2)) - Math.floor(side / 2);
    return { from, to: from + side };
  };
  return {
    ...{ b: of(0) - 0.5, s: 2 * of(1), c: of(2) + 0.5 },
    ...{ ty: shift(3, H), tx: shift(4, W), rows: square(5, H), columns: square(6, W) },
  };
}

/** Where each element of the image comes from, −1 for nowhere; all planes alike. */
function sources(one: AugmentCase, n: number): number[] {
  const { H, W, which } = one;
  const { ty, tx, rows, columns } = drawn(one, n);
  return Array.from({ length: H * W }, (_u, i) => {
    const [y, x] = [Math.floor(i / W), i % W];
    const hidden = y >= rows.from && y < rows.to && x >= columns.from && x < columns.to;
    if (which.includes('cutout') && hidden) return -1;
    const moves = which.includes('translation');
    const [fromY, fromX] = moves ? [y - ty, x - tx] : [y, x];
    const inside = fromY >= 0 && fromY < H && fromX >= 0 && fromX < W;
    return inside ? fromY * W + fromX : -1;
  });
}

/** The colours of an image [C, P], in place. */
function colors(x: Float64Array, C: number, { b, s, c }: ReturnType<typeof drawn>, r: Round) {
  const P = x.length / C;
  for (let i = 0; i < x.length; i++) x[i] = r(x[i]! + b);
  for (let i = 0; i < P; i++) {
    const channels = Array.from({ length: C }, (_u, k) => x[k * P + i]!);
    const m = mean(channels, r);
    channels.forEach((v, k) => (x[k * P + i] = r(r(r(v - m) * s) + m)));
  }
  const all = mean([...x], r);
  for (let i = 0; i < x.length; i++) x[i] = r(r(r(x[i]! - all) * c) + all);
}

export function augment(one: AugmentCase, r: Round): Float64Array {
  const { x, N, C, T, H, W, which } = one;
  const size = C * T * H * W;
  const out = new Float64Array(N * size);
  for (let n = 0; n < N; n++) {
    const image = Float64Array.from({ length: size }, (_u, i) => x[n * size + i]!);
    if (which.includes('color')) colors(image, C, drawn(one, n), r);
    const from = sources(one, n);
    for (let plane = 0; plane < C * T; plane++) {
      from.forEach((source, i) => {
        out[n * size + plane * H * W + i] = source < 0 ? 0 : image[plane * H * W + source]!;
      });
    }
  }
  return out;
}

/** The gradient of Σ y·dy by x. */
export function augmentBackward(one: AugmentCase, dy: Data, r: Round): Float64Array {
  const { N, C, T, H, W, which } = one;
  const size = C * T * H * W;
  const out = new Float64Array(N * size);
  for (let n = 0; n < N; n++) {
    const dx = new Float64Array(size);
    const from = sources(one, n);
    for (let plane = 0; plane < C * T; plane++) {
      from.forEach((source, i) => {
        if (source >= 0) dx[plane * H * W + source] = dy[n * size + plane * H * W + i]!;
      });
    }
    if (which.includes('color')) colorsBackward(dx, C, drawn(one, n), r);
    out.set(dx, n * size);
  }
  return out;
}

/** Through contrast, then saturation; brightness hands its gradient on. In place. */
function colorsBackward(dx: Float64Array, C: number, { s, c }: ReturnType<typeof drawn>, r: Round) {
  const P = dx.length / C;
  const all = mean([...dx], r);
  for (let i = 0; i < dx.length; i++) dx[i] = r(r(c * dx[i]!) + r((1 - c) * all));
  for (let i = 0; i < P; i++) {
    const channels = Array.from({ length: C }, (_u, k) => dx[k * P + i]!);
    const m = mean(channels, r);
    channels.forEach((v, k) => (dx[k * P + i] = r(r(s * v) + r((1 - s) * m))));
  }
}
