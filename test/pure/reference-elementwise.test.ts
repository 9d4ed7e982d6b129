// The references against themselves, second half: pointwise, reductions, pooling, resizing, moves, optimisers; and that every
// family obeys its precision argument.
import { describe, expect, it } from 'vitest';
import { adam, ema, sgd } from '../reference/adam.ts';
import { attention } from '../reference/attention.ts';
import { conv2d } from '../reference/conv.ts';
import { embedding, embeddingBackward } from '../reference/embedding.ts';
import { matmul } from '../reference/matmul.ts';
import { f32, f64, maxAbs } from '../reference/naive.ts';
import { batchNorm } from '../reference/norm.ts';
import {
  arithmeticNames,
  binary,
  binaryBackward,
  type PointwiseName,
  pointwiseNames,
  unary,
  unaryBackward,
} from '../reference/pointwise.ts';
import {
  avgPool2d,
  avgPool2dBackward,
  maxPool2d,
  maxPool2dBackward,
  poolSize,
} from '../reference/pool.ts';
import { reduce, reduceBackward, type ReduceName } from '../reference/reduce.ts';
import { bilinear, bilinearBackward, nearest, nearestBackward } from '../reference/resize.ts';
import {
  broadcastShape,
  concat,
  concatBackward,
  numel,
  permute,
  permuteBackward,
  slice,
  sliceBackward,
} from '../reference/shape.ts';
import { softmax } from '../reference/softmax.ts';
import { spectralNorm } from '../reference/spectral.ts';
import { expectClose } from '../support/close.ts';
import { checkGradient } from '../support/gradient.ts';
import { randomData } from '../support/random.ts';

/** Distinct values at least 1/n apart: no maximum is near a tie, so central differences see no kink. */
function distinct(n: number, seed: number): Float64Array {
  const order = [...randomData(n, seed)].map((v, i) => [v, i] as const).sort((a, b) => a[0] - b[0]);
  const x = new Float64Array(n);
  order.forEach(([, i], rank) => (x[i] = rank / n - 0.5));
  return x;
}

describe('pointwise', () => {
  const positive: PointwiseName[] = ['log', 'sqrt', 'rsqrt'];
  it.each(pointwiseNames)('%s', (name) => {
    // Kinks and poles at 0 stay out of reach of the step; 1/x has third derivative 6/x⁴, too much under ½.
    const near = name === 'reciprocal' ? 0.5 : 0.05;
    const x = positive.includes(name)
      ? randomData(23, 1, 0.3, 3)
      : randomData(23, 1, -3, 3).map((a) => (Math.abs(a) < near ? a + 2 * near : a));
    for (const slope of [0.1, 0.2]) {
      checkGradient(name, {
        inputs: [x],
        f: (a) => unary(name, { x: a!, slope }, f64),
        backward: (dy, a) => [unaryBackward(name, { x: a!, slope }, dy, f64).dx],
      });
    }
  });

  it('PyTorch’s choice at the kinks', () => {
    const dx = (name: PointwiseName) => unaryBackward(name, { x: [0], slope: 0.1 }, [1], f64).dx[0];
    expect(dx('relu')).toBe(0);
    expect(dx('leakyRelu')).toBe(0.1);
    expect(dx('abs')).toBe(0);
  });

  it('softplus and sigmoid neither overflow nor vanish', () => {
    expect([...unary('softplus', { x: [1000, -1000, -40, 0] }, f64)]).toEqual([
      1000,
      0,
      Math.log1p(Math.exp(-40)),
      Math.LN2,
    ]);
    expect([...unary('sigmoid', { x: [1000, -1000] }, f32)]).toEqual([1, 0]);
  });
});

describe('broadcast arithmetic', () => {
  const shapes = [
    [[3], [3]],
    [[1], [1]],
    [[2, 3, 5], [5]],
    [
      [4, 3, 1, 1],
      [3, 2, 5],
    ],
    [
      [2, 1, 3],
      [1, 5, 1],
    ],
    [[], [2, 3]],
  ] as const;
  for (const name of arithmeticNames) {
    it.each(shapes)(`${name} [%s] [%s]`, (shapeA, shapeB) => {
      const b = distinct(numel(shapeB), 2).map((v) => v + 1.3 + 1 / 77);
      checkGradient(name, {
        inputs: [distinct(numel(shapeA), 1).map((v) => v + 1), b],
        f: (x, y) => binary(name, { a: x!, shapeA, b: y!, shapeB }, f64),
        backward: (dy, x, y) => {
          const g = binaryBackward(name, { a: x!, shapeA, b: y!, shapeB }, dy, f64);
          return [g.da, g.db];
        },
      });
    });
  }

  it('maximum halves the gradient of equals', () => {
    const o = { a: [1, 2, 3], shapeA: [3], b: [2], shapeB: [1] };
    const { da, db } = binaryBackward('maximum', o, [1, 1, 1], f64);
    expect([...da]).toEqual([0, 0.5, 1]);
    expect([...db]).toEqual([1.5]);
  });

  it('shapes that do not meet throw', () => {
    expect(() => broadcastShape([2, 3], [2])).toThrow('[2, 3] and [2] do not broadcast');
  });
});

