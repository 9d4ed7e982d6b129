// IEEE binary16 on the host: Node 20 has no Float16Array.
import type { Budget, Data } from '../reference/naive.ts';
import { randomData } from './random.ts';

/** The value of 16 bits. */
export function halfFromBits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0
    ? sign * fraction * 2 ** -24
    : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The 16 bits of a value that f16 holds exactly. Throws for any other: a test has to know what its kernel reads. */
export function bitsOfHalf(x: number): number {
  const a = Math.abs(x);
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const exponent = Math.max(-14, Math.floor(Math.log2(a)));
  const fraction = a / 2 ** (exponent - 10);
  const bits = a < 2 ** -14 ? fraction : ((exponent + 15) << 10) + fraction - 1024;
  if (halfFromBits(sign | bits) !== x) throw new Error(`${x} is no f16`);
  return sign | bits;
}

/** n values in [-1, 1] that f16 holds exactly (multiples of 2⁻¹⁰): rounding to f16 then changes nothing. */
export function randomHalves(n: number, seed: number): Float64Array {
  return randomData(n, seed).map((x) => Math.round(1024 * x) / 1024);
}

/** Values as f16, padded to whole words. */
export function packHalves(values: Data): Uint8Array {
  const bits = new Uint16Array(2 * Math.ceil(values.length / 2));
  for (let i = 0; i < values.length; i++) bits[i] = bitsOfHalf(values[i]!);
  return new Uint8Array(bits.buffer);
}

/** The first n f16 behind some words. */
export function unpackHalves(words: Float32Array<ArrayBuffer>, n: number): Float64Array {
  return Float64Array.from(new Uint16Array(words.buffer).subarray(0, n), halfFromBits);
}

/** What a result may differ by once it is stored as f16: WGSL lets a conversion round either way. */
export function storedAsHalf({ abs, rel = 0 }: Budget): Budget {
  return { abs: abs + 2 ** -24, rel: rel + 2 ** -10 };
}
