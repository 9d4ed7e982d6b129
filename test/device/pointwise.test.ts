import { describe, expect, test } from 'vitest';
import {
  binary,
  fill,
  imagesToFloat,
  total,
  unary,
  unaryKernel,
} from '../../src/kernels/pointwise.ts';
import type { BinaryOp, UnaryOp } from '../../src/kernels/pointwise.ts';
import { sourceOf } from '../../src/kernels/kernel.ts';
import { broadcastShape, sizeOf } from '../../src/util/shape.ts';
import {
  budget,
  divideAllowance,
  expAllowance,
  f32,
  f64,
  logAllowance,
  maxAbs,
  sqrtAllowance,
} from '../reference/naive.ts';
import type { Round } from '../reference/naive.ts';
import { binary as binaryReference, unary as unaryReference } from '../reference/pointwise.ts';
import { broadcastOffsets } from '../reference/shape.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { randomData, randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const sizes = [1, 3, 4, 7, 257, 1031];

interface UnaryCase {
  readonly op: UnaryOp;
  readonly range: readonly [number, number];
  readonly a?: number;
  readonly b?: number;
  readonly reference: (x: Float64Array, r: Round) => Float64Array;
  /** What WGSL grants the built-ins inside, given the reference's values. */
  readonly allowance?: (y: Float64Array) => number;
}

const named =
  (name: Parameters<typeof unaryReference>[0], slope?: number) => (x: Float64Array, r: Round) =>
    unaryReference(name, slope === undefined ? { x } : { x, slope }, r);
const each = (f: (x: number, r: Round) => number) => (x: Float64Array, r: Round) =>
  x.map((v) => f(v, r));

const unaryCases: readonly UnaryCase[] = [
  { op: 'neg', range: [-3, 3], reference: named('neg') },
  { op: 'abs', range: [-3, 3], reference: named('abs') },
  { op: 'square', range: [-3, 3], reference: named('square') },
  {
    op: 'sqrt',
    range: [0, 9],
    reference: named('sqrt'),
    allowance: (y) => sqrtAllowance(maxAbs(y)),
  },
  {
    op: 'rsqrt',
    range: [0.1, 9],
    reference: named('rsqrt'),
    allowance: (y) => sqrtAllowance(maxAbs(y)) + divideAllowance(maxAbs(y)),
  },
  {
    op: 'reciprocal',
    range: [0.1, 9],
    reference: named('reciprocal'),
    allowance: (y) => divideAllowance(maxAbs(y)),
  },
  {
    op: 'exp',
    range: [-8, 3],
    reference: named('exp'),
    allowance: (y) => expAllowance(8, maxAbs(y)),
  },
  {
    op: 'log',
    range: [0.01, 20],
    reference: named('log'),
    allowance: (y) => logAllowance(maxAbs(y)),
  },
  { op: 'relu', range: [-3, 3], reference: named('relu') },
  { op: 'leakyRelu', range: [-3, 3], a: 0.2, reference: named('leakyRelu', 0.2) },
  // tanh is built of exp(−2|x|) ≤ 1, a quotient of it and a polynomial.
  {
    op: 'tanh',
    range: [-6, 6],
    reference: named('tanh'),
    allowance: () => expAllowance(1, 0.5) + divideAllowance(1),
  },
  {
    op: 'sigmoid',
    range: [-9, 9],
    reference: named('sigmoid'),
    allowance: () => expAllowance(1, 0.5) + divideAllowance(1),
  },
  {
    op: 'softplus',
    range: [-9, 9],
    reference: named('softplus'),
    allowance: (y) => expAllowance(1, 0.5) + divideAllowance(maxAbs(y)),
  },
  { op: 'step', range: [-1, 1], a: 0.25, reference: each((x) => (x > 0 ? 1 : 0.25)) },
  {
    op: 'affine',
    range: [-3, 3],
    a: 1.7,
    b: -0.3,
    reference: each((x, r) => r(r(r(1.7) * x) + r(-0.3))),
  },
  { op: 'copy', range: [-3, 3], reference: each((x) => x) },
  {
    op: 'clamp',
    range: [-3, 3],
    a: -1,
    b: 0.5,
    reference: each((x) => Math.min(0.5, Math.max(-1, x))),
  },
];

