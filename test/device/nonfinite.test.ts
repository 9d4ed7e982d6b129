// NaN and infinities: what PyTorch hands on is handed on here, by kernels and by gradients, and never turned into a number.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { binary, unary } from '../../src/kernels/pointwise.ts';
import type { UnaryOp } from '../../src/kernels/pointwise.ts';
import { reduce } from '../../src/kernels/reduce.ts';
import { maxPool2d as maxPoolKernel } from '../../src/kernels/resample.ts';
import { softmaxForwardLadder } from '../../src/kernels/softmax.ts';
import { attentionBackwardLadder, attentionForwardLadder } from '../../src/kernels/attention.ts';
import * as p from '../../src/ops/pointwise.ts';
import { amax, sum } from '../../src/ops/reduce.ts';
import { maxPool2d } from '../../src/ops/resample.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { broadcastShape, sizeOf } from '../../src/util/shape.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, wordsOf } from '../support/execute.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

/** NaN as a quotient 0/0 gives it on some machines, and as it does on others: the sign differs. */
const nans = [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff];

/** `values` with NaN words put in at some places. */
function withNaN(values: ArrayLike<number>, places: readonly number[], word: number): Uint32Array {
  const words = wordsOf(Float32Array.from(values)).slice();
  for (const at of places) words[at] = word;
  return words;
}

const leaf = (values: readonly number[], shape: readonly number[] = [values.length]) =>
  tensor(tape, values, shape, { label: 'x', requiresGrad: true });
const read = async (t: Tensor) => [...(await t.read())];

describe('elementwise', () => {
  const ops: readonly UnaryOp[] = [
    ...(['neg', 'abs', 'square', 'sqrt', 'rsqrt', 'reciprocal', 'exp', 'log', 'relu'] as const),
    ...(['leakyRelu', 'tanh', 'sigmoid', 'softplus', 'affine', 'copy', 'clamp'] as const),
  ];
  test.each(ops)('%s of NaN is NaN, and of nothing else', async (op) => {
    for (const word of nans) {
      const x = withNaN([0.25, 1, 2, 0.5, 3, 1.5, 0.75], [1, 3, 6], word);
      const { out } = await execute(
        gpu,
        { x, out: 7 },
        (s) => {
          unary(gpu, op, { ...s, n: 7, a: 0.1, b: 0.6 });
        },
        ['out'],
      );
      expect([...out].map(Number.isNaN)).toEqual([false, true, false, true, false, false, true]);
    }
  });

  test('relu and clamp keep infinities to their bounds', async () => {
    const x = Float32Array.of(-Infinity, Infinity, -1, -0, 0, 5, 3e-42, -3.4e38);
    const [relu, clamp] = [new Float32Array(8), new Float32Array(8)];
    for (const [op, to] of [
      ['relu', relu],
      ['clamp', clamp],
    ] as const) {
      const run = await execute(
        gpu,
        { x, out: 8 },
        (s) => {
          unary(gpu, op, { ...s, n: 8, a: -2, b: 4 });
        },
        ['out'],
      );
      to.set(run.out);
    }
    expect([...relu.subarray(0, 6)].map((v) => v + 0)).toEqual([0, Infinity, 0, 0, 0, 5]);
    // a driver may take a number too small for its exponent for 0
    expect([0, Math.fround(3e-42)]).toContain(relu[6]);
    expect(relu[7]).toBe(0);
    expect([...clamp.subarray(0, 6)].map((v) => v + 0)).toEqual([-2, 4, -1, 0, 0, 4]);
    expect(clamp[7]).toBe(-2);
  });

  const shapes: readonly (readonly [readonly number[], readonly number[]])[] = [
    [[7], [7]],
    [[7], [1]],
    [
      [3, 8],
      [1, 8],
    ],
    [
      [3, 8],
      [3, 1],
    ],
    [
      [3, 5],
      [1, 5],
    ],
    [
      [2, 130],
      [2, 1],
    ],
  ];
  test.each(['maximum', 'minimum'] as const)('%s with NaN on a side is NaN', async (op) => {
    for (const [left, right] of shapes) {
      const shape = broadcastShape(left, right);
      const n = sizeOf(shape);
      for (const [aShape, bShape] of [
        [left, right],
        [right, left],
      ] as const) {
        for (const word of nans) {
          for (const side of ['a', 'b', 'both'] as const) {
            const [aCount, bCount] = [sizeOf(aShape), sizeOf(bShape)];
            const a = withNaN(randomFloats(aCount, 1), side === 'b' ? [] : [0], word);
            const b = withNaN(randomFloats(bCount, 2), side === 'a' ? [] : [bCount - 1], word);
            const { a: aBack, out } = await execute(
              gpu,
              { a, b, out: n },
              (s) => {
                binary(gpu, op, { ...s, aShape, bShape, shape });
              },
              ['a', 'out'],
            );
            expect(Number.isNaN(aBack[0])).toBe(side !== 'b');
            const spread = async (x: Uint32Array, xShape: readonly number[]) => {
              const { out: wide } = await execute(
                gpu,
                { x, zero: Float32Array.of(0), out: n },
                (s) => {
                  const shapesOf = { aShape: xShape, bShape: shape.map(() => 1), shape };
                  const zeros = { a: s.x, b: s.zero, out: s.out };
                  if (sizeOf(xShape) === n) unary(gpu, 'copy', { x: s.x, out: s.out, n });
                  else binary(gpu, 'add', { ...zeros, ...shapesOf });
                },
                ['out'],
              );
              return wide;
            };
            const [wideA, wideB] = [await spread(a, aShape), await spread(b, bShape)];
            const pick = op === 'maximum' ? Math.max : Math.min;
            const expected = wideA.map((v, i) => pick(v, wideB[i]!));
            expect(out, `${op} [${aShape.join()}] [${bShape.join()}] ${side}`).toEqual(expected);
          }
        }
      }
    }
  });

  test('maximum and minimum of infinities', async () => {
    const a = tensor(tape, [Infinity, -Infinity, -Infinity, 1], [4]);
    const b = tensor(tape, [1, 1, -Infinity, -Infinity], [4]);
    expect(await read(p.maximum(a, b))).toEqual([Infinity, 1, -Infinity, 1]);
    expect(await read(p.minimum(a, b))).toEqual([1, -Infinity, -Infinity, -Infinity]);
  });
});

