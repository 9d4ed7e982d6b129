// Test data of f16.
import type { Gpu } from '../../src/gpu/device.ts';
import type { Stored } from '../../src/gpu/wgsl.ts';
import { storedAsHalf } from '../reference/naive.ts';
import type { Budget, Data } from '../reference/naive.ts';
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

/** The nearest f16 to each value. */
export function roundedToHalf(x: Data): Float64Array {
  return Float64Array.from(x, (v) => halfFromBits(bitsOfHalf(v)));
}

/** What tensors of a device can be made of. */
export function storedOn({ features }: Gpu): readonly Stored[] {
  return features.has('shader-f16') ? ['f32', 'f16'] : ['f32'];
}

/** A tensor of either kind: how its values become what `execute` uploads, how many words it takes, and how they are read back. */
export const kept = {
  f32: {
    content: (x: Data) => Float32Array.from(x),
    words: (n: number) => n,
    values: (words: Float32Array<ArrayBuffer>, _n: number): Data => words,
    budget: (budget: Budget) => budget,
  },
  f16: {
    content: (x: Data) => packHalves(x),
    words: (n: number) => Math.ceil(n / 2),
    values: (words: Float32Array<ArrayBuffer>, n: number): Data => unpackHalves(words, n),
    budget: (budget: Budget) => storedAsHalf(budget),
  },
} as const satisfies Record<Stored, unknown>;

/** Values as f16, padded to whole words. Throws for a value that f16 does not hold: a test has to know what its kernel reads. */
export function packHalves(values: Data): Uint8Array {
  for (let i = 0; i < values.length; i++) {
    const x = values[i]!;
    if (halfFromBits(bitsOfHalf(x)) !== x) throw new Error(`${x} is no f16`);
  }
  const words = new Uint8Array(4 * Math.ceil(values.length / 2));
  words.set(new Uint8Array(pack(values).buffer));
  return words;
}

/** The first n f16 behind some words. */
export function unpackHalves(words: Float32Array<ArrayBuffer>, n: number): Float64Array {
  return Float64Array.from(unpack(words.buffer, n));
}

export { storedAsHalf };
