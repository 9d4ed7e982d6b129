// The oracles of the bench say, a unit at a time, what the loops of test/reference say of a whole: to the last bit, in
// float64 and in float32.
import { describe, expect, test } from 'vitest';
import {
  attentionBackwardOracle,
  attentionForwardOracle,
  maskedBackwardOracle,
  maskedForwardOracle,
} from '../../bench/oracles/attention.ts';
import {
  linearBackwardOracle,
  linearForwardOracle,
  topkBackwardOracle,
  topkForwardOracle,
} from '../../bench/oracles/attention-kinds.ts';
import { normGradsOracle, normStatsOracle } from '../../bench/oracles/norm.ts';
import { randomFloats } from '../../bench/oracles/oracle.ts';
import type { Inputs, Oracle } from '../../bench/oracles/oracle.ts';
import {
  convDataGradOracle,
  convForwardOracle,
  convWeightGradOracle,
  matmulOracle,
} from '../../bench/oracles/products.ts';
import {
  crossEntropyOracle,
  layerNormBackwardOracle,
  layerNormOracle,
  softmaxBackwardOracle,
  softmaxOracle,
  spectralOracle,
} from '../../bench/oracles/rows.ts';
import { complaintAbout, expectedOf } from '../../bench/verify.ts';
import type { ConvDims } from '../../src/kernels/conv.ts';
import { attention, attentionBackward } from '../reference/attention.ts';
import { conv2d, conv2dBackward } from '../reference/conv.ts';
import { crossEntropy } from '../reference/cross-entropy.ts';
import { layerNorm, layerNormBackward } from '../reference/layer-norm.ts';
import { linearAttention, linearAttentionBackward } from '../reference/linear-attention.ts';
import { matmul } from '../reference/matmul.ts';
import { f32, f64, storedAsHalf } from '../reference/naive.ts';
import type { Data } from '../reference/naive.ts';
import { batchNorm, batchNormBackward } from '../reference/norm.ts';
import { permute } from '../reference/shape.ts';
import { softmax, softmaxBackward } from '../reference/softmax.ts';
import { spectralNorm } from '../reference/spectral.ts';
import { chosenKeys, topkAttention, topkAttentionBackward } from '../reference/topk-attention.ts';
import { expectClose } from '../support/close.ts';

/** Every unit's entries put in their places; every place must be filled once. */
function wholeOf<D extends object>(oracle: Oracle<D>, dims: D, inputs: Inputs, r = f64) {
  const outputs: Record<string, number[]> = {};
  for (let u = 0; u < oracle.units(dims); u++) {
    for (const { output, at, value } of oracle.unit(dims, inputs, u, r)) {
      const data = (outputs[output] ??= []);
      expect(data[at], `${output}[${at}] comes twice`).toBeUndefined();
      data[at] = value;
    }
  }
  return outputs;
}

const equal = (found: number[] | undefined, expected: Data) => {
  expect(found).toEqual(Array.from(expected));
};

test.each([
  [false, false],
  [false, true],
  [true, false],
  [true, true],
])('matmul, transposes %s %s', (transA, transB) => {
  const [M, N, K, batch] = [3, 5, 4, 2];
  const [a, b] = [randomFloats(batch * M * K, 1), randomFloats(K * N, 2)];
  const dims = { M, N, K, batch, strideA: M * K, strideB: 0, transA, transB };
  for (const r of [f64, f32]) {
    const sizes = { a, b, batchA: [batch], batchB: [1], M, N, K, transA, transB };
    equal(wholeOf(matmulOracle, dims, { a, b }, r)['out'], matmul(sizes, r));
  }
});

describe.each([
  { H: 5, W: 6, R: 3, S: 3, strideH: 1, strideW: 1, padH: 1, padW: 1 },
  { H: 8, W: 6, R: 4, S: 4, strideH: 2, strideW: 2, padH: 1, padW: 1 },
  { H: 7, W: 9, R: 2, S: 3, strideH: 3, strideW: 2, padH: 0, padW: 2 },
])('convolution $H×$W, window $R×$S', (sizes) => {
  const [N, C, K] = [2, 3, 4];
  const { H, W, R, S } = sizes;
  const OH = Math.floor((H + 2 * sizes.padH - R) / sizes.strideH) + 1;
  const OW = Math.floor((W + 2 * sizes.padW - S) / sizes.strideW) + 1;
  const dims: ConvDims = { N, C, K, OH, OW, ...sizes };
  const x = randomFloats(N * C * H * W, 1);
  const w = randomFloats(K * C * R * S, 2);
  const dy = randomFloats(N * K * OH * OW, 3);
  const stride = [sizes.strideH, sizes.strideW] as const;
  const given = { x, w, N, C, H, W, K, R, S, stride, pad: [sizes.padH, sizes.padW] as const };

  test('forward', () => {
    equal(wholeOf(convForwardOracle, dims, { x, w })['out'], conv2d(given, f64));
    equal(wholeOf(convForwardOracle, dims, { x, w }, f32)['out'], conv2d(given, f32));
  });

  test('gradients', () => {
    const { dx, dw } = conv2dBackward(given, dy, f64);
    const [foundX, foundW] = [
      wholeOf(convDataGradOracle, dims, { dy, w })['out'] ?? [],
      wholeOf(convWeightGradOracle, dims, { x, dy })['out'] ?? [],
    ];
    // The reference walks over dy, so that the terms of dx come in another order.
    expectClose(foundX, dx, { abs: 1e-13 }, 'dx');
    equal(foundW, dw);
  });
});

