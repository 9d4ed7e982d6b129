// What the tests of ops share: tensors from float64 data, and the same work run eagerly and as a captured program.
import { grad } from '../../src/autograd/tape.ts';
import type { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { DType, FloatType, Tensor } from '../../src/autograd/tensor.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import {
  type Budget,
  budget,
  type Data,
  f32,
  f64,
  maxAbs,
  type Round,
} from '../reference/naive.ts';
import { expectTensorClose } from './close.ts';
import { randomHalves, roundedToHalf, storedAsHalf } from './half.ts';
import { randomData } from './random.ts';

export interface HostInput {
  readonly shape: readonly number[];
  readonly data: Data;
}

export type Named = Readonly<Record<string, Float64Array>>;

/** An op, its float64 reference and the reference's gradients, on named inputs. */
export interface OpCase {
  readonly name: string;
  readonly inputs: Readonly<Record<string, HostInput>>;
  readonly op: (t: Readonly<Record<string, Tensor>>, type: FloatType) => Tensor;
  readonly forward: (d: Named, r: Round) => { shape: readonly number[]; data: Data };
  /** Gradients of Σ y·dy, one an input that has one. */
  readonly backward: (d: Named, dy: Data, r: Round) => Readonly<Record<string, Data>>;
  /** The op moves state (u and v, running statistics): a program's second run has another result. */
  readonly stateful?: boolean;
  /** What WGSL grants the built-ins of the op, absolutely, on values and on gradients. */
  readonly allowance?: number;
  /** What the case is on tensors of f16. Left out: it is for f32 alone. */
  readonly halves?: Halves;
}

export interface Halves {
  /** Inputs that are f16, their data rounded to that; the others are f32. Default: all. */
  readonly inputs?: readonly string[];
  /** Those of them whose gradients are f32 all the same: weights, and what is broadcast, whose gradient is a sum. */
  readonly weights?: readonly string[];
  /** Default f16. */
  readonly result?: FloatType;
  /** What a rule that is made of several ops loses where it rounds between them, absolutely, on gradients of f16. */
  readonly between?: number;
}

export const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/** Random float32 values in [low, high] of a shape. */
export function randomInput(shape: readonly number[], seed: number, low = -1, high = 1): HostInput {
  return { shape, data: randomData(count(shape), seed, low, high) };
}

export function leaf(
  tape: Tape,
  { shape, data }: HostInput,
  label = 'leaf',
  dtype: FloatType = 'f32',
): Tensor {
  return tensor(tape, Float32Array.from(data), shape, { label, dtype, requiresGrad: true });
}

export interface HostResult {
  readonly shape: readonly number[];
  readonly data: Float32Array;
  readonly dtype: DType;
}

/** Runs `body` eagerly and reads what it returns; everything that it made is released. */
export async function eagerly(gpu: Gpu, body: () => readonly Tensor[]): Promise<HostResult[]> {
  const mark = gpu.alloc(4, 'mark');
  gpu.release(mark);
  const made = gpu.scope(body, (tensors) => tensors.map((t) => t.storage));
  const results: HostResult[] = [];
  for (const t of made) results.push({ shape: t.shape, data: await t.read(), dtype: t.dtype });
  // A gradient can be the upstream gradient itself, which belongs to the caller.
  for (const { storage } of made) if (storage.id > mark.id) gpu.release(storage);
  return results;
}

/** Captures `body`, runs the program `runs` times and reads what the body returned. */
export async function replayed(
  gpu: Gpu,
  body: () => readonly Tensor[],
  runs = 1,
): Promise<HostResult[]> {
  let made: readonly Tensor[] = [];
  const capture = gpu.capture(() => {
    made = body();
    return made.map((t) => t.storage);
  });
  const program = await capture.build();
  for (let i = 0; i < runs; i++) program.run();
  const results: HostResult[] = [];
  for (const t of made) results.push({ shape: t.shape, data: await t.read(), dtype: t.dtype });
  program.destroy();
  return results;
}

/** The bits of some results: equal for equal bits, NaN and −0 included. */
export function bitsOf(results: readonly HostResult[]): Uint32Array[] {
  return results.map(({ data }) => new Uint32Array(data.buffer, data.byteOffset, data.length));
}

