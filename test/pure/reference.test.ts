// The references against themselves: every gradient of the matrix and normalisation families against central differences.
// The elementwise families follow in reference-elementwise.test.ts; golden.test.ts compares both with PyTorch.
import { describe, expect, it } from 'vitest';
import { attention, attentionBackward } from '../reference/attention.ts';
import {
  conv2d,
  conv2dBackward,
  conv2dSize,
  convTranspose2d,
  convTranspose2dBackward,
  convTranspose2dSize,
} from '../reference/conv.ts';
import { matmul, matmulBackward } from '../reference/matmul.ts';
import { f64 } from '../reference/naive.ts';
import { batchNorm, batchNormBackward } from '../reference/norm.ts';
import { numel, permute } from '../reference/shape.ts';
import { softmax, softmaxBackward } from '../reference/softmax.ts';
import { spectralNorm, spectralNormBackward } from '../reference/spectral.ts';
import { expectClose } from '../support/close.ts';
import { checkGradient } from '../support/gradient.ts';
import { randomData } from '../support/random.ts';

describe('matmul', () => {
  const cases = [
    { batchA: [], batchB: [], M: 3, K: 5, N: 7 },
    { batchA: [], batchB: [], M: 1, K: 1, N: 1 },
    { batchA: [1], batchB: [4], M: 2, K: 3, N: 1 },
    { batchA: [4], batchB: [1], M: 1, K: 7, N: 3 },
    { batchA: [2, 1], batchB: [1, 3], M: 2, K: 3, N: 2 },
    { batchA: [2], batchB: [], M: 3, K: 2, N: 2 },
  ];
  for (const transA of [false, true]) {
    for (const transB of [false, true]) {
      it.each(cases)(`%j transA ${transA} transB ${transB}`, (c) => {
        const o = { ...c, transA, transB };
        checkGradient('matmul', {
          inputs: [
            randomData(numel(c.batchA) * c.M * c.K, 1),
            randomData(numel(c.batchB) * c.K * c.N, 2),
          ],
          f: (a, b) => matmul({ ...o, a: a!, b: b! }, f64),
          backward: (dy, a, b) => {
            const g = matmulBackward({ ...o, a: a!, b: b! }, dy, f64);
            return [g.da, g.db];
          },
        });
      });
    }
  }

  it('[1 2; 3 4]·[5 6; 7 8] in all four forms', () => {
    const size = { M: 2, K: 2, N: 2 };
    const [a, at, b, bt] = [
      [1, 2, 3, 4],
      [1, 3, 2, 4],
      [5, 6, 7, 8],
      [5, 7, 6, 8],
    ] as const;
    const c = [19, 22, 43, 50];
    expect([...matmul({ ...size, a, b }, f64)]).toEqual(c);
    expect([...matmul({ ...size, a: at, b, transA: true }, f64)]).toEqual(c);
    expect([...matmul({ ...size, a, b: bt, transB: true }, f64)]).toEqual(c);
    expect([...matmul({ ...size, a: at, b: bt, transA: true, transB: true }, f64)]).toEqual(c);
  });
});

describe('softmax', () => {
  it.each([
    [1, 1],
    [1, 7],
    [4, 1],
    [2, 13],
    [3, 5],
  ])('%i rows of %i', (rows, cols) => {
    checkGradient('softmax', {
      inputs: [randomData(rows * cols, 3, -3, 3)],
      f: (x) => softmax({ x: x!, rows, cols }, f64),
      backward: (dy, x) => [softmaxBackward({ x: x!, rows, cols }, dy, f64).dx],
    });
  });

  it('rows sum to 1 at logits of ±1e4', () => {
    const x = randomData(3 * 17, 5, -1e4, 1e4);
    const y = softmax({ x, rows: 3, cols: 17 }, f64);
    for (let i = 0; i < 3; i++) {
      const sum = y.slice(i * 17, i * 17 + 17).reduce((s, a) => s + a, 0);
      expect(Math.abs(sum - 1)).toBeLessThan(1e-15);
    }
  });
});