describe.each(['channel', 'sequence'] as const)('attention, %s-major', (layout) => {
  const dims = { B: 2, Nq: 5, Nk: 7, DK: 3, DV: 4, scale: 0.7, layout };
  const { B, Nq, Nk, DK, DV } = dims;
  const [q, k] = [randomFloats(B * Nq * DK, 1), randomFloats(B * Nk * DK, 2)];
  const [v, dOut] = [randomFloats(B * Nk * DV, 3), randomFloats(B * Nq * DV, 4)];
  const given = { q, k, v, ...dims, channelMajor: layout === 'channel' };

  test('forward', () => {
    for (const r of [f64, f32]) {
      const found = wholeOf(attentionForwardOracle, dims, { q, k, v }, r);
      const { o, lse } = attention(given, r);
      equal(found['out'], o);
      equal(found['lse'], lse);
    }
  });

  test('backward, from the lse and the output that are given', () => {
    const forward = attention(given, f64);
    // The oracle is given floats; these hold the reference's doubles.
    const doubles = { out: forward.o, lse: forward.lse } as unknown as Inputs;
    const found = wholeOf(attentionBackwardOracle, dims, { q, k, v, dOut, ...doubles });
    const expected = attentionBackward(given, dOut, f64);
    for (const name of ['dq', 'dk', 'dv'] as const) {
      expectClose(found[name] ?? [], expected[name], { abs: 1e-13 }, name);
    }
  });
});

describe.each(['channel', 'sequence'] as const)('relatives of attention, %s-major', (layout) => {
  const dims = { B: 2, Nq: 5, Nk: 7, DK: 3, DV: 4, layout };
  const { B, Nq, Nk, DK, DV } = dims;
  const channelMajor = layout === 'channel';
  const [q, k] = [randomFloats(B * Nq * DK, 1), randomFloats(B * Nk * DK, 2)];
  const [v, dOut] = [randomFloats(B * Nk * DV, 3), randomFloats(B * Nq * DV, 4)];
  /** The oracles are given floats; these hold the reference's doubles. */
  const doubles = (given: Readonly<Record<string, Data>>) => given as unknown as Inputs;
  const expectGradients = (found: Record<string, number[]>, expected: Record<string, Data>) => {
    for (const name of ['dq', 'dk', 'dv']) {
      expectClose(found[name] ?? [], expected[name]!, { abs: 1e-13 }, name);
    }
  };

  test.each([true, false])('a mask [Nq, Nk], causal %s', (causal) => {
    const sizes = { maskItems: 1, maskHeads: 1, maskQueries: Nq, maskKeys: Nk };
    const masked = { ...dims, ...sizes, scale: 0.7, heads: 1, mask: 'additive', causal } as const;
    const hides = randomFloats(Nq * Nk, 5);
    const bias = (_b: number, i: number, j: number) =>
      causal && j > i ? -Infinity : hides[i * Nk + j]!;
    const given = { q, k, v, ...dims, scale: 0.7, channelMajor, bias };
    const { o, lse } = attention(given, f64);
    const found = wholeOf(maskedForwardOracle, masked, { q, k, v, hides });
    equal(found['out'], o);
    equal(found['lse'], lse);
    const inputs = doubles({ q, k, v, hides, dOut, out: o, lse });
    const { dq, dk, dv } = attentionBackward(given, dOut, f64);
    expectGradients(wholeOf(maskedBackwardOracle, masked, inputs), { dq, dk, dv });
  });

  test('the largest scores alone', () => {
    const topk = { ...dims, scale: 0.7, top: 3 };
    const given = { q, k, v, ...topk, channelMajor };
    equal(wholeOf(topkForwardOracle, topk, { q, k, v })['out'], topkAttention(given, f64));
    // Pairs as the kernels leave them: [B, top, Nq].
    const keys = chosenKeys(given, f64);
    const at = (d: number, n: number, N: number, b: number) =>
      channelMajor ? (b * DK + d) * N + n : (b * N + n) * DK + d;
    const index = new Uint32Array(B * 3 * Nq);
    const weight = new Float64Array(B * 3 * Nq);
    keys.forEach((list, u) => {
      const [b, i] = [Math.floor(u / Nq), u % Nq];
      const scores = list.map((j) => {
        const products = [0, 1, 2].map((d) => q[at(d, i, Nq, b)]! * k[at(d, j, Nk, b)]!);
        return Math.exp(0.7 * products.reduce((a, c) => a + c));
      });
      const sum = scores.reduce((a, c) => a + c);
      list.forEach((j, t) => {
        index[(b * 3 + t) * Nq + i] = j;
        weight[(b * 3 + t) * Nq + i] = scores[t]! / sum;
      });
    });
    const inputs = doubles({ q, k, v, dOut, weight, index: new Float32Array(index.buffer) });
    const { dq, dk, dv } = topkAttentionBackward(given, dOut, f64);
    expectGradients(wholeOf(topkBackwardOracle, topk, inputs), { dq, dk, dv });
  });

  test('features summed once', () => {
    const given = { q, k, v, ...dims, channelMajor };
    equal(wholeOf(linearForwardOracle, dims, { q, k, v })['out'], linearAttention(given, f64));
    const feature = (x: number) => (x > 0 ? x + 1 : Math.exp(x));
    const at = (d: number, n: number, D: number, b: number) =>
      channelMajor ? (b * D + d) * Nk + n : (b * Nk + n) * D + d;
    const state = new Float64Array(B * DK * (DV + 1));
    for (let n = 0; n < state.length * Nk; n++) {
      const [place, j] = [Math.floor(n / Nk), n % Nk];
      const [row, e] = [Math.floor(place / (DV + 1)), place % (DV + 1)];
      const [b, d] = [Math.floor(row / DK), row % DK];
      const value = e === DV ? 1 : v[at(e, j, DV, b)]!;
      state[place]! += feature(k[at(d, j, DK, b)]!) * value;
    }
    const inputs = doubles({ q, k, v, dOut, state });
    const { dq, dk, dv } = linearAttentionBackward(given, dOut, f64);
    expectGradients(wholeOf(linearBackwardOracle, dims, inputs), { dq, dk, dv });
  });
});