describe('largest of many', () => {
  const cases = [
    { shape: [7], axes: [0] },
    { shape: [3, 5], axes: [1] },
    { shape: [3, 8], axes: [1] },
    { shape: [6, 8], axes: [0] },
    { shape: [4, 3, 4, 4], axes: [0, 2, 3] },
    { shape: [4, 3, 3, 5], axes: [0, 2, 3] },
    { shape: [2, 2, 2, 2, 2, 2], axes: [0, 2, 4] },
    { shape: [4099], axes: [0] },
    { shape: [2048, 4], axes: [0] },
  ];
  const run = async (x: Uint32Array | Float32Array, c: (typeof cases)[number], rung: string) => {
    const size = c.shape.reduce((n, d, i) => (c.axes.includes(i) ? n : n * d), 1);
    const { out } = await execute(
      gpu,
      { x, out: size },
      (s) => {
        reduce(gpu, 'max', { ...s, ...c, rung: rung === 'tree' ? 'tree' : 'thread' });
      },
      ['out'],
    );
    return out;
  };

  for (const rung of ['thread', 'tree']) {
    test.each(cases)(`the ${rung} rung hands on one NaN of $shape over $axes`, async (c) => {
      const n = sizeOf(c.shape);
      const plain = randomFloats(n, 3);
      const whole = await run(plain, c, rung);
      for (const word of nans) {
        for (const place of new Set([0, 1, 2, Math.floor(n / 2), n - 1])) {
          const out = await run(withNaN(plain, [place], word), c, rung);
          expect(out.filter(Number.isNaN).length, `NaN at ${place}`).toBe(1);
          const others = [...out].filter((v) => !Number.isNaN(v));
          const kept = [...whole].filter((_v, i) => !Number.isNaN(out[i]));
          expect(others).toEqual(kept);
        }
      }
    });

    test.each(cases)(`the ${rung} rung takes −∞ of $shape over $axes`, async (c) => {
      const n = sizeOf(c.shape);
      const none = new Float32Array(n).fill(-Infinity);
      expect([...new Set(await run(none, c, rung))]).toEqual([-Infinity]);
      const one = none.slice();
      one[n - 1] = -3.4028234e38;
      const out = await run(one, c, rung);
      expect(out.at(-1)).toBe(one[n - 1]);
      expect([...new Set(out.subarray(0, -1))]).toEqual(out.length > 1 ? [-Infinity] : []);
    });
  }

  test('amax of −∞ everywhere is −∞, and its gradient is shared evenly', async () => {
    const x = leaf([-Infinity, -Infinity, 1, -Infinity], [2, 2]);
    const y = amax(x, [1]);
    expect(await read(y)).toEqual([-Infinity, 1]);
    expect(await read(grad([sum(y)], [x])[0]!)).toEqual([0.5, 0.5, 1, 0]);
    expect(await read(amax(leaf([1, NaN, 0])))).toEqual([NaN]);
  });

  test('max pooling hands on NaN, and its place', async () => {
    const sizes = { N: 1, H: 2, W: 6, OH: 1, OW: 3, kernel: 2, stride: 2, padding: 0 };
    for (const word of nans) {
      const x = withNaN([1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2], [0, 9], word);
      const { out, index } = await execute(
        gpu,
        { x, out: 3, index: 3 },
        (s) => {
          maxPoolKernel(gpu, { ...s, ...sizes });
        },
        ['out', 'index'],
      );
      expect([...out]).toEqual([NaN, NaN, 6]);
      expect([...wordsOf(index)]).toEqual([0, 9, 5]);
    }
    const x = leaf([-Infinity, -Infinity, -Infinity, -Infinity], [1, 1, 2, 2]);
    expect(await read(maxPool2d(x, 2))).toEqual([-Infinity]);
    expect(await read(maxPool2d(leaf([1, NaN, 2, 3], [1, 1, 2, 2]), 2))).toEqual([NaN]);
  });
});

