import type { HostRng } from '../../src/util/philox.ts';

/** A whole number from 0 below n. */
export const below = (rng: HostRng, n: number) => Math.floor(rng.uniform() * n);

export const pick = <T>(rng: HostRng, from: readonly T[]): T => from[below(rng, from.length)]!;

/** Numbers that programs get wrong. */
const edges = [0, 1, 7, 8, 127, 128, 255] as const;

const changes: readonly ((rng: HostRng, bytes: Uint8Array) => Uint8Array)[] = [
  // A bit, a byte, a byte of the usual suspects.
  (rng, bytes) => changed(bytes, below(rng, bytes.length), (b) => b ^ (1 << below(rng, 8))),
  (rng, bytes) => changed(bytes, below(rng, bytes.length), () => below(rng, 256)),
  (rng, bytes) => changed(bytes, below(rng, bytes.length), () => pick(rng, edges)),
  // Cut, a piece left out, a piece twice.
  (rng, bytes) => bytes.slice(0, below(rng, bytes.length)),
  (rng, bytes) => {
    const [from, to] = span(rng, bytes.length);
    return joined(bytes.subarray(0, from), bytes.subarray(to));
  },
  (rng, bytes) => {
    const [from, to] = span(rng, bytes.length);
    return joined(bytes.subarray(0, to), bytes.subarray(from));
  },
  // A number in the text that is now another.
  (rng, bytes) => {
    const text = Buffer.from(bytes).toString('latin1');
    const numbers = [...text.matchAll(/\d+/g)];
    if (numbers.length === 0) return bytes;
    const { index, 0: found } = pick(rng, numbers);
    const other = pick(rng, ['-1', '0', '1', '4294967296', '9007199254740993', '1e308', '1e999']);
    return Buffer.from(text.slice(0, index) + other + text.slice(index + found.length), 'latin1');
  },
];

/** Bytes with one to four things wrong with them. */
export function mutated(rng: HostRng, bytes: Uint8Array): Uint8Array {
  let out = bytes;
  for (let i = 1 + below(rng, 4); i > 0; i--)
    if (out.length > 0) out = pick(rng, changes)(rng, out);
  return out;
}

function changed(bytes: Uint8Array, at: number, change: (byte: number) => number): Uint8Array {
  const out = Uint8Array.from(bytes);
  out[at] = change(out[at]!);
  return out;
}

function span(rng: HostRng, length: number): [number, number] {
  const [a, b] = [below(rng, length + 1), below(rng, length + 1)];
  return [Math.min(a, b), Math.max(a, b)];
}

const joined = (a: Uint8Array, b: Uint8Array) => Uint8Array.from(Buffer.concat([a, b]));