describe('attention', () => {
  const cases = [
    { B: 1, Nq: 1, Nk: 1, DK: 1, DV: 1, scale: 1 },
    { B: 1, Nq: 5, Nk: 3, DK: 2, DV: 7, scale: 0.5 },
    { B: 2, Nq: 3, Nk: 7, DK: 1, DV: 2, scale: 1 },
    { B: 4, Nq: 2, Nk: 5, DK: 3, DV: 1, scale: 0.7 },
  ];
  for (const channelMajor of [true, false]) {
    it.each(cases)(`%j channelMajor ${channelMajor}`, (c) => {
      const o = { ...c, channelMajor };
      checkGradient('attention', {
        inputs: [
          randomData(c.B * c.Nq * c.DK, 6, -2, 2),
          randomData(c.B * c.Nk * c.DK, 7, -2, 2),
          randomData(c.B * c.Nk * c.DV, 8),
        ],
        f: (q, k, v) => attention({ ...o, q: q!, k: k!, v: v! }, f64).o,
        backward: (dy, q, k, v) => {
          const g = attentionBackward({ ...o, q: q!, k: k!, v: v! }, dy, f64);
          return [g.dq, g.dk, g.dv];
        },
      });
    });
  }

  it('what is added to the scores hides keys, all of a row among them', () => {
    const o = { B: 2, Nq: 3, Nk: 4, DK: 2, DV: 3, scale: 0.7, channelMajor: false };
    const bias = (b: number, i: number, j: number) =>
      j > i || (b === 1 && i === 1) ? -Infinity : 0.3 * (j - i);
    const given = { ...o, bias };
    checkGradient('masked attention', {
      inputs: [randomData(12, 6, -2, 2), randomData(16, 7, -2, 2), randomData(24, 8)],
      f: (q, k, v) => attention({ ...given, q: q!, k: k!, v: v! }, f64).o,
      backward: (dy, q, k, v) => {
        const g = attentionBackward({ ...given, q: q!, k: k!, v: v! }, dy, f64);
        return [g.dq, g.dk, g.dv];
      },
    });
    const whole = { q: randomData(12, 6), k: randomData(16, 7), v: randomData(24, 8) };
    expect([...attention({ ...given, ...whole }, f64).o.slice(12, 15)]).toEqual([0, 0, 0]);
  });

  it('the two layouts are one computation, and lse is log Σ exp', () => {
    const size = { B: 2, Nq: 3, Nk: 5, DK: 2, DV: 4, scale: 0.6 };
    const q = randomData(12, 1);
    const k = randomData(20, 2);
    const v = randomData(40, 3);
    const flip = (x: Float64Array, shape: number[]) => permute({ x, shape, order: [0, 2, 1] }, f64);
    const seq = attention({ ...size, q, k, v, channelMajor: false }, f64);
    const chan = attention(
      {
        ...size,
        q: flip(q, [2, 3, 2]),
        k: flip(k, [2, 5, 2]),
        v: flip(v, [2, 5, 4]),
        channelMajor: true,
      },
      f64,
    );
    expect(flip(chan.o, [2, 4, 3])).toEqual(seq.o);
    expect(chan.lse).toEqual(seq.lse);
    let sum = 0;
    for (let j = 0; j < 5; j++) {
      sum += Math.exp(0.6 * (q[0]! * k[j * 2]! + q[1]! * k[j * 2 + 1]!));
    }
    expect(seq.lse[0]).toBeCloseTo(Math.log(sum), 14);
  });
});

