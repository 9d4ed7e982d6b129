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
  return Float32Array.from({ length: sizeOf(shape) }, () => (2 * rng.uniform() - 1) * bound);
}

export const zeros: Init = (shape) => new Float32Array(sizeOf(shape));
export const ones: Init = (shape) => new Float32Array(sizeOf(shape)).fill(1);

/** N(mean, std²): DCGAN's 0.02. */
export const normal =
  (std = 0.02, mean = 0): Init =>
  (shape, rng) =>
    Float32Array.from({ length: sizeOf(shape) }, () => mean + std * rng.normal());

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
 * Saxe et al. 2013: rows (or columns, if there are more rows) orthonormal, times gain. Gram–Schmidt twice over in
 * float64, which is as orthogonal as the f32 result can hold.
 */
export const orthogonal =
  (gain = 1): Init =>
  (shape, rng) => {
    const rows = dim(shape, 0);
    const cols = sizeOf(shape) / rows;
    const [count, length] = rows <= cols ? [rows, cols] : [cols, rows];
    const vectors: Float64Array[] = [];
    for (let i = 0; i < count; i++) {
      const vector = Float64Array.from({ length }, () => rng.normal());
      for (let pass = 0; pass < 2; pass++) for (const other of vectors) project(vector, other);
      const norm = Math.sqrt(dot(vector, vector));
      vectors.push(vector.map((x) => x / norm));
    }
    const out = new Float32Array(rows * cols);
    vectors.forEach((vector, i) => {
      vector.forEach((x, j) => {
        out[rows <= cols ? i * cols + j : j * cols + i] = gain * x;
      });
    });
    return out;
  };

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