describe('softmax', () => {
  const fitting = softmaxForwardLadder.rungs.filter((r) => r.fits(gpu, { rows: 1, cols: 4 }));
  for (const forward of fitting) {
    const rows = async (x: readonly number[], cols: number) => {
      const dims = { rows: x.length / cols, cols };
      expect(forward.fits(gpu, dims)).toBe(true);
      const { out } = await execute(
        gpu,
        { x: Float32Array.from(x), out: x.length },
        (tensors) => {
          forward.run(gpu, { ...tensors, ...dims });
        },
        ['out'],
      );
      return [...out];
    };

    test(`${forward.name} takes logits down to the lowest number`, async () => {
      const low = -3.4028234e38;
      const found = await rows([-2e38, -2e38, -2e38, -2e38, low, low, low, 3e38], 4);
      expect(found).toEqual([0.25, 0.25, 0.25, 0.25, 0, 0, 0, 1]);
    });

    test(`${forward.name} gives −∞ no weight, wherever it stands`, async () => {
      const no = -Infinity;
      expect(await rows([no, no, no, 1, 2, no, no, 2], 4)).toEqual([0, 0, 0, 1, 0.5, 0, 0, 0.5]);
      const long = new Array<number>(260).fill(no);
      long[259] = -1e38;
      expect(await rows(long, 260)).toEqual(long.map((v) => (v === no ? 0 : 1)));
    });

    test(`${forward.name} makes a row with NaN NaN, and no other row`, async () => {
      const found = await rows([1, 1, 1, 1, 1, NaN, 1, 1, 0, 0, 0, 0], 4);
      expect(found.map(Number.isNaN)).toEqual(
        [4, 5, 6, 7].reduce((all, i) => all.with(i, true), new Array<boolean>(12).fill(false)),
      );
    });
  }

  test('the op and its composition take logits of −2·10³⁸', async () => {
    const x = leaf([-2e38, -2e38], [1, 2]);
    expect(await read(softmax(x))).toEqual([0.5, 0.5]);
    const [d] = grad([sum(p.square(softmax(x)))], [x], { createGraph: true });
    expect(await read(d!)).toEqual([0, 0]);
  });
});