describe('reduce', () => {
  const cases: [number[], number[] | undefined][] = [
    [[1], undefined],
    [[7], [0]],
    [[2, 3, 5], [1]],
    [
      [2, 3, 5],
      [0, 2],
    ],
    [
      [4, 1, 3, 2],
      [0, 2, 3],
    ],
    [[3, 5], undefined],
    [[2, 3], []],
  ];
  for (const name of ['sum', 'mean', 'max'] as ReduceName[]) {
    it.each(cases)(`${name} of [%s] over [%s]`, (shape, axes) => {
      const o = { shape, ...(axes && { axes }) };
      checkGradient(name, {
        inputs: [distinct(numel(shape), 1)],
        f: (x) => reduce(name, { ...o, x: x! }, f64),
        backward: (dy, x) => [reduceBackward(name, { ...o, x: x! }, dy, f64).dx],
      });
    });
  }

  it('equal maxima share', () => {
    const o = { x: [1, 3, 3, 0], shape: [4] };
    expect([...reduceBackward('max', o, [1], f64).dx]).toEqual([0, 0.5, 0.5, 0]);
  });
});

describe('pooling', () => {
  type Size = Omit<Parameters<typeof maxPool2d>[0], 'x'>;
  const cases: Size[] = [
    { N: 1, C: 1, H: 2, W: 2, kernel: [2, 2] },
    { N: 2, C: 3, H: 5, W: 7, kernel: [2, 2] },
    { N: 1, C: 2, H: 7, W: 5, kernel: [3, 3], stride: [2, 2], pad: [1, 1] },
    { N: 4, C: 1, H: 3, W: 4, kernel: [1, 1] },
    { N: 1, C: 3, H: 5, W: 6, kernel: [3, 2], stride: [1, 3], pad: [1, 0] },
    { N: 1, C: 2, H: 7, W: 5, kernel: [3, 3], stride: [2, 2], pad: [1, 1], countIncludePad: false },
  ];
  it.each(cases)('%j', (size) => {
    const inputs = [distinct(size.N * size.C * size.H * size.W, 1)];
    checkGradient('max', {
      inputs,
      f: (x) => maxPool2d({ ...size, x: x! }, f64),
      backward: (dy, x) => [maxPool2dBackward({ ...size, x: x! }, dy, f64).dx],
    });
    checkGradient('avg', {
      inputs,
      f: (x) => avgPool2d({ ...size, x: x! }, f64),
      backward: (dy, x) => [avgPool2dBackward({ ...size, x: x! }, dy, f64).dx],
    });
    const [P, Q] = poolSize(size);
    expect(maxPool2d({ ...size, x: inputs[0]! }, f64)).toHaveLength(size.N * size.C * P * Q);
  });

  it('the first of equal maxima takes the gradient', () => {
    const o = { x: [2, 5, 5, 5], N: 1, C: 1, H: 2, W: 2, kernel: [2, 2] as const };
    expect([...maxPool2dBackward(o, [1], f64).dx]).toEqual([0, 1, 0, 0]);
  });
});

describe('resize', () => {
  it.each([
    [1, 1, 1, 1, 2],
    [2, 3, 5, 1, 2],
    [4, 1, 2, 3, 3],
  ])('nearest N %i C %i H %i W %i × %i', (N, C, H, W, factor) => {
    checkGradient('nearest', {
      inputs: [randomData(N * C * H * W, 1)],
      f: (x) => nearest({ x: x!, N, C, H, W, factor }, f64),
      backward: (dy, x) => [nearestBackward({ x: x!, N, C, H, W, factor }, dy, f64).dx],
    });
  });

  it.each([
    [1, 1, 1, 1, 3, 2],
    [2, 3, 3, 5, 6, 10],
    [4, 1, 7, 5, 3, 4],
    [1, 2, 4, 4, 7, 1],
    [1, 1, 5, 3, 5, 3],
  ])('bilinear N %i C %i %i×%i → %i×%i', (N, C, H, W, P, Q) => {
    checkGradient('bilinear', {
      inputs: [randomData(N * C * H * W, 1)],
      f: (x) => bilinear({ x: x!, N, C, H, W, P, Q }, f64),
      backward: (dy, x) => [bilinearBackward({ x: x!, N, C, H, W, P, Q }, dy, f64).dx],
    });
  });
});

describe('embedding', () => {
  it.each([
    [1, 1, [0]],
    [5, 3, [4, 0, 4, 4]],
    [7, 2, [6, 1]],
  ])('table %i × %i, index %j', (V, D, index) => {
    checkGradient('embedding', {
      inputs: [randomData(V * D, 1)],
      f: (table) => embedding({ table: table!, V, D, index }, f64),
      backward: (dy, table) => [embeddingBackward({ table: table!, V, D, index }, dy, f64).dtable],
    });
  });

  it('throws outside the table', () => {
    expect(() => embedding({ table: [1, 2], V: 2, D: 1, index: [2] }, f64)).toThrow('no row 2');
    expect(() => embedding({ table: [1, 2], V: 2, D: 1, index: [-1] }, f64)).toThrow('no row -1');
  });
});

