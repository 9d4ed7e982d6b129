/**
 * Philox 4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"), in
 * exact 32-bit integer arithmetic. The same integers come out of the WGSL kernel; everything random on the host comes
 * from here, so that {seed, counter} is the whole state of a run.
 */

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const WEYL0 = 0x9e3779b9;
const WEYL1 = 0xbb67ae85;
const ROUNDS = 10;
const TWO_32 = 2 ** 32;
const TWO_M24 = 2 ** -24;

/** The upper 32 bits of a 32 × 32 bit product. Every partial product is below 2⁵³, so doubles hold it exactly. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (cross >>> 16)) >>> 0;
}

/** The four words of counter `c0…c3` under key `k0, k1`, into `out[at…at+3]`. Allocates nothing. */
export function philox4x32Into(
  out: Uint32Array,
  at: number,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
): void {
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = mulHigh(M0, c0);
    const low0 = Math.imul(M0, c0);
    const high1 = mulHigh(M1, c2);
    const low1 = Math.imul(M1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + WEYL0) | 0;
    k1 = (k1 + WEYL1) | 0;
  }
  out[at] = c0;
  out[at + 1] = c1;
  out[at + 2] = c2;
  out[at + 3] = c3;
}

/** The four 32-bit words of a 128-bit counter (least significant word first) under a 64-bit key. */
export function philox4x32(
  counter: readonly [number, number, number, number] | Uint32Array,
  key: readonly [number, number],
): Uint32Array {
  const [c0 = 0, c1 = 0, c2 = 0, c3 = 0] = counter;
  const out = new Uint32Array(4);
  philox4x32Into(out, 0, c0, c1, c2, c3, key[0], key[1]);
  return out;
}

/** A seed (any integer of 53 bits, not negative) as Philox's key: low word, high word. */
export function seedKey(seed: number): readonly [number, number] {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new RangeError(`seed is ${seed}; it must be an integer from 0 to 2^53 - 1`);
  }
  return [seed >>> 0, Math.floor(seed / TWO_32)];
}

/** The upper 24 bits of a word as a float in [0, 1): exact in f32. */
export function uniform01(word: number): number {
  return (word >>> 8) * TWO_M24;
}

/** The upper 24 bits of a word as a float in (0, 1], so that its logarithm is finite: exact in f32. */
export function uniformOpen(word: number): number {
  return ((word >>> 8) + 1) * TWO_M24;
}

/** Two independent normals from `u1` in (0, 1] and `u2` in [0, 1) (Box and Muller 1958): the cosine's, then the sine's. */
export function boxMuller(u1: number, u2: number): [number, number] {
  const radius = Math.sqrt(-2 * Math.log(u1));
  const angle = 2 * Math.PI * u2;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

/** The top bit of the host's counters. On the GPU that word counts steps and stays below 2²¹: the two never meet. */
const HOST = 0x8000_0000;

export interface HostRngOptions {
  /** Words 2 and 3 of Philox's counter, the second below 2³¹: streams that differ never overlap. Default `[0, 0]`. */
  readonly stream?: readonly [number, number];
  /** Number of 32-bit words drawn before: where to go on. Default 0. */
  readonly counter?: number;
}

/** A sequence of random numbers on the host. `seed`, the stream and `counter` (words drawn so far) are its whole state. */
export class HostRng {
  readonly seed: number;
  readonly stream: readonly [number, number];
  private drawn: number;
  private readonly key: readonly [number, number];
  private readonly block = new Uint32Array(4);
  private blockIndex = -1;

  constructor(seed: number, options: HostRngOptions = {}) {
    this.key = seedKey(seed);
    this.seed = seed;
    this.stream = options.stream ?? [0, 0];
    this.drawn = options.counter ?? 0;
    if (!Number.isSafeInteger(this.drawn) || this.drawn < 0) {
      throw new RangeError(`random counter is ${this.drawn}; it must be an integer from 0`);
    }
  }

  /** Words drawn so far; give it to a new `HostRng` of the same seed and stream to go on from here. */
  get counter(): number {
    return this.drawn;
  }

  /** The next 32-bit word. */
  word(): number {
    const index = Math.floor(this.drawn / 4);
    if (index !== this.blockIndex) {
      const [s0, s1] = this.stream;
      const high = Math.floor(index / TWO_32);
      philox4x32Into(this.block, 0, index | 0, high, s0, s1 | HOST, this.key[0], this.key[1]);
      this.blockIndex = index;
    }
    const word = this.block[this.drawn % 4] ?? 0;
    this.drawn++;
    return word;
  }

  /** Uniform in [0, 1), a multiple of 2⁻²⁴. One word. */
  uniform(): number {
    return uniform01(this.word());
  }

  /** Standard normal. Two words; the pair's second normal is dropped, so that no half pair is part of the state. */
  normal(): number {
    const u1 = uniformOpen(this.word());
    return boxMuller(u1, uniform01(this.word()))[0];
  }

  /** Uniform in {0, …, n - 1} for n up to 2³², without bias: words past the last whole multiple of n are drawn again. */
  int(n: number): number {
    if (!Number.isInteger(n) || n < 1 || n > TWO_32) {
      throw new RangeError(`int(${n}): n must be an integer from 1 to 2^32`);
    }
    const limit = TWO_32 - (TWO_32 % n);
    let word = this.word();
    while (word >= limit) word = this.word();
    return word % n;
  }

  /** 0 … n - 1 in random order (Fisher and Yates, from the end). */
  permutation(n: number): Uint32Array {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.int(i + 1);
      const kept = order[i] ?? 0;
      order[i] = order[j] ?? 0;
      order[j] = kept;
    }
    return order;
  }
}
