// Elementwise functions with their derivatives, and broadcast arithmetic. Values at kinks are PyTorch's:
// relu'(0) = 0, leakyRelu'(0) = slope, abs'(0) = 0; maximum gives each side half where they are equal.
import { type Data, type Round } from './naive.ts';
import { broadcastOffsets, broadcastShape, numel, type Shape } from './shape.ts';

interface Pointwise {
  readonly f: (x: number, r: Round, slope: number) => number;
  /** Derivative at x; y is f(x). */
  readonly df: (x: number, y: number, r: Round, slope: number) => number;
}

export const pointwise = {
  relu: { f: (x) => Math.max(x, 0), df: (x) => (x > 0 ? 1 : 0) },
  leakyRelu: {
    f: (x, r, slope) => (x > 0 ? x : r(r(slope) * x)),
    df: (x, _y, r, slope) => (x > 0 ? 1 : r(slope)),
  },
  tanh: { f: (x, r) => r(Math.tanh(x)), df: (_x, y, r) => r(1 - r(y * y)) },
  sigmoid: {
    f: (x, r) => r(1 / r(1 + r(Math.exp(-x)))),
    df: (_x, y, r) => r(y * r(1 - y)),
  },
  // max(x, 0) + log(1 + e^−|x|): the form that neither overflows nor loses small x
  softplus: {
    f: (x, r) => r(Math.max(x, 0) + r(Math.log1p(r(Math.exp(-Math.abs(x)))))),
    df: (x, _y, r) => r(1 / r(1 + r(Math.exp(-x)))),
  },
  exp: { f: (x, r) => r(Math.exp(x)), df: (_x, y) => y },
  log: { f: (x, r) => r(Math.log(x)), df: (x, _y, r) => r(1 / x) },
  sqrt: { f: (x, r) => r(Math.sqrt(x)), df: (_x, y, r) => r(0.5 / y) },
  rsqrt: {
    f: (x, r) => r(1 / r(Math.sqrt(x))),
    df: (_x, y, r) => r(-0.5 * r(y * r(y * y))),
  },
  neg: { f: (x) => -x, df: () => -1 },
  abs: { f: (x) => Math.abs(x), df: (x) => Math.sign(x) },
  square: { f: (x, r) => r(x * x), df: (x, _y, r) => r(2 * x) },
  reciprocal: { f: (x, r) => r(1 / x), df: (_x, y, r) => -r(y * y) },
} as const satisfies Record<string, Pointwise>;

export type PointwiseName = keyof typeof pointwise;
export const pointwiseNames = Object.keys(pointwise) as PointwiseName[];

export interface Unary {
  readonly x: Data;
  /** Of leakyRelu; default 0.01. */
  readonly slope?: number;
}

export function unary(name: PointwiseName, { x, slope = 0.01 }: Unary, r: Round): Float64Array {
  const op: Pointwise = pointwise[name];
  return Float64Array.from(x, (a) => op.f(a, r, slope));
}

export function unaryBackward(
  name: PointwiseName,
  { x, slope = 0.01 }: Unary,
  dy: Data,
  r: Round,
): { dx: Float64Array } {
  const op: Pointwise = pointwise[name];
  return { dx: Float64Array.from(x, (a, i) => r(dy[i]! * op.df(a, op.f(a, r, slope), r, slope))) };
}

interface BinaryOp {
  readonly f: (a: number, b: number, r: Round) => number;
  /** ∂f/∂a, ∂f/∂b */
  readonly da: (a: number, b: number, r: Round) => number;
  readonly db: (a: number, b: number, r: Round) => number;
}

const larger = (a: number, b: number) => (a > b ? 1 : a === b ? 0.5 : 0);

export const arithmetic = {
  add: { f: (a, b, r) => r(a + b), da: () => 1, db: () => 1 },
  sub: { f: (a, b, r) => r(a - b), da: () => 1, db: () => -1 },
  mul: { f: (a, b, r) => r(a * b), da: (_a, b) => b, db: (a) => a },
  div: {
    f: (a, b, r) => r(a / b),
    da: (_a, b, r) => r(1 / b),
    db: (a, b, r) => -r(r(a / b) / b),
  },
  maximum: { f: (a, b) => Math.max(a, b), da: (a, b) => larger(a, b), db: (a, b) => larger(b, a) },
} as const satisfies Record<string, BinaryOp>;

export type ArithmeticName = keyof typeof arithmetic;
export const arithmeticNames = Object.keys(arithmetic) as ArithmeticName[];

export interface Binary {
  readonly a: Data;
  readonly shapeA: Shape;
  readonly b: Data;
  readonly shapeB: Shape;
}

/** Result of shape broadcastShape(shapeA, shapeB). */
export function binary(name: ArithmeticName, o: Binary, r: Round): Float64Array {
  const op: BinaryOp = arithmetic[name];
  const shape = broadcastShape(o.shapeA, o.shapeB);
  const atA = broadcastOffsets(o.shapeA, shape);
  const atB = broadcastOffsets(o.shapeB, shape);
  return new Float64Array(numel(shape)).map((_, i) => op.f(o.a[atA[i]!]!, o.b[atB[i]!]!, r));
}

/** Gradients in the shapes of a and b: broadcast axes are summed. */
export function binaryBackward(
  name: ArithmeticName,
  o: Binary,
  dy: Data,
  r: Round,
): { da: Float64Array; db: Float64Array } {
  const op: BinaryOp = arithmetic[name];
  const shape = broadcastShape(o.shapeA, o.shapeB);
  const atA = broadcastOffsets(o.shapeA, shape);
  const atB = broadcastOffsets(o.shapeB, shape);
  const da = new Float64Array(o.a.length);
  const db = new Float64Array(o.b.length);
  for (let i = 0; i < numel(shape); i++) {
    const ia = atA[i]!;
    const ib = atB[i]!;
    da[ia] = r(da[ia]! + r(dy[i]! * op.da(o.a[ia]!, o.b[ib]!, r)));
    db[ib] = r(db[ib]! + r(dy[i]! * op.db(o.a[ia]!, o.b[ib]!, r)));
  }
  return { da, db };
}
