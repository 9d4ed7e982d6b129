import { describe, expect, test } from 'vitest';
import { advance, normal, randomBits, randomInt, uniform } from '../../src/kernels/random.ts';
import { boxMuller, philox4x32, uniform01, uniformOpen } from '../../src/util/philox.ts';
import { logAllowance } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits, wordsOf } from '../support/execute.ts';

const gpu = await openTestGpu();
const state = Uint32Array.of(0x1234_5678, 0x9abc_def0, 41, 7);

/** What src/util/philox.ts gives for the same state and stream. */
function hostWords(n: number, stream: number, from = state): Uint32Array {
  const [k0, k1, c2, c3] = [from[0]!, from[1]!, from[2]!, from[3]!];
  const out = new Uint32Array(Math.ceil(n / 4) * 4);
  for (let i = 0; i < out.length / 4; i++)
    out.set(philox4x32([i, stream, c2, c3], [k0, k1]), 4 * i);
  return out.subarray(0, n);
}

async function words(n: number, stream: number, from = state): Promise<Uint32Array> {
  const { out } = await execute(
    gpu,
    { state: from, out: n },
    (s) => {
      randomBits(gpu, { ...s, n, stream });
    },
    ['out'],
  );
  return wordsOf(out);
}

async function normals(n: number, stream: number, { mean = 0, std = 1 } = {}) {
  const { out } = await execute(
    gpu,
    { state, out: n },
    (s) => {
      normal(gpu, { ...s, n, stream, mean, std });
    },
    ['out'],
  );
  return out;
}

async function uniforms(n: number, stream: number, low = 0, high = 1) {
  const { out } = await execute(
    gpu,
    { state, out: n },
    (s) => {
      uniform(gpu, { ...s, n, stream, low, high });
    },
    ['out'],
  );
  return out;
}

describe('the words', () => {
  // kat_vectors of Random123 1.14, philox4x32 10, with a first counter word of 0 as element 0 has it; the vectors whose
  // first word is another are reached through the host, which test/pure/philox.test.ts holds to all of them.
  test('known answer: counter and key of zeros', async () => {
    const found = await words(4, 0, Uint32Array.of(0, 0, 0, 0));
    expect([...found]).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  });

  test.each([1, 3, 4, 257, 4099])('%i of them are the host’s', async (n) => {
    for (const stream of [0, 1, 0xffff_ffff]) {
      expect(await words(n, stream)).toEqual(hostWords(n, stream));
    }
    const extremes = Uint32Array.of(0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff);
    expect(await words(n, 0xffff_ffff, extremes)).toEqual(hostWords(n, 0xffff_ffff, extremes));
  });

  test('advance adds one to the 64-bit counter', async () => {
    for (const [before, after] of [
      [
        [5, 6, 0, 0],
        [5, 6, 1, 0],
      ],
      [
        [5, 6, 0xffff_ffff, 3],
        [5, 6, 0, 4],
      ],
      [
        [5, 6, 0xffff_ffff, 0xffff_ffff],
        [5, 6, 0, 0],
      ],
    ] as const) {
      const found = await execute(
        gpu,
        { state: Uint32Array.from(before) },
        (s) => {
          advance(gpu, s);
        },
        ['state'],
      );
      expect([...wordsOf(found.state)]).toEqual(after);
    }
  });

  test('gives the same bits twenty times', async () => {
    await expectSameBits(async () => ({ out: await normals(1031, 3) }));
  });
});