describe('attention', () => {
  // One dim: a score is the key itself. Three rows of queries would be three equal rows: two, to see one stay whole.
  const dims = { B: 1, Nq: 2, Nk: 5, DK: 1, DV: 1, scale: 1, layout: 'channel' } as const;
  const v = Float32Array.of(1, 2, 4, 8, 16);
  const low = -3.4028234e38;
  const forwards = attentionForwardLadder.rungs.filter((r) => r.fits(gpu, dims));
  const backwards = attentionBackwardLadder.rungs.filter((r) => r.fits(gpu, dims));
  const attend = async (rung: (typeof forwards)[number], q: number[], k: number[]) => {
    const { out, lse } = await execute(
      gpu,
      { q: Float32Array.from(q), k: Float32Array.from(k), v, out: 2, lse: 2 },
      (s) => {
        rung.run(gpu, { ...s, ...dims });
      },
      ['out', 'lse'],
    );
    return { out: [...out], lse: [...lse] };
  };

  test.each(forwards.map((rung) => [rung.name, rung] as const))(
    '%s forward',
    async (_name, rung) => {
      const no = -Infinity;
      // Scores far below every start of a maximum that is not the lowest number.
      expect((await attend(rung, [1, 1], [-2e38, low, -2e38, low, low])).out).toEqual([2.5, 2.5]);
      // −∞ gives no weight, wherever it stands; where nothing else is, there is nothing to average.
      const masked = await attend(rung, [1, 1], [no, 3, no, no, 3]);
      expect(masked.out).toEqual([9, 9]);
      expect((await attend(rung, [1, 1], [no, no, no, no, no])).out).toEqual([NaN, NaN]);
      // NaN of a query stays with it; NaN of a key reaches every query.
      const spoilt = await attend(rung, [NaN, 0], [1, 1, 1, 1, 1]);
      expect(spoilt.out.map(Number.isNaN)).toEqual([true, false]);
      expect(spoilt.lse.map(Number.isNaN)).toEqual([true, false]);
      expect((await attend(rung, [1, 1], [1, 1, 1, 1, NaN])).out).toEqual([NaN, NaN]);
    },
  );

  test.each(backwards.map((rung) => [rung.name, rung] as const))(
    '%s for the gradients',
    async (_name, rung) => {
      // Weights ½ on the second and last key, none on those at −∞; delta = 9.
      const { dq, dv } = await execute(
        gpu,
        {
          q: Float32Array.of(1, NaN),
          k: Float32Array.of(-Infinity, 3, -Infinity, -Infinity, 3),
          v,
          out: Float32Array.of(9, NaN),
          lse: Float32Array.of(3 + Math.log(2), NaN),
          dOut: Float32Array.of(1, 0),
          dq: 2,
          dv: 5,
        },
        (s) => {
          rung.run(gpu, { ...s, ...dims });
        },
        ['dq', 'dv'],
      );
      // 0·−∞: the derivative of a masked score by its query is not a number; every key hears of the other query's NaN.
      expect([...dq].map(Number.isNaN)).toEqual([true, true]);
      expect([...dv].map(Number.isNaN)).toEqual([true, true, true, true, true]);
    },
  );
});

describe('gradients', () => {
  test('relu and leakyRelu stop an infinite gradient where they are flat', async () => {
    const x = leaf([-1, 0, 2, -3]);
    const upstream = tensor(tape, [Infinity, -Infinity, Infinity, NaN], [4]);
    const by = (y: Tensor) => grad([y], [x], { gradOutputs: [upstream] })[0]!;
    expect(await read(by(p.relu(x)))).toEqual([0, 0, Infinity, 0]);
    expect(await read(by(p.leakyRelu(x, 0)))).toEqual([0, 0, Infinity, 0]);
    expect(await read(by(p.leakyRelu(x, 0.5)))).toEqual([Infinity, -Infinity, Infinity, NaN]);
  });

  test('the second derivative of relu passes where x is positive, by the gradient alone', async () => {
    const x = leaf([-1, 0, 2]);
    const g = leaf([3, 4, 5]);
    const [dx] = grad([p.relu(x)], [x], { gradOutputs: [g], createGraph: true });
    expect(await read(dx!)).toEqual([0, 0, 5]);
    const upstream = tensor(tape, [Infinity, 7, 8], [3]);
    const second = grad([dx!], [g, x], { gradOutputs: [upstream], allowUnused: true });
    expect(await read(second[0]!)).toEqual([0, 0, 8]);
    expect(await read(second[1]!)).toEqual([0, 0, 0]);
  });

  test('maximum and minimum stop an infinite gradient on the side that loses', async () => {
    const [a, b] = [leaf([1, 2, 3]), leaf([2, 1, 3])];
    const upstream = tensor(tape, [Infinity, Infinity, 4], [3]);
    const by = async (y: Tensor) =>
      Promise.all(grad([y], [a, b], { gradOutputs: [upstream] }).map(read));
    expect(await by(p.maximum(a, b))).toEqual([
      [0, Infinity, 2],
      [Infinity, 0, 2],
    ]);
    expect(await by(p.minimum(a, b))).toEqual([
      [Infinity, 0, 2],
      [0, Infinity, 2],
    ]);
  });

  test('a quotient’s gradient neither overflows nor underflows where it is itself in range', async () => {
    const [a, b] = [leaf([1e30, 1e-30, 3]), leaf([1e30, 1e-30, 2])];
    const [da, db] = grad([sum(p.div(a, b))], [a, b]);
    const close = async (t: Tensor, wanted: readonly number[]) => {
      (await read(t)).forEach((v, i) => {
        expect(Math.abs(v / wanted[i]! - 1)).toBeLessThan(1e-5);
      });
    };
    await close(da!, [1e-30, 1e30, 0.5]);
    await close(db!, [-1e-30, -1e30, -0.75]);
  });
});

test('NaN and infinities: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