describe('conv2d', () => {
  type Size = Omit<Parameters<typeof conv2d>[0], 'x' | 'w' | 'bias'>;
  const cases: Size[] = [
    { N: 1, C: 1, H: 1, W: 1, K: 1, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
    { N: 4, C: 3, H: 3, W: 2, K: 5, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
    { N: 2, C: 3, H: 5, W: 7, K: 2, R: 3, S: 3, stride: [1, 1], pad: [1, 1] },
    { N: 1, C: 2, H: 7, W: 5, K: 3, R: 4, S: 4, stride: [2, 2], pad: [1, 1] },
    { N: 2, C: 1, H: 6, W: 7, K: 2, R: 2, S: 3, stride: [2, 3], pad: [0, 2] },
    { N: 1, C: 1, H: 2, W: 2, K: 1, R: 5, S: 5, stride: [1, 2], pad: [2, 2] },
    { N: 1, C: 2, H: 5, W: 5, K: 1, R: 1, S: 1, stride: [3, 2], pad: [0, 0] },
  ];
  it.each(cases)('%j', (size) => {
    const { N, C, H, W, K, R, S } = size;
    checkGradient('conv2d', {
      inputs: [randomData(N * C * H * W, 1), randomData(K * C * R * S, 2), randomData(K, 3)],
      f: (x, w, bias) => conv2d({ ...size, x: x!, w: w!, bias: bias! }, f64),
      backward: (dy, x, w, bias) => {
        const g = conv2dBackward({ ...size, x: x!, w: w!, bias: bias! }, dy, f64);
        return [g.dx, g.dw, g.dbias];
      },
    });
  });

  it('sizes', () => {
    const size = { H: 7, W: 8, R: 4, S: 3, stride: [2, 3], pad: [1, 0] } as const;
    expect(conv2dSize(size)).toEqual([3, 2]);
    expect(convTranspose2dSize({ ...size, H: 3, W: 2, outputPad: [1, 2] })).toEqual([7, 8]);
  });

  it('convTranspose2d is the adjoint of conv2d', () => {
    const size = { N: 2, R: 4, S: 3, stride: [2, 3], pad: [1, 0] } as const;
    const x = randomData(2 * 3 * 7 * 8, 1);
    const w = randomData(5 * 3 * 4 * 3, 2);
    const dy = randomData(2 * 5 * 3 * 2, 3);
    const forward = { ...size, C: 3, H: 7, W: 8, K: 5 };
    const transposed = { ...size, Cin: 5, H: 3, W: 2, Cout: 3, outputPad: [1, 2] as const };
    const back = conv2dBackward({ ...forward, x, w }, dy, f64).dx;
    const up = convTranspose2d({ ...transposed, x: dy, w }, f64);
    expectClose(up, back, { abs: 1e-14 }, 'adjoint');
  });
});

describe('convTranspose2d', () => {
  type Size = Omit<Parameters<typeof convTranspose2d>[0], 'x' | 'w' | 'bias'>;
  const none = [0, 0] as const;
  const cases: Size[] = [
    { N: 1, Cin: 1, H: 1, W: 1, Cout: 1, R: 1, S: 1, stride: [1, 1], pad: none, outputPad: none },
    { N: 4, Cin: 5, H: 1, W: 1, Cout: 3, R: 4, S: 4, stride: [1, 1], pad: none, outputPad: none },
    { N: 2, Cin: 3, H: 3, W: 5, Cout: 2, R: 4, S: 4, stride: [2, 2], pad: [1, 1], outputPad: none },
    {
      N: 1,
      Cin: 2,
      H: 3,
      W: 2,
      Cout: 3,
      R: 3,
      S: 3,
      stride: [2, 2],
      pad: [1, 1],
      outputPad: [1, 1],
    },
    {
      N: 1,
      Cin: 1,
      H: 2,
      W: 3,
      Cout: 2,
      R: 5,
      S: 2,
      stride: [3, 2],
      pad: [2, 0],
      outputPad: [2, 1],
    },
    { N: 2, Cin: 1, H: 3, W: 3, Cout: 1, R: 1, S: 2, stride: [2, 3], pad: none, outputPad: [1, 0] },
  ];
  it.each(cases)('%j', (size) => {
    const { N, Cin, H, W, Cout, R, S } = size;
    checkGradient('convTranspose2d', {
      inputs: [
        randomData(N * Cin * H * W, 1),
        randomData(Cin * Cout * R * S, 2),
        randomData(Cout, 3),
      ],
      f: (x, w, bias) => convTranspose2d({ ...size, x: x!, w: w!, bias: bias! }, f64),
      backward: (dy, x, w, bias) => {
        const g = convTranspose2dBackward({ ...size, x: x!, w: w!, bias: bias! }, dy, f64);
        return [g.dx, g.dw, g.dbias];
      },
    });
  });
});

describe('batchNorm', () => {
  const cases = [
    { N: 2, C: 1, H: 1, W: 1 },
    { N: 1, C: 3, H: 2, W: 3 },
    { N: 4, C: 2, H: 1, W: 5 },
    { N: 2, C: 5, H: 3, W: 1 },
  ];
  for (const training of [true, false]) {
    it.each(cases)(`%j training ${training}`, (size) => {
      const { N, C, H, W } = size;
      // N·H·W = 2 normalises to ±1 whatever x is: eps near the variance keeps a gradient there.
      const o = {
        ...size,
        training,
        eps: 0.1,
        runningMean: randomData(C, 4),
        runningVar: randomData(C, 5, 0.5, 2),
      };
      checkGradient('batchNorm', {
        inputs: [randomData(N * C * H * W, 1, -2, 2), randomData(C, 2, 0.5, 1.5), randomData(C, 3)],
        f: (x, gamma, beta) => batchNorm({ ...o, x: x!, gamma: gamma!, beta: beta! }, f64).y,
        backward: (dy, x, gamma, beta) => {
          const g = batchNormBackward({ ...o, x: x!, gamma: gamma!, beta: beta! }, dy, f64);
          return [g.dx, g.dgamma, g.dbeta];
        },
      });
      checkGradient('batchNorm without gamma and beta', {
        inputs: [randomData(N * C * H * W, 1, -2, 2)],
        f: (x) => batchNorm({ ...o, x: x! }, f64).y,
        backward: (dy, x) => [batchNormBackward({ ...o, x: x! }, dy, f64).dx],
      });
    });
  }

  it('refuses one value a channel in training, and evaluation without statistics', () => {
    const one = { x: [1], N: 1, C: 1, H: 1, W: 1 };
    expect(() => batchNorm({ ...one, training: true }, f64)).toThrow('no variance');
    expect(() => batchNorm({ ...one, training: false }, f64)).toThrow('running statistics');
  });
});

describe('spectralNorm', () => {
  it.each([
    [1, 1],
    [1, 5],
    [7, 1],
    [3, 4],
    [5, 3],
  ])('%i × %i, gradient at fixed u and v', (rows, cols) => {
    const o = { rows, cols, u: randomData(rows, 2), v: randomData(cols, 3), training: false };
    checkGradient('spectralNorm', {
      // away from 0: σ of a 1×1 matrix is the entry itself
      inputs: [randomData(rows * cols, 1, 0.5, 1.5)],
      f: (w) =>
        spectralNorm({ ...o, u: o.u.map(Math.abs), v: o.v.map(Math.abs), w: w! }, f64).weight,
      backward: (dy, w) => [
        spectralNormBackward({ ...o, u: o.u.map(Math.abs), v: o.v.map(Math.abs), w: w! }, dy, f64)
          .dw,
      ],
    });
  });

  it('the training gradient is the one at the updated u and v', () => {
    const w = randomData(12, 1);
    const dy = randomData(12, 2);
    const start = { w, rows: 3, cols: 4, u: randomData(3, 3), v: randomData(4, 4) };
    const { u, v } = spectralNorm({ ...start, training: true }, f64);
    expect(spectralNormBackward({ ...start, training: true }, dy, f64)).toEqual(
      spectralNormBackward({ ...start, u, v, training: false }, dy, f64),
    );
  });

  it('converges to the largest singular value', () => {
    const w = [3, 0, 0, 0, -5, 0];
    let state = { u: new Float64Array([1, 1]), v: new Float64Array([1, 1, 1]), sigma: 0 } as {
      u: Float64Array;
      v: Float64Array;
      sigma: number;
    };
    for (let i = 0; i < 60; i++)
      state = spectralNorm({ w, rows: 2, cols: 3, training: true, ...state }, f64);
    expect(state.sigma).toBeCloseTo(5, 13);
  });
});
