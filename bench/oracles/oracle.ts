import type { Gpu } from '../../src/gpu/device.ts';
import type { Storage } from '../../src/gpu/storage.ts';
import { mayRound } from '../../src/kernels/precision.ts';
import { philox4x32Into, seedKey, uniform01 } from '../../src/util/philox.ts';
import { ulp } from '../../test/reference/naive.ts';
import type { Data, Round } from '../../test/reference/naive.ts';

export type Inputs = Readonly<Record<string, Float32Array>>;
export type Storages = Readonly<Record<string, Storage>>;

/** One element of an output as it must be. */
export interface Entry {
  readonly output: string;
  /** Its place in the output, flat. */
  readonly at: number;
  readonly value: number;
  /** Absolute error that WGSL grants the built-ins on its way, such as exp; none if left out. */
  readonly slack?: number;
  /** Magnitude of the terms, where a long sum of them cancels; that of the value if left out. */
  readonly scale?: number;
}

/**
 * What a ladder computes, a piece at a time: the loops of test/reference for a few entries of an output whose whole would
 * take the host hours. A unit is the least that is computed at once: an element of a product, a row of an attention.
 */
export interface Oracle<D extends object = object> {
  /** Name of the ladder that it judges. */
  readonly ladder: string;
  units(dims: D): number;
  /** Multiply-adds of one unit, about. */
  cost(dims: D): number;
  /** The entries of unit `u`, with every operation rounded by `r`; the same entries in the same order for every `r`. */
  unit(dims: D, inputs: Inputs, u: number, r: Round): readonly Entry[];
  /** Range of each input's random numbers, where it is not [-1, 1]. */
  range?(dims: D, input: string): readonly [number, number];
  /** Inputs that belong together, made from the others on the device before anything is measured. */
  prepare?(gpu: Gpu, dims: D, storages: Storages): void;
  /** Outputs that are inputs too: what a run changes. */
  readonly changes?: readonly string[];
}

/** Pairs of places in the two operands whose products add up to one element. */
export type Products = (ia: number, ib: number) => void;

/**
 * An oracle of sums of products: `each` names the products of element `i` of the output, in the reference's order.
 *
 * Where tensor cores may add them up, each term may lose an ulp of the sum that it meets, and always towards zero: their
 * sums are f32, but how they round is left to the device, and NVIDIA's cut off (Fasi et al. 2021).
 */
export function productOracle<D extends object>(o: {
  ladder: string;
  /** The two operands and the output. */
  names: readonly [string, string, string];
  size(dims: D): number;
  cost(dims: D): number;
  each(dims: D, i: number, add: Products): void;
}): Oracle<D> {
  const [nameA, nameB, output] = o.names;
  return {
    ladder: o.ladder,
    units: (dims) => o.size(dims),
    cost: (dims) => o.cost(dims),
    unit(dims, inputs, u, r) {
      const [a, b] = [dataOf(inputs, nameA), dataOf(inputs, nameB)];
      let [value, largest, terms] = [0, 0, 0];
      o.each(dims, u, (ia, ib) => {
        value = r(value + r((a[ia] ?? NaN) * (b[ib] ?? NaN)));
        largest = Math.max(largest, Math.abs(value));
        terms++;
      });
      return [{ output, at: u, value, ...(mayRound(dims) ? { slack: terms * ulp(largest) } : {}) }];
    },
  };
}

export function dataOf(inputs: Inputs, name: string): Data {
  const data = inputs[name];
  if (data === undefined) throw new Error(`the oracle needs an operand ${name}`);
  return data;
}

/** `n` floats, uniform in [low, high); the same for the same stream in every run. */
export function randomFloats(
  n: number,
  stream: number,
  [low, high]: readonly [number, number] = [-1, 1],
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(n);
  const words = new Uint32Array(4);
  const [k0, k1] = seedKey(1);
  for (let i = 0; i < n; i += 4) {
    philox4x32Into(words, 0, i / 4, 0, stream, 0, k0, k1);
    for (let j = 0; j < 4 && i + j < n; j++) {
      out[i + j] = low + (high - low) * uniform01(words[j] ?? 0);
    }
  }
  return out;
}