describe('moves', () => {
  it.each([0, 1, 2])('concat along axis %i', (axis) => {
    const shapes = [1, 2, 3].map((d) => [2, 3, 1].map((s, i) => (i === axis ? d : s)));
    checkGradient('concat', {
      inputs: shapes.map((s, i) => randomData(numel(s), i)),
      f: (...xs) => concat({ xs, shapes, axis }, f64),
      backward: (dy, ...xs) => concatBackward({ xs, shapes, axis }, dy, f64).dxs,
    });
  });

  it('slice', () => {
    const o = { shape: [3, 5, 2], start: [0, 2, 1], end: [3, 4, 2] };
    checkGradient('slice', {
      inputs: [randomData(30, 1)],
      f: (x) => slice({ ...o, x: x! }, f64),
      backward: (dy, x) => [sliceBackward({ ...o, x: x! }, dy, f64).dx],
    });
  });

  it.each([[[0, 1, 2]], [[2, 0, 1]], [[1, 2, 0]], [[2, 1, 0]]])('permute %j', (order) => {
    const o = { shape: [2, 3, 5], order };
    checkGradient('permute', {
      inputs: [randomData(30, 1)],
      f: (x) => permute({ ...o, x: x! }, f64),
      backward: (dy, x) => [permuteBackward({ ...o, x: x! }, dy, f64).dx],
    });
  });

  it('permute and slice by hand', () => {
    const x = [1, 2, 3, 4, 5, 6];
    expect([...permute({ x, shape: [2, 3], order: [1, 0] }, f64)]).toEqual([1, 4, 2, 5, 3, 6]);
    expect([...slice({ x, shape: [2, 3], start: [0, 1], end: [2, 3] }, f64)]).toEqual([2, 3, 5, 6]);
  });
});

describe('optimisers', () => {
  it('first Adam step with β₁ = 0 moves by lr against the sign', () => {
    const o = { p: [1, 1, 1], g: [5, -0.001, 0], m: [0, 0, 0], v: [0, 0, 0], step: 1 };
    const { p } = adam({ ...o, lr: 0.1, beta1: 0, beta2: 0.9 }, f64);
    expectClose(p, [0.9, 1.1, 1], { abs: 1e-6 }, 'adam');
  });

  it('SGD and EMA by hand', () => {
    expect([...sgd({ p: [1], g: [2], lr: 0.5 }, f64).p]).toEqual([0]);
    const second = { p: [1], g: [2], buffer: [4], lr: 0.5, momentum: 0.5 };
    expect([...sgd(second, f64).p]).toEqual([-1]);
    expect([...sgd({ ...second, nesterov: true }, f64).p]).toEqual([-1]);
    expect([...sgd({ ...second, weightDecay: 2 }, f64).p]).toEqual([-2]);
    expect([...ema({ average: [4], p: [8], decay: 0.75 }, f64)]).toEqual([5]);
  });
});

describe('precision argument', () => {
  const x = randomData(2 * 3 * 5 * 5, 1);
  const w = randomData(4 * 3 * 3 * 3, 2);
  const runs: Record<string, (r: (v: number) => number) => Float64Array> = {
    matmul: (r) => matmul({ a: x, b: x, M: 3, K: 50, N: 3 }, r),
    softmax: (r) => softmax({ x, rows: 3, cols: 50 }, r),
    attention: (r) =>
      attention(
        { q: x, k: x, v: x, B: 2, Nq: 25, Nk: 25, DK: 3, DV: 3, scale: 1, channelMajor: true },
        r,
      ).o,
    conv2d: (r) =>
      conv2d({ x, w, N: 2, C: 3, H: 5, W: 5, K: 4, R: 3, S: 3, stride: [1, 1], pad: [1, 1] }, r),
    batchNorm: (r) => batchNorm({ x, N: 2, C: 3, H: 5, W: 5, training: true }, r).y,
    spectralNorm: (r) =>
      spectralNorm(
        { w: x, rows: 10, cols: 15, u: x.slice(0, 10), v: x.slice(0, 15), training: true },
        r,
      ).weight,
    bilinear: (r) => bilinear({ x, N: 2, C: 3, H: 5, W: 5, P: 7, Q: 3 }, r),
    mean: (r) => reduce('mean', { x, shape: [6, 25], axes: [1] }, r),
    sigmoid: (r) => unary('sigmoid', { x }, r),
    adam: (r) =>
      adam({ p: x, g: x, m: x, v: x.map(Math.abs), step: 3, lr: 0.01, beta1: 0.5, beta2: 0.9 }, r)
        .p,
  };
  it.each(Object.keys(runs))(
    '%s: f32 gives float32 values, near the oracle but not equal',
    (name) => {
      const naive = runs[name]!(f32);
      const ref = runs[name]!(f64);
      expect(naive).toEqual(naive.map(Math.fround));
      const error = maxAbs(naive.map((v, i) => v - ref[i]!));
      expect(error).toBeGreaterThan(0);
      expect(error).toBeLessThan(1e-5 * Math.max(1, maxAbs(ref)));
    },
  );
});
