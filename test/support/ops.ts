// What the tests of ops share: tensors from float64 data, and the same work run eagerly and as a captured program.
import { grad } from '../../src/autograd/tape.ts';
import type { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { budget, type Data, f32, f64, maxAbs, type Round } from '../reference/naive.ts';
import { expectTensorClose } from './close.ts';
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
  readonly op: (t: Readonly<Record<string, Tensor>>) => Tensor;
  readonly forward: (d: Named, r: Round) => { shape: readonly number[]; data: Data };
  /** Gradients of Σ y·dy, one an input that has one. */
  readonly backward: (d: Named, dy: Data, r: Round) => Readonly<Record<string, Data>>;
  /** The op moves state (u and v, running statistics): a program's second run has another result. */
  readonly stateful?: boolean;
  /** What WGSL grants the built-ins of the op, absolutely, on values and on gradients. */
  readonly allowance?: number;
}

export const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/** Random float32 values in [low, high] of a shape. */
export function randomInput(shape: readonly number[], seed: number, low = -1, high = 1): HostInput {
  return { shape, data: randomData(count(shape), seed, low, high) };
}

export function leaf(tape: Tape, { shape, data }: HostInput, label = 'leaf'): Tensor {
  return tensor(tape, Float32Array.from(data), shape, { label, requiresGrad: true });
}

export interface HostResult {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Runs `body` eagerly and reads what it returns; everything that it made is released. */
export async function eagerly(gpu: Gpu, body: () => readonly Tensor[]): Promise<HostResult[]> {
  const mark = gpu.alloc(4, 'mark');
  gpu.release(mark);
  const made = gpu.scope(body, (tensors) => tensors.map((t) => t.storage));
  const results: HostResult[] = [];
  for (const t of made) results.push({ shape: t.shape, data: await t.read() });
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
  for (const t of made) results.push({ shape: t.shape, data: await t.read() });
  program.destroy();
  return results;
}

/** The bits of some results: equal for equal bits, NaN and −0 included. */
export function bitsOf(results: readonly HostResult[]): Uint32Array[] {
  return results.map(({ data }) => new Uint32Array(data.buffer, data.byteOffset, data.length));
}

/**
 * Checks one case on a device: the value, the gradients under a random upstream gradient and under the constant one that
 * a sum has, all against the float64 reference within twice the naive float32 loop's own error; and that a captured
 * program gives the bits of the eager run, at the first run and at the third.
 */
export async function checkOp(tape: Tape, check: OpCase): Promise<void> {
  const { gpu } = tape;
  const { name, inputs, op, forward, backward, allowance = 0 } = check;
  const data: Named = Object.fromEntries(
    Object.entries(inputs).map(([key, { data: d }]) => [key, Float64Array.from(d)]),
  );
  const [exact, naive] = [forward(data, f64), forward(data, f32)];
  const { shape } = exact;
  const upstream = {
    random: randomData(count(shape), 99),
    constant: new Float64Array(count(shape)).fill(1),
  };
  const wanted = Object.keys(backward(data, upstream.random, f64));

  const leaves = Object.fromEntries(
    Object.entries(inputs).map(([key, input]) => [key, leaf(tape, input, key)]),
  );
  const dy = tensor(tape, Float32Array.from(upstream.random), shape);
  const ones = tensor(tape, Float32Array.from(upstream.constant), shape);
  const targets = wanted.map((key) => leaves[key]!);
  const body = () => {
    const y = op(leaves);
    const random = grad([y], targets, { gradOutputs: [dy] });
    const constant = grad([y], targets, { gradOutputs: [ones] });
    return [y, ...random, ...constant];
  };
  const results = await eagerly(gpu, body);
  expectTensorClose(
    results[0]!,
    { shape, data: exact.data },
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
      // A gradient that cancels is off by what its terms are off by: those are as large as under a random upstream.
      const scale = Math.max(maxAbs(ref[key]!), maxAbs(backward(data, upstream.random, f64)[key]!));
      expectTensorClose(
        results[1 + k * wanted.length + i]!,
        { shape: inputs[key]!.shape, data: ref[key]! },
        budget(ref[key]!, single[key]!, { scale, allowance }),
        `${name}: gradient of ${key}, ${kind} upstream`,
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
