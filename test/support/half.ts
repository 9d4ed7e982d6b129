// Test data of f16.
import type { Data } from '../reference/naive.ts';
import {
  bitsOfHalf,
  halfFromBits,
  packHalves as pack,
  unpackHalves as unpack,
} from '../../src/util/half.ts';
import { randomData } from './random.ts';

/** n values in [-1, 1] that f16 holds exactly (multiples of 2⁻¹⁰): rounding to f16 then changes nothing. */
export function randomHalves(n: number, seed: number): Float64Array {
  return randomData(n, seed).map((x) => Math.round(1024 * x) / 1024);
}

/** Values as f16, padded to whole words. Throws for a value that f16 does not hold: a test has to know what its kernel reads. */
export function packHalves(values: Data): Uint8Array {
  for (let i = 0; i < values.length; i++) {
    const x = values[i]!;
    if (halfFromBits(bitsOfHalf(x)) !== x) throw new Error(`${x} is no f16`);
  }
  return new Uint8Array(pack(values).buffer);
}

/** The first n f16 behind some words. */
export function unpackHalves(words: Float32Array<ArrayBuffer>, n: number): Float64Array {
  return Float64Array.from(unpack(words.buffer, n));
}

export { storedAsHalf } from '../reference/naive.ts';