/** expectTensorClose for a result that must be of a type; one of f16 may be off by its rounding too. */
function expectOfType(
  actual: HostResult,
  { type, ...reference }: { type: FloatType; shape: readonly number[]; data: Data },
  { between = 0, ...float }: Budget & { readonly between?: number | undefined },
  what: string,
): void {
  if (actual.dtype !== type) throw new Error(`${what}: ${actual.dtype}, expected ${type}`);
  const allowed = { ...float, abs: float.abs + between };
  expectTensorClose(actual, reference, type === 'f16' ? storedAsHalf(allowed) : allowed, what);
}

/**
 * Checks one case on a device: the value, the gradients under a random upstream gradient and under the constant one that
 * a sum has, all against the float64 reference within twice the naive float32 loop's own error; and that a captured
 * program gives the bits of the eager run, at the first run and at the third. On f16 a result and its gradients are f16, and
 * rounded to it once; gradients of f32 are f32.
 */
export async function checkOp(tape: Tape, check: OpCase, type: FloatType = 'f32'): Promise<void> {
  const { gpu } = tape;
  const { name, inputs, op, forward, backward, allowance = 0 } = check;
  const { inputs: halves = Object.keys(inputs), weights = [] } = check.halves ?? {};
  const { result = 'f16', between } = check.halves ?? {};
  const typeOf = (key: string) => (type === 'f16' && halves.includes(key) ? 'f16' : 'f32');
  const typeOfGradient = (key: string) => (weights.includes(key) ? 'f32' : typeOf(key));
  const resultType = type === 'f16' ? result : 'f32';
  const data: Named = Object.fromEntries(
    Object.entries(inputs).map(([key, { data: d }]) => [
      key,
      typeOf(key) === 'f16' ? roundedToHalf(d) : Float64Array.from(d),
    ]),
  );
  const [exact, naive] = [forward(data, f64), forward(data, f32)];
  const { shape } = exact;
  const upstream = {
    random: (resultType === 'f16' ? randomHalves : randomData)(count(shape), 99),
    constant: new Float64Array(count(shape)).fill(1),
  };
  const wanted = Object.keys(backward(data, upstream.random, f64));

  const leaves = Object.fromEntries(
    Object.entries(inputs).map(([key, input]) => [key, leaf(tape, input, key, typeOf(key))]),
  );
  const ofResult = { dtype: resultType } as const;
  const dy = tensor(tape, Float32Array.from(upstream.random), shape, ofResult);
  const ones = tensor(tape, Float32Array.from(upstream.constant), shape, ofResult);
  const targets = wanted.map((key) => leaves[key]!);
  const body = () => {
    const y = op(leaves, type);
    const random = grad([y], targets, { gradOutputs: [dy] });
    const constant = grad([y], targets, { gradOutputs: [ones] });
    return [y, ...random, ...constant];
  };
  const results = await eagerly(gpu, body);
  expectOfType(
    results[0]!,
    { type: resultType, shape, data: exact.data },
    budget(exact.data, naive.data, { allowance }),
    `${name}: value`,
  );
  const kinds = ['random', 'constant'] as const;
  for (const [k, kind] of kinds.entries()) {
    const [ref, single] = [
      backward(data, upstream[kind], f64),
      backward(data, upstream[kind], f32),
    ];
    wanted.forEach((key, i) => {
      const what = `${name}: gradient of ${key}, ${kind} upstream`;
      // A gradient that cancels is off by what its terms are off by: those are as large as under a random upstream.
      const scale = Math.max(maxAbs(ref[key]!), maxAbs(backward(data, upstream.random, f64)[key]!));
      const float = budget(ref[key]!, single[key]!, { scale, allowance });
      expectOfType(
        results[1 + k * wanted.length + i]!,
        { type: typeOfGradient(key), shape: inputs[key]!.shape, data: ref[key]! },
        { ...float, between: type === 'f16' && halves.includes(key) ? between : 0 },
        what,
      );
    });
  }
  for (const runs of check.stateful === true ? [1] : [1, 3]) {
    const again = bitsOf(await replayed(gpu, body, runs));
    bitsOf(results).forEach((bits, i) => {
      if (!bits.every((word, j) => word === again[i]![j])) {
        throw new Error(`${name}: result ${i} of run ${runs} of the program has other bits`);
      }
    });
  }
  for (const t of [...Object.values(leaves), dy, ones]) gpu.release(t.storage);
}