test('softmax and its gradient', () => {
  const [rows, cols] = [4, 9];
  const dims = { rows, cols };
  const [x, dy] = [randomFloats(rows * cols, 1, [-8, 8]), randomFloats(rows * cols, 2)];
  const y = softmax({ x, ...dims }, f64);
  equal(wholeOf(softmaxOracle, dims, { x })['out'], y);
  const found = wholeOf(softmaxBackwardOracle, dims, { y, dy } as unknown as Inputs);
  expectClose(found['dx'] ?? [], softmaxBackward({ x, ...dims }, dy, f64).dx, { abs: 1e-15 }, 'dx');
});

test('statistics of batch norm, and the sums of its gradients', () => {
  const [N, C, H, W] = [3, 4, 2, 5];
  const dims = { N, C, L: H * W };
  const [x, dy] = [randomFloats(N * C * H * W, 1), randomFloats(N * C * H * W, 2)];
  const given = { x, N, C, H, W, training: true };
  for (const r of [f64, f32]) {
    const { mean, invStd, variance } = batchNorm(given, r);
    const stats = wholeOf(normStatsOracle, dims, { x }, r);
    equal(stats['mean'], mean);
    equal(stats['variance'], variance);
    equal(stats['invStd'], invStd);
    // The oracle is given floats; under f64 these hold the reference's doubles.
    const inputs = { x, dy, mean, invStd } as unknown as Inputs;
    const { dgamma, dbeta } = batchNormBackward(given, dy, r);
    const found = wholeOf(normGradsOracle, dims, inputs, r);
    equal(found['dgamma'], dgamma);
    equal(found['dbeta'], dbeta);
    const both = Array.from(dbeta, (sum, c) => [sum, dgamma[c] ?? NaN]).flat();
    equal(
      found['means'],
      both.map((sum) => r(sum / (N * H * W))),
    );
  }
});

test('a power iteration of a weight in blocks', () => {
  const dims = { outer: 3, rows: 4, inner: 5 };
  const w = randomFloats(60, 1);
  const [u, v] = [randomFloats(4, 2), randomFloats(15, 3)];
  const matrix = permute({ x: w, shape: [3, 4, 5], order: [1, 0, 2] }, f64);
  const expected = spectralNorm({ w: matrix, rows: 4, cols: 15, u, v, training: true }, f64);
  const found = wholeOf(spectralOracle, dims, { w, u, v });
  equal(found['sigma'], [expected.sigma]);
  for (const name of ['u', 'uOut']) equal(found[name], expected.u);
  for (const name of ['v', 'vOut']) equal(found[name], expected.v);
});

