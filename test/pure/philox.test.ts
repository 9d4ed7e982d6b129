import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  HostRng,
  boxMuller,
  philox4x32,
  philox4x32Into,
  seedKey,
  uniform01,
  uniformOpen,
} from '../../src/util/philox.ts';

const F = 0xffffffff;
type Four = readonly [number, number, number, number];
type Two = readonly [number, number];

/** github.com/DEShawResearch/random123, tests/kat_vectors, lines `philox4x32 10`. */
const KNOWN: readonly [Four, Two, Four][] = [
  [
    [0, 0, 0, 0],
    [0, 0],
    [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  ],
  [
    [F, F, F, F],
    [F, F],
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  ],
  [
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ],
];

/** The definition in BigInt: an independent oracle of the split multiplication. */
function philoxBig(counter: Four, key: Two): number[] {
  const mask = 0xffffffffn;
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2511f53n * c0;
    const p1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & mask, (p0 >> 32n) ^ c3 ^ k1, p0 & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [c0, c1, c2, c3].map(Number);
}

describe('philox4x32', () => {
  it.each(KNOWN)('gives the known answer for counter %j and key %j', (counter, key, answer) => {
    expect([...philox4x32(counter, key)]).toEqual(answer);
    expect([...philox4x32(Uint32Array.from(counter), key)]).toEqual(answer);
  });

  it('agrees with the definition in BigInt', () => {
    const word = fc.nat({ max: F });
    const four = fc.tuple(word, word, word, word);
    fc.assert(
      fc.property(four, fc.tuple(word, word), (counter, key) => {
        expect([...philox4x32(counter, key)]).toEqual(philoxBig(counter, key));
      }),
      { numRuns: 500 },
    );
  });

  it('writes four words at the place asked for and nothing else', () => {
    const out = new Uint32Array(7).fill(9);
    philox4x32Into(out, 2, 0, 0, 0, 0, 0, 0);
    expect([...out]).toEqual([9, 9, ...KNOWN[0]![2], 9]);
  });
});

describe('conversions', () => {
  it('keeps uniforms in their half-open intervals, in steps of 2^-24', () => {
    expect(uniform01(0)).toBe(0);
    expect(uniform01(F)).toBe(1 - 2 ** -24);
    expect(uniformOpen(0)).toBe(2 ** -24);
    expect(uniformOpen(F)).toBe(1);
    expect(uniform01(0x1ff)).toBe(2 ** -24);
  });

  it('takes the polar form of Box and Muller', () => {
    expect(boxMuller(1, 0.3)).toEqual([expect.closeTo(0, 15), expect.closeTo(0, 15)]);
    const [cos, sin] = boxMuller(Math.exp(-2), 1 / 12);
    expect(cos).toBeCloseTo(2 * Math.cos(Math.PI / 6), 14);
    expect(sin).toBeCloseTo(1, 14);
    expect(boxMuller(uniformOpen(0), 0)[0]).toBeCloseTo(Math.sqrt(48 * Math.LN2), 12);
  });

  it('splits a seed of up to 53 bits into two words', () => {
    expect(seedKey(5)).toEqual([5, 0]);
    expect(seedKey(2 ** 32 + 7)).toEqual([7, 1]);
    expect(seedKey(Number.MAX_SAFE_INTEGER)).toEqual([F, 2 ** 21 - 1]);
    const message = 'seed is -1; it must be an integer from 0 to 2^53 - 1';
    expect(() => seedKey(-1)).toThrow(message);
    expect(() => seedKey(1.5)).toThrow('seed is 1.5');
  });
});

/** The host's part of the counters. */
const HOST = 2 ** 31;

describe('HostRng', () => {
  it('draws the words of successive counters', () => {
    const rng = new HostRng(0);
    const words = Array.from({ length: 8 }, () => rng.word());
    expect(words.slice(0, 4)).toEqual([...philox4x32([0, 0, 0, HOST], [0, 0])]);
    expect(words.slice(4)).toEqual([...philox4x32([1, 0, 0, HOST], [0, 0])]);
  });

  it('puts the stream into the upper counter words, with the top bit set', () => {
    const rng = new HostRng(2 ** 32 + 3, { stream: [11, 12] });
    expect(rng.word()).toBe(philox4x32([0, 0, 11, HOST + 12], [3, 1])[0]);
  });

  it('goes on from {seed, counter} to the same numbers, also past 2^32 blocks', () => {
    const start = fc.oneof(
      fc.nat(1000),
      fc.nat(20).map((n) => 2 ** 34 - 10 + n),
    );
    fc.assert(
      fc.property(fc.nat(), start, fc.nat(20), (seed, counter, skip) => {
        const whole = new HostRng(seed, { counter });
        for (let i = 0; i < skip; i++) whole.word();
        const resumed = new HostRng(seed, { counter: whole.counter });
        const draw = (rng: HostRng) => [rng.uniform(), rng.normal(), rng.int(10), rng.word()];
        expect(draw(resumed)).toEqual(draw(whole));
      }),
    );
    const high = new HostRng(0, { counter: 2 ** 34 });
    expect(high.word()).toBe(philox4x32([0, 1, 0, HOST], [0, 0])[0]);
  });

  it('has the moments of its distributions', () => {
    // Standard errors at n = 100,000: mean 0.0032, variance 0.0045, fourth moment 0.031; five of them are allowed.
    const n = 100_000;
    const rng = new HostRng(1);
    const x = Float64Array.from({ length: n }, () => rng.normal());
    const moment = (k: number) => x.reduce((sum, v) => sum + v ** k, 0) / n;
    expect(Math.abs(moment(1))).toBeLessThan(0.016);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(0.023);
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.155);
    const u = Float64Array.from({ length: n }, () => rng.uniform());
    const mean = u.reduce((sum, v) => sum + v, 0) / n;
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.0046);
    expect(Math.min(...u.slice(0, 1000))).toBeGreaterThanOrEqual(0);
  });

  it('draws integers without bias', () => {
    // At n = 3·2^30, taking words modulo n would hit the lower third twice as often as it should.
    const n = 3 * 2 ** 30;
    const rng = new HostRng(2);
    let low = 0;
    for (let i = 0; i < 30_000; i++) if (rng.int(n) < 2 ** 30) low++;
    expect(Math.abs(low - 10_000)).toBeLessThan(5 * Math.sqrt(30_000 * (1 / 3) * (2 / 3)));
    expect(rng.counter).toBeGreaterThan(35_000);
    expect(() => rng.int(0)).toThrow('int(0): n must be an integer from 1 to 2^32');
    expect(rng.int(1)).toBe(0);
  });

  it('permutes: every index once, all orders of three equally often', () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(200), (seed, n) => {
        const order = new HostRng(seed).permutation(n);
        expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
      }),
    );
    const rng = new HostRng(3);
    const counts = new Map<string, number>();
    for (let i = 0; i < 6000; i++) {
      const key = rng.permutation(3).join('');
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    const chi2 = [...counts.values()].reduce((sum, c) => sum + (c - 1000) ** 2 / 1000, 0);
    expect(chi2).toBeLessThan(20.5); // p = 0.001 at five degrees of freedom
  });
});
