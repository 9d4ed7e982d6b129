/** The truth of a case, and the verdict on what a peer made of it. No peer is timed that is off. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir } from '../../src/gpu/platform.ts';
import { readSafetensors, writeSafetensors } from '../../src/io/safetensors.ts';
import type { StoredTensor } from '../../src/io/safetensors.ts';
import { dim } from '../../src/util/shape.ts';
import {
  conv2d,
  conv2dBackward,
  convTranspose2d,
  convTranspose2dBackward,
} from '../../test/reference/conv.ts';
import { matmul } from '../../test/reference/matmul.ts';
import { f64 } from '../../test/reference/naive.ts';
import { makeNet, selfAttention } from '../../test/reference/sagan.ts';
import { softmax } from '../../test/reference/softmax.ts';
import type { PeerCase, Values } from './cases.ts';

/** The number format that a peer computes in: it decides how near the truth a right answer is. */
export type Precision = 'f32' | 'tf32' | 'f16';

/**
 * Most that an element may be off, as a share of its tensor's largest. A sum of n terms at unit roundoff u is off by
 * about u·√n; the longest here has 16,384 terms, so f32 loses 8e-6 and an exponential behind it a few times that.
 * tf32 and f16 round every operand to 11 bits (5e-4), and attention's exponentials of scores multiply it.
 * One missing tap of a convolution is off by 1e-2 and more.
 */
const tolerance: Readonly<Record<Precision, number>> = { f32: 1e-4, tf32: 1e-2, f16: 3e-2 };

/**
 * The same for losses, in units of 1, after four steps: right answers in f32 are up to 8e-6 off PyTorch's float64, where
 * rounding tips an activation over ReLU's corner; in f16 up to 1e-4. A gradient that jax-js gets wrong (a constant cotangent)
 * moves them by 8e-4.
 */
const lossTolerance: Readonly<Record<Precision, number>> = { f32: 5e-5, tf32: 5e-4, f16: 5e-4 };

/** The outputs of an operation by test/reference's float64 loops: slow (minutes in all), so kept on disk. */
export async function reference(c: PeerCase, inputs: Values): Promise<Values> {
  const file = join(cacheDir(), 'peers', `${c.name}-${hashOf(c, inputs)}.safetensors`);
  if (existsSync(file)) {
    const { tensors } = await readSafetensors(file, { role: 'reference' });
    return new Map([...tensors].map(([name, t]) => [name, t.data as Float32Array]));
  }
  const outputs = compute(c, inputs);
  mkdirSync(join(cacheDir(), 'peers'), { recursive: true });
  await writeSafetensors(file, stored(outputs));
  return outputs;
}

/** A map of values as flat tensors of a safetensors file, or with the shapes given. */
export function stored(values: Values, shapes?: PeerCase['inputs']): Map<string, StoredTensor> {
  const shapeOf = new Map(shapes);
  return new Map(
    [...values].map(([name, data]) => [
      name,
      { dtype: 'F32', shape: shapeOf.get(name) ?? [data.length], data },
    ]),
  );
}

/** Names the inputs and the work, so that numbers made for others are never taken for this case's. */
export function hashOf(c: PeerCase, inputs: Values): string {
  const hash = createHash('sha256').update(JSON.stringify([c.work, c.backward, c.inputs]));
  for (const data of inputs.values()) hash.update(data);
  return hash.digest('hex').slice(0, 16);
}