describe('verification', () => {
  const dims = { M: 4, N: 4, K: 8, batch: 1, strideA: 0, strideB: 0, transA: false, transB: false };
  const inputs = { a: randomFloats(32, 1), b: randomFloats(32, 2) };
  const expected = expectedOf(matmulOracle, dims, inputs);
  const right = Float32Array.from(matmul({ ...inputs, M: 4, N: 4, K: 8 }, f64));

  test('takes what is right', () => {
    expect(complaintAbout(new Map([['out', right]]), expected)).toBeUndefined();
  });

  test('of f16: what f16 holds, an ulp of the sum for each term, and a rounding where the result is stored', () => {
    const budgetOf = (precision: object, halves: readonly string[] = []) => {
      const sizes = { ...dims, ...precision };
      return expectedOf(matmulOracle, sizes, inputs, { halves: new Set(halves) }).budgets.get(
        'out',
      )!;
    };
    const [float, rounded] = [budgetOf({}), budgetOf({ precision: 'f16' })];
    expect(float).toEqual(expected.budgets.get('out'));
    // Eight products of numbers under 1 come to less than 8.
    expect(rounded.abs - float.abs).toBeGreaterThan(8 * 2 ** -24);
    expect(rounded.abs - float.abs).toBeLessThanOrEqual(8 * 2 ** -21);
    expect(budgetOf({ stored: 'f16' }, ['out'])).toEqual(storedAsHalf(rounded));
    const off = (by: number) => {
      const data = Float64Array.from(matmul({ ...inputs, M: 4, N: 4, K: 8 }, f64), (x) => x * by);
      const stored = expectedOf(matmulOracle, dims, inputs, { halves: new Set(['out']) });
      return complaintAbout(new Map([['out', data as unknown as Float32Array]]), stored);
    };
    expect(off(1 + 2 ** -11)).toBeUndefined();
    expect(off(1 + 2 ** -9)).toMatch(/^out\[\d+\] is /);
  });

  test('names the worst element of what is wrong', () => {
    const wrong = right.slice();
    wrong[3]! += 1e-3;
    wrong[9]! += 0.5;
    const complaint = complaintAbout(new Map([['out', wrong]]), expected);
    expect(complaint).toMatch(/^out\[9\] is \S+, expected \S+ \(error 0\.500, allowed \S+e-7\)$/);
  });

  test('names an element that was never written, though nobody knows what it should be', () => {
    const holed = right.slice();
    holed[7] = NaN;
    const none = { ...expected, places: new Map(), values: new Map() };
    expect(complaintAbout(new Map([['out', holed]]), none)).toBe(
      'out[7] is NaN or was never written',
    );
  });

  test('an error of twice the tolerance is found, and one of half of it is not', () => {
    const abs = expected.budgets.get('out')!.abs;
    const off = (by: number) => {
      const data = Float64Array.from(matmul({ ...inputs, M: 4, N: 4, K: 8 }, f64));
      data[5]! += by;
      return complaintAbout(new Map([['out', data as unknown as Float32Array]]), expected);
    };
    expect(off(0.5 * abs)).toBeUndefined();
    expect(off(2 * abs)).toContain('out[5]');
  });
});

test('layer norm and its gradient', () => {
  const dims = { rows: 5, cols: 7 };
  const names = ['x', 'dy'] as const;
  const [x, dy] = names.map((_name, i) => randomFloats(35, i)) as [Float32Array, Float32Array];
  const [gamma, beta] = [randomFloats(7, 3), randomFloats(7, 4)];
  const given = { x, gamma, beta, ...dims, eps: 1e-5 };
  for (const r of [f64, f32]) {
    const found = wholeOf(layerNormOracle, dims, { x, gamma, beta }, r);
    const { y, mean, invStd } = layerNorm(given, r);
    equal(found['out'], y);
    equal(found['mean'], mean);
    equal(found['invStd'], invStd);
  }
  // The statistics are given, as float32 holds them.
  const { mean, invStd } = layerNorm(given, f32);
  const stats = { mean: Float32Array.from(mean), invStd: Float32Array.from(invStd) };
  const found = wholeOf(layerNormBackwardOracle, dims, { x, dy, gamma, ...stats }, f32);
  equal(found['dx'], layerNormBackward(given, dy, f32).dx);
});

test('cross-entropy of labels that are words', () => {
  const dims = { rows: 4, classes: 6 };
  const logits = randomFloats(24, 1);
  const words = Uint32Array.of(3, 0, 9, 5);
  const labels = new Float32Array(words.buffer);
  for (const r of [f64, f32]) {
    const found = wholeOf(crossEntropyOracle, dims, { logits, labels }, r);
    const rule = { ignore: 0xffff_ffff, smoothing: 0.1 };
    const expected = crossEntropy({ logits, labels: words, ...dims, ...rule }, r);
    equal(found['lse'], expected.lse);
    equal(found['loss'], expected.loss);
  }
});