describe('uniform', () => {
  test('is the host’s words in [low, high)', async () => {
    const n = 1031;
    const found = await uniforms(n, 2);
    expect(found).toEqual(Float32Array.from(hostWords(n, 2), uniform01));
    const wide = await uniforms(n, 2, -3, 5);
    const expected = Float64Array.from(hostWords(n, 2), (w) => -3 + 8 * uniform01(w));
    expectClose(wide, expected, { abs: 2 ** -21 }, 'uniform in [-3, 5)');
  });

  test('fills 64 bins evenly (chi-square)', async () => {
    const n = 1 << 17;
    const bins = new Float64Array(64);
    for (const x of await uniforms(n, 9)) {
      expect(x >= 0 && x < 1).toBe(true);
      bins[Math.floor(x * 64)]!++;
    }
    const each = n / 64;
    const chi = bins.reduce((sum, count) => sum + (count - each) ** 2 / each, 0);
    // 63 degrees of freedom: mean 63, deviation √126; five deviations to each side.
    expect(Math.abs(chi - 63)).toBeLessThan(5 * Math.sqrt(126));
  });
});

describe('normal', () => {
  test('is Box and Muller of the host’s words', async () => {
    const n = 4099;
    const from = hostWords(n + 1, 4);
    const expected = Float64Array.from({ length: n }, (_, i) => {
      const at = i - (i % 2);
      return boxMuller(uniformOpen(from[at]!), uniform01(from[at + 1]!))[i % 2]!;
    });
    // r = √(−2·ln u) and |dr| = |d(ln u)|/r: near u = 1 WGSL's absolute 2⁻²¹ of the logarithm weighs most, and
    // r is never below √(2·2⁻²⁴) unless it is 0.
    const allowed = Math.sqrt(2 * logAllowance(1));
    const found = await normals(n, 4);
    expectClose(found, expected, { abs: allowed }, 'normal');
    const typical = expected.map((x) => (Math.abs(x) > 0.5 ? 1 : 0));
    const [near, target] = [
      found.map((x, i) => x * typical[i]!),
      expected.map((x, i) => x * typical[i]!),
    ];
    expectClose(near, target, { abs: 4e-6 }, 'normals beyond 0.5');
  });

  test('has the moments of a normal', async () => {
    const n = 1 << 18;
    const z = await normals(n, 6, { mean: 2, std: 3 });
    const mean = z.reduce((sum, x) => sum + x, 0) / n;
    const moment = (k: number) => z.reduce((sum, x) => sum + ((x - 2) / 3) ** k, 0) / n;
    // Five deviations of each estimate: 1, 2, 15 and 96 over n are the variances of x, x², x³, x⁴.
    expect(Math.abs(mean - 2)).toBeLessThan((5 * 3) / Math.sqrt(n));
    expect(Math.abs(moment(2) - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
    expect(Math.abs(moment(3))).toBeLessThan(5 * Math.sqrt(15 / n));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(5 * Math.sqrt(96 / n));
  });

  test('streams and neighbours are not correlated', async () => {
    const n = 1 << 16;
    const [a, b] = [await normals(n, 0), await normals(n, 1)];
    const correlation = (x: Float32Array, y: Float32Array, shift: number) => {
      let sum = 0;
      for (let i = 0; i + shift < n; i++) sum += x[i]! * y[i + shift]!;
      return sum / n;
    };
    const bound = 5 / Math.sqrt(n);
    expect(Math.abs(correlation(a, b, 0))).toBeLessThan(bound);
    for (const shift of [1, 2, 3, 4]) {
      expect(Math.abs(correlation(a, a, shift))).toBeLessThan(bound);
    }
    expect(correlation(a, a, 0)).toBeGreaterThan(0.9);
  });
});

describe('randomInt', () => {
  test('is the high word of word·bound', async () => {
    const n = 515;
    for (const bound of [1, 2, 10, 1000, 0xffff_ffff]) {
      const { out } = await execute(
        gpu,
        { state, out: n },
        (s) => {
          randomInt(gpu, { ...s, n, stream: 5, bound });
        },
        ['out'],
      );
      const expected = Uint32Array.from(hostWords(n, 5), (w) =>
        Number((BigInt(w) * BigInt(bound)) >> 32n),
      );
      expect(wordsOf(out)).toEqual(expected);
    }
  });
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