describe('unary', () => {
  test.each(unaryCases)('$op agrees with the reference', async (c) => {
    for (const n of sizes) {
      const x = randomData(n, 11 + n, ...c.range);
      x[0] = 0 > c.range[0] ? 0 : x[0]!;
      const { op, a, b } = c;
      const { out } = await execute(
        gpu,
        { x, out: n },
        (s) => {
          const scalars = { ...(a === undefined ? {} : { a }), ...(b === undefined ? {} : { b }) };
          unary(gpu, op, { ...s, n, ...scalars });
        },
        ['out'],
      );
      const reference = c.reference(x, f64);
      const allowance = c.allowance?.(reference) ?? 0;
      const allowed = budget(reference, c.reference(x, f32), { allowance });
      expectClose(out, reference, allowed, `${op} of ${n}`);
    }
  });

  test('every op has its constant in the shader', () => {
    for (const { op } of unaryCases) {
      const constant = op.replaceAll(/[A-Z]/g, '_$&').toUpperCase();
      expect(sourceOf(unaryKernel.file)).toContain(`const ${constant} =`);
    }
  });

  test('tanh, sigmoid and softplus hold for |x| up to 1e4', async () => {
    const x = Float32Array.of(-1e4, -300, -100, -88, -20, 0, 20, 88, 100, 300, 1e4);
    for (const op of ['tanh', 'sigmoid', 'softplus'] as const) {
      const { out } = await execute(
        gpu,
        { x, out: x.length },
        (s) => {
          unary(gpu, op, { ...s, n: x.length });
        },
        ['out'],
      );
      const reference = unaryReference(op, { x }, f64);
      expectClose(out, reference, { abs: 1e-37, rel: 2e-5 }, op);
    }
  });

  test('small arguments keep their digits in tanh and softplus', async () => {
    const x = Float32Array.of(1e-6, -1e-4, 1e-3, 0.01, -0.1, 0.6, 0.63, -0.7);
    const n = x.length;
    const { out } = await execute(
      gpu,
      { x, out: n },
      (s) => {
        unary(gpu, 'tanh', { ...s, n });
      },
      ['out'],
    );
    expectClose(out, unaryReference('tanh', { x }, f64), { abs: 0, rel: 1e-6 }, 'tanh');
    const low = Float32Array.of(-5, -10, -15, -17, -30, -60);
    const below = await execute(
      gpu,
      { x: low, out: low.length },
      (s) => {
        unary(gpu, 'softplus', { ...s, n: low.length });
      },
      ['out'],
    );
    const reference = unaryReference('softplus', { x: low }, f64);
    expectClose(below.out, reference, { abs: 0, rel: 2e-5 }, 'softplus');
  });

  test('gives the same bits twenty times', async () => {
    const x = randomFloats(1031, 5, -4, 4);
    await expectSameBits(() =>
      execute(
        gpu,
        { x, out: 1031 },
        (s) => {
          unary(gpu, 'tanh', { ...s, n: 1031 });
        },
        ['out'],
      ),
    );
  });
});

type Elementwise = (a: number, b: number, r: Round) => number;
const slope = 0.2;
const binaryRules: Record<BinaryOp, Elementwise> = {
  add: (a, b, r) => r(a + b),
  sub: (a, b, r) => r(a - b),
  mul: (a, b, r) => r(a * b),
  div: (a, b, r) => r(a / b),
  maximum: (a, b) => Math.max(a, b),
  minimum: (a, b) => Math.min(a, b),
  reluGrad: (g, x) => (x > 0 ? g : 0),
  leakyReluGrad: (g, x, r) => (x > 0 ? g : r(r(slope) * g)),
  tanhGrad: (g, y, r) => r(g * r(1 - r(y * y))),
  sigmoidGrad: (g, y, r) => r(g * r(y * r(1 - y))),
  greater: (a, b) => (a > b ? 1 : 0),
};

const shapePairs: readonly (readonly [readonly number[], readonly number[]])[] = [
  [[], []],
  [[1], [1]],
  [[257], [257]],
  [[3, 5, 7], [1]],
  [
    [1, 1],
    [4, 9],
  ],
  [
    [2, 3, 4, 4],
    [1, 3, 1, 1],
  ],
  [
    [2, 5, 3, 3],
    [5, 1, 1],
  ],
  [
    [3, 8, 16, 16],
    [8, 1, 1],
  ],
  [
    [2, 3, 9, 11],
    [1, 3, 1, 1],
  ],
  [[4, 7], [7]],
  [[5, 8], [8]],
  [
    [4, 1],
    [1, 6],
  ],
  [
    [4, 1],
    [1, 8],
  ],
  [
    [2, 1, 3, 1],
    [1, 5, 1, 4],
  ],
  [
    [2, 3, 4, 5],
    [2, 1, 4, 1],
  ],
  [
    [6, 300],
    [1, 300],
  ],
  [
    [1, 4],
    [70, 4],
  ],
];

function elementwise(
  rule: Elementwise,
  {
    a,
    b,
    aShape,
    bShape,
  }: { a: Float64Array; b: Float64Array; aShape: readonly number[]; bShape: readonly number[] },
  r: Round,
): Float64Array {
  const shape = broadcastShape(aShape, bShape);
  const atA = broadcastOffsets(aShape, shape);
  const atB = broadcastOffsets(bShape, shape);
  return Float64Array.from({ length: sizeOf(shape) }, (_, i) => rule(a[atA[i]!]!, b[atB[i]!]!, r));
}