function compute(c: PeerCase, inputs: Values): Map<string, Float32Array> {
  const input = (name: string) => valuesOf(inputs, name);
  const shape = (name: string) => c.inputs.find(([key]) => key === name)?.[1] ?? [];
  const dy = inputs.get('dy');
  const out = new Map<string, Float32Array>();
  const put = (name: string, data: Float64Array) => out.set(name, Float32Array.from(data));
  switch (c.work.op) {
    case 'matmul': {
      const [a, b] = [shape('a'), shape('b')];
      const sizes = { M: dim(a, -2), K: dim(a, -1), N: dim(b, -1) };
      const batch = { batchA: a.slice(0, -2), batchB: b.slice(0, -2) };
      put('y', matmul({ a: input('a'), b: input('b'), ...sizes, ...batch }, f64));
      break;
    }
    case 'softmax': {
      const cols = dim(shape('x'), -1);
      put('y', softmax({ x: input('x'), rows: input('x').length / cols, cols }, f64));
      break;
    }
    case 'conv2d':
    case 'convTranspose2d': {
      const [x, w] = [shape('x'), shape('w')];
      const { stride, padding } = c.work;
      const field = {
        R: dim(w, 2),
        S: dim(w, 3),
        stride: [stride, stride],
        pad: [padding, padding],
      } as const;
      const image = {
        x: input('x'),
        w: input('w'),
        N: dim(x, 0),
        H: dim(x, 2),
        W: dim(x, 3),
        ...field,
      };
      const [from, to] = [dim(x, 1), dim(w, c.work.op === 'conv2d' ? 0 : 1)];
      const forward = { ...image, C: from, K: to };
      const transposed = { ...image, Cin: from, Cout: to, outputPad: [0, 0] as const };
      const plain = c.work.op === 'conv2d';
      put('y', plain ? conv2d(forward, f64) : convTranspose2d(transposed, f64));
      if (dy === undefined) break;
      const back = plain
        ? conv2dBackward(forward, dy, f64)
        : convTranspose2dBackward(transposed, dy, f64);
      put('d.x', back.dx);
      put('d.w', back.dw);
      break;
    }
    case 'attention': {
      const [n = 1, channels = 1, height = 1, width = 1] = shape('x');
      const net = makeNet(
        [...inputs].filter(([name]) => name !== 'x' && name !== 'dy'),
        f64,
      );
      const planes = { N: n, C: channels, H: height, W: width };
      const { y, back } = selfAttention(net, '', Float64Array.from(input('x')), planes);
      put('y', y);
      if (dy === undefined) break;
      put('d.x', back(Float64Array.from(dy)));
      for (const [name, gradient] of net.grads) put(`d.${name}`, gradient);
      break;
    }
    case 'gan':
      throw new Error('a training step has golden losses, no loops');
  }
  return out;
}

// ---- the verdict ----------------------------------------------------------------------------------------------------

export interface Verdict {
  readonly right: boolean;
  /** Largest error found, as a share of the tensor's largest value. */
  readonly error: number;
  /** What is wrong, for a report. Empty if nothing is. */
  readonly reason: string;
}

/** Compares every element of every output. A missing output, another length and NaN are wrong. */
export function judge(c: PeerCase, found: Values, truth: Values, precision: Precision): Verdict {
  const losses = c.work.op === 'gan';
  const limit = (losses ? lossTolerance : tolerance)[precision];
  const largest = Math.max(...[...truth.values()].map(maxAbs));
  let error = 0;
  for (const [name, expected] of truth) {
    const actual = found.get(name);
    if (actual?.length !== expected.length) {
      const what =
        actual === undefined ? 'is missing' : `has ${actual.length} values, not ${expected.length}`;
      return { right: false, error: Infinity, reason: `${name} ${what}` };
    }
    // A gradient that is 0 but for rounding (key_conv.bias) has terms as large as the others'. A loss is of order 1.
    const scale = losses
      ? 1
      : Math.max(maxAbs(expected), 0.1 * largest * Number(name.endsWith('.bias')));
    const { worst, index } = largestError(actual, expected);
    if (!(worst <= limit * scale)) {
      const reason = `${name}[${index}] is ${show(actual[index])}, expected ${show(expected[index])}`;
      return { right: false, error: worst / scale, reason };
    }
    error = Math.max(error, worst / scale);
  }
  return { right: true, error, reason: '' };
}

function largestError(actual: Float32Array, expected: Float32Array) {
  let [worst, index] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs((actual[i] ?? NaN) - (expected[i] ?? NaN));
    if (error <= worst) continue;
    [worst, index] = [error, i];
    if (Number.isNaN(error)) break;
  }
  return { worst, index };
}

function maxAbs(values: Float32Array): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

function valuesOf(values: Values, name: string): Float32Array {
  return values.get(name) ?? new Float32Array();
}

function show(value = NaN): string {
  return String(Number(value.toPrecision(6)));
}
