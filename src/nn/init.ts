import type { HostRng } from '../util/philox.ts';
import { dim, sizeOf } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';

/** Makes the first values of a weight, on the host, from a seeded stream. */
export type Init = (shape: Shape, rng: HostRng) => Float32Array;

/** Inputs and outputs of one unit: PyTorch's `_calculate_fan_in_and_fan_out`. */
function fans(shape: Shape): { fanIn: number; fanOut: number } {
  const field = sizeOf(shape.slice(2));
  return { fanIn: dim(shape, 1) * field, fanOut: dim(shape, 0) * field };
}

function uniform(shape: Shape, rng: HostRng, bound: number): Float32Array {
  const out = new Float32Array(sizeOf(shape));
  for (let i = 0; i < out.length; i++) out[i] = (2 * rng.uniform() - 1) * bound;
  return out;
}

export const zeros: Init = (shape) => new Float32Array(sizeOf(shape));
export const ones: Init = (shape) => new Float32Array(sizeOf(shape)).fill(1);

/** N(mean, std²): DCGAN's 0.02. */
export const normal =
  (std = 0.02, mean = 0): Init =>
  (shape, rng) => {
    const out = new Float32Array(sizeOf(shape));
    for (let i = 0; i < out.length; i++) out[i] = mean + std * rng.normal();
    return out;
  };

/** Glorot & Bengio 2010: U(±gain·√(6/(fan_in + fan_out))). The SAGAN authors' choice. */
export const xavierUniform =
  (gain = 1): Init =>
  (shape, rng) => {
    const { fanIn, fanOut } = fans(shape);
    return uniform(shape, rng, gain * Math.sqrt(6 / (fanIn + fanOut)));
  };

/** PyTorch's default for convolutions and linear layers: U(±1/√fan_in). */
export const kaimingUniform: Init = (shape, rng) =>
  uniform(shape, rng, 1 / Math.sqrt(fans(shape).fanIn));

/** U(±1/√fan_in) for a bias, given the weight's shape. */
export const biasLike =
  (weight: Shape): Init =>
  (shape, rng) =>
    uniform(shape, rng, 1 / Math.sqrt(fans(weight).fanIn));

/**
 * Saxe et al. 2013: rows (or columns, if there are more rows) orthonormal, times gain. Gram–Schmidt in float64 on
 * normal vectors, which the f32 result cannot tell from exact.
 */
export const orthogonal =
  (gain = 1): Init =>
  (shape, rng) => {
    const rows = dim(shape, 0);
    const cols = sizeOf(shape) / rows;
    const [count, length] = rows <= cols ? [rows, cols] : [cols, rows];
    const vectors: Float64Array[] = [];
    for (let i = 0; i < count; i++) {
      const vector = new Float64Array(length);
      for (let j = 0; j < length; j++) vector[j] = rng.normal();
      vectors.push(vector);
    }
    orthonormalise(vectors);
    const out = new Float32Array(rows * cols);
    const [across, along] = rows <= cols ? [cols, 1] : [1, cols];
    vectors.forEach((vector, i) => {
      for (let j = 0; j < length; j++) out[i * across + j * along] = gain * (vector[j] ?? 0);
    });
    return out;
  };

/** Vectors finished together, and then taken out of all later ones while they lie in the cache. */
const BLOCK = 8;
/** A vector that lost more of its length than this to earlier ones has lost digits of its direction too. */
const LOST = 1e-4;

/**
 * Gram–Schmidt in place, in blocks. A vector that nearly lies in the span of those before it is projected once more
 * ("twice is enough", Giraud et al. 2005); one pass leaves the others orthogonal to 10⁻¹².
 */
export function orthonormalise(vectors: readonly Float64Array[]): void {
  const lengths = vectors.map((vector) => Math.sqrt(dot(vector, vector)));
  const spare = new Float64Array(vectors[0]?.length ?? 0);
  for (let begin = 0; begin < vectors.length; begin += BLOCK) {
    const block = vectors.slice(begin, begin + BLOCK);
    block.forEach((vector, k) => {
      for (const other of block.slice(0, k)) project(vector, other);
      let norm = Math.sqrt(dot(vector, vector));
      if (norm < LOST * (lengths[begin + k] ?? 0)) {
        for (const other of vectors.slice(0, begin + k)) project(vector, other);
        norm = Math.sqrt(dot(vector, vector));
      }
      for (let j = 0; j < vector.length; j++) vector[j] = (vector[j] ?? 0) / norm;
    });
    for (let i = begin + BLOCK; i < vectors.length; i += 2) {
      const x = vectors[i] ?? spare;
      const y = vectors[i + 1] ?? spare;
      for (let k = 0; k < BLOCK; k += 4) {
        const [p = spare, q = spare, r = spare, s = spare] = block.slice(k, k + 4);
        project2(x, y, p, q, r, s);
      }
    }
  }
}

/** `project` of two vectors on four units at once: a third of the loads, and no sum waits for another. */
function project2(
  x: Float64Array,
  y: Float64Array,
  a: Float64Array,
  b: Float64Array,
  c: Float64Array,
  d: Float64Array,
): void {
  let xa = 0;
  let xb = 0;
  let xc = 0;
  let xd = 0;
  let ya = 0;
  let yb = 0;
  let yc = 0;
  let yd = 0;
  for (let i = 0; i < x.length; i++) {
    const u = x[i] ?? 0;
    const v = y[i] ?? 0;
    const p = a[i] ?? 0;
    const q = b[i] ?? 0;
    const r = c[i] ?? 0;
    const s = d[i] ?? 0;
    xa += u * p;
    xb += u * q;
    xc += u * r;
    xd += u * s;
    ya += v * p;
    yb += v * q;
    yc += v * r;
    yd += v * s;
  }
  for (let i = 0; i < x.length; i++) {
    const p = a[i] ?? 0;
    const q = b[i] ?? 0;
    const r = c[i] ?? 0;
    const s = d[i] ?? 0;
    x[i] = (x[i] ?? 0) - xa * p - xb * q - xc * r - xd * s;
    y[i] = (y[i] ?? 0) - ya * p - yb * q - yc * r - yd * s;
  }
}

function dot(a: Float64Array, b: Float64Array): number {
  let s = 0;
  for (let i = 0; i < a.length; i++) s += (a[i] ?? 0) * (b[i] ?? 0);
  return s;
}

/** Takes the part along `unit` out of `vector`. */
function project(vector: Float64Array, unit: Float64Array): void {
  const along = dot(vector, unit);
  for (let i = 0; i < vector.length; i++) vector[i] = (vector[i] ?? 0) - along * (unit[i] ?? 0);
}

/** The initialisers by the name that a config uses. */
export const initialisers = {
  xavier: xavierUniform(),
  orthogonal: orthogonal(),
  normal: normal(0.02),
  default: kaimingUniform,
} as const satisfies Record<string, Init>;

export type InitName = keyof typeof initialisers;