describe('binary', () => {
  test.each(Object.keys(binaryRules) as BinaryOp[])('%s broadcasts as NumPy', async (op) => {
    for (const [left, right] of shapePairs) {
      for (const [aShape, bShape] of [
        [left, right],
        [right, left],
      ] as const) {
        const shape = broadcastShape(aShape, bShape);
        const positive = op === 'div';
        const a = randomData(sizeOf(aShape), 3, -2, 2);
        const b = randomData(sizeOf(bShape), 4, positive ? 0.2 : -2, 2);
        const n = sizeOf(shape);
        const { out } = await execute(
          gpu,
          { a, b, out: n },
          (s) => {
            binary(gpu, op, { ...s, aShape, bShape, shape, param: slope });
          },
          ['out'],
        );
        const given = { a, b, aShape, bShape };
        const reference = elementwise(binaryRules[op], given, f64);
        const naive = elementwise(binaryRules[op], given, f32);
        const allowance = op === 'div' ? divideAllowance(maxAbs(reference)) : 0;
        const what = `${op} [${aShape.join()}] [${bShape.join()}]`;
        expectClose(out, reference, budget(reference, naive, { allowance }), what);
      }
    }
  });

  test('the reference of add is the shared one', () => {
    const [a, b] = [randomData(6, 1), randomData(3, 2)];
    const shapes = { shapeA: [2, 3], shapeB: [3] };
    const given = { a, b, aShape: [2, 3], bShape: [3] };
    expect(binaryReference('add', { a, b, ...shapes }, f64)).toEqual(
      elementwise(binaryRules.add, given, f64),
    );
  });

  test('one tensor may stand on both sides', async () => {
    const a = randomData(7, 9);
    const { out } = await execute(
      gpu,
      { a, out: 7 },
      (s) => {
        const shape = [7];
        binary(gpu, 'mul', { ...s, b: s.a, aShape: shape, bShape: shape, shape });
      },
      ['out'],
    );
    expectClose(
      out,
      a.map((v) => v * v),
      { abs: 1e-7 },
      'square',
    );
  });

  test('more rows than a grid has along one axis', async () => {
    const [rows, columns] = [66001, 61];
    const a = randomFloats(rows * columns, 1);
    const b = randomFloats(rows, 2);
    const shapes = { aShape: [rows, columns], bShape: [rows, 1], shape: [rows, columns] };
    const { out } = await execute(
      gpu,
      { a, b, out: rows * columns },
      (s) => {
        binary(gpu, 'maximum', { ...s, ...shapes });
      },
      ['out'],
    );
    expect(out.every((v, i) => v === Math.max(a[i]!, b[Math.floor(i / columns)]!))).toBe(true);
  });

  test('more than four alternating axes are refused', () => {
    const [aShape, bShape] = [
      [2, 1, 2, 1, 2],
      [1, 2, 1, 2, 1],
    ];
    const one = gpu.alloc(4, 'unused');
    expect(() => {
      binary(gpu, 'add', { a: one, b: one, out: one, aShape, bShape, shape: [2, 2, 2, 2, 2] });
    }).toThrow('broadcast of [2, 1, 2, 1, 2] and [1, 2, 1, 2, 1] alternates over 5 axes');
    gpu.release(one);
  });
});

describe('fill, total, imagesToFloat', () => {
  test('fill writes one value', async () => {
    for (const n of sizes) {
      const { out } = await execute(
        gpu,
        { out: n },
        (s) => {
          fill(gpu, { ...s, n, value: -2.5 });
        },
        ['out'],
      );
      expect(out).toEqual(new Float32Array(n).fill(-2.5));
    }
  });

  test.each([2, 3, 4, 5, 9])('total adds %i terms in their order', async (count) => {
    for (const n of sizes) {
      const terms = Array.from({ length: count }, (_t, i) => randomData(n, i));
      const { out } = await execute(
        gpu,
        { ...Object.fromEntries(terms.map((t, i) => [`t${i}`, t])), out: n },
        ({ out: to, ...s }) => {
          total(gpu, { terms: Object.values(s), out: to, n });
        },
        ['out'],
      );
      const sum = terms[0]!.map((_v, i) =>
        terms.reduce((s, t) => Math.fround(s + Math.fround(t[i]!)), 0),
      );
      expect(out).toEqual(Float32Array.from(sum));
    }
  });

  test('bytes become numbers from −1 to 1', async () => {
    for (const n of [...sizes, 256]) {
      const bytes = Uint8Array.from({ length: n }, (_, i) => (i * 37 + 255) % 256);
      const { out } = await execute(
        gpu,
        { bytes, out: n },
        (s) => {
          imagesToFloat(gpu, { ...s, n });
        },
        ['out'],
      );
      const reference = Float64Array.from(bytes, (v) => (v * 2) / 255 - 1);
      expectClose(out, reference, { abs: 3 * 2 ** -24 }, `${n} bytes`);
      expect(out[0]).toBeCloseTo(1, 6);
    }
  });
});

test('no kernel writes outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
