// Shapes that nobody chose: values, gradients and replay of the ops whose shape rules are intricate. WGSAGAN_TEST_SEED
// sets another seed than the one that every run has. Biases are left out: their gradient is a plain sum that may cancel.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { attention } from '../../src/ops/attention.ts';
import { conv2d, convTranspose2d } from '../../src/ops/conv.ts';
import { permute } from '../../src/ops/layout.ts';
import { matmul } from '../../src/ops/matmul.ts';
import { mul } from '../../src/ops/pointwise.ts';
import { mean } from '../../src/ops/reduce.ts';
import { softmax } from '../../src/ops/softmax.ts';
import {
  type Attention,
  attention as attentionRef,
  attentionBackward,
} from '../reference/attention.ts';
import {
  conv2d as conv2dRef,
  conv2dBackward,
  conv2dSize,
  convTranspose2d as convTransposeRef,
  convTranspose2dBackward,
  convTranspose2dSize,
} from '../reference/conv.ts';
import { matmul as matmulRef, matmulBackward } from '../reference/matmul.ts';
import { softmaxAllowance } from '../reference/naive.ts';
import { binary, binaryBackward } from '../reference/pointwise.ts';
import { reduce, reduceBackward, reducedShape } from '../reference/reduce.ts';
import { broadcastShape, permute as permuteRef, permuteBackward } from '../reference/shape.ts';
import { softmax as softmaxRef, softmaxBackward } from '../reference/softmax.ts';
import { openTestGpu } from '../support/device.ts';
import { checkOp, type Named, type OpCase, randomInput } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const seed = Number(process.env['WGSAGAN_TEST_SEED'] ?? 20261121);

/** Checks `runs` random cases; a failure is shrunk to the smallest shape that shows it. */
function holds<T>(name: string, shapes: fc.Arbitrary<T>, make: (shape: T) => Omit<OpCase, 'name'>) {
  test(`${name} of any shapes`, async () => {
    const property = fc.asyncProperty(shapes, async (shape) => {
      await checkOp(tape, { ...make(shape), name: `${name} ${JSON.stringify(shape)}` });
    });
    await fc.assert(property, { seed, numRuns: 30 });
  });
}

const upTo = (max: number) => fc.integer({ min: 1, max });
const shape = (most: number) => fc.array(upTo(5), { minLength: 1, maxLength: most });

/** Two shapes that broadcast: axes of the whole dropped or set to 1 on either side. */
const broadcastable = shape(4).chain((whole) => {
  const side = fc
    .tuple(fc.nat(whole.length - 1), fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }))
    .map(([drop, ones]) => whole.map((d, i) => (ones[i] === true ? 1 : d)).slice(drop));
  return fc.record({ shapeA: side, shapeB: side });
});
holds('mul', broadcastable, (o) => {
  const of = (d: Named) => ({ ...o, a: d['a']!, b: d['b']! });
  return {
    inputs: { a: randomInput(o.shapeA, 1), b: randomInput(o.shapeB, 2) },
    op: ({ a, b }) => mul(a!, b!),
    forward: (d, r) => ({
      shape: broadcastShape(o.shapeA, o.shapeB),
      data: binary('mul', of(d), r),
    }),
    backward: (d, dy, r) => {
      const { da, db } = binaryBackward('mul', of(d), dy, r);
      return { a: da, b: db };
    },
  };
});

const withAxes = shape(5).chain((of) =>
  fc.record({
    shape: fc.constant(of),
    axes: fc.uniqueArray(fc.nat(of.length - 1), { minLength: 1, maxLength: of.length }),
  }),
);
holds('mean', withAxes, (o) => ({
  inputs: { x: randomInput(o.shape, 1) },
  op: ({ x }) => mean(x!, o.axes, { keepdim: true }),
  forward: ({ x }, r) => ({
    shape: reducedShape(o.shape, o.axes),
    data: reduce('mean', { ...o, x: x! }, r),
  }),
  backward: ({ x }, dy, r) => ({ x: reduceBackward('mean', { ...o, x: x! }, dy, r).dx }),
}));

const ordered = shape(5).chain((of) =>
  fc.record({
    shape: fc.constant(of),
    order: fc.shuffledSubarray([...of.keys()], { minLength: of.length }),
  }),
);
holds('permute', ordered, (o) => ({
  inputs: { x: randomInput(o.shape, 1) },
  op: ({ x }) => permute(x!, o.order),
  forward: ({ x }, r) => ({
    shape: o.order.map((axis) => o.shape[axis]!),
    data: permuteRef({ ...o, x: x! }, r),
  }),
  backward: ({ x }, dy, r) => ({ x: permuteBackward({ ...o, x: x! }, dy, r).dx }),
}));

const products = fc.record({
  ...{ M: upTo(20), K: upTo(20), N: upTo(20), transA: fc.boolean(), transB: fc.boolean() },
  batch: fc.constantFrom(
    ...[
      { batchA: [], batchB: [] },
      { batchA: [3], batchB: [] },
      { batchA: [], batchB: [2] },
    ],
    ...[
      { batchA: [2, 1], batchB: [3] },
      { batchA: [2], batchB: [2] },
    ],
  ),
});
holds('matmul', products, ({ batch, ...o }) => {
  const { batchA, batchB, M, K, N, transA, transB } = { ...o, ...batch };
  const of = (d: Named) => ({ ...o, ...batch, a: d['a']!, b: d['b']! });
  return {
    inputs: {
      a: randomInput([...batchA, ...(transA ? [K, M] : [M, K])], 1),
      b: randomInput([...batchB, ...(transB ? [N, K] : [K, N])], 2),
    },
    op: ({ a, b }) => matmul(a!, b!, { transA, transB }),
    forward: (d, r) => ({
      shape: [...broadcastShape(batchA, batchB), M, N],
      data: matmulRef(of(d), r),
    }),
    backward: (d, dy, r) => {
      const { da, db } = matmulBackward(of(d), dy, r);
      return { a: da, b: db };
    },
  };
});

const pair = (of: fc.Arbitrary<number>) => fc.tuple(of, of);
const window = {
  N: upTo(3),
  H: upTo(7),
  W: upTo(7),
  R: upTo(4),
  S: upTo(4),
  stride: pair(upTo(3)),
};
const convolutions = fc
  .record({ ...window, C: upTo(5), K: upTo(5), pad: pair(fc.nat(2)) })
  .filter(({ H, W, R, S, pad }) => H + 2 * pad[0] >= R && W + 2 * pad[1] >= S);
holds('conv2d', convolutions, (o) => {
  const { N, C, H, W, K, R, S, stride, pad } = o;
  const of = (d: Named) => ({ ...o, x: d['x']!, w: d['w']! });
  return {
    inputs: {
      x: randomInput([N, C, H, W], 1),
      w: randomInput([K, C, R, S], 2),
    },
    op: ({ x, w }) => conv2d(x!, w!, { stride, padding: pad }),
    forward: (d, r) => ({ shape: [N, K, ...conv2dSize(o)], data: conv2dRef(of(d), r) }),
    backward: (d, dy, r) => {
      const { dx, dw } = conv2dBackward(of(d), dy, r);
      return { x: dx, w: dw };
    },
  };
});

const transposed = fc
  .record({ ...window, Cin: upTo(5), Cout: upTo(5), pad: pair(fc.nat(2)), extra: pair(fc.nat(2)) })
  .map(({ extra, ...o }) => ({
    ...o,
    outputPad: [extra[0] % o.stride[0], extra[1] % o.stride[1]] as [number, number],
  }))
  .filter((o) => convTranspose2dSize(o).every((size) => size >= 1));
holds('convTranspose2d', transposed, (o) => {
  const { N, Cin, H, W, Cout, R, S, stride, pad, outputPad } = o;
  const of = (d: Named) => ({ ...o, x: d['x']!, w: d['w']! });
  return {
    inputs: {
      x: randomInput([N, Cin, H, W], 1),
      w: randomInput([Cin, Cout, R, S], 2),
    },
    op: ({ x, w }) => convTranspose2d(x!, w!, { stride, padding: pad, outputPadding: outputPad }),
    forward: (d, r) => ({
      shape: [N, Cout, ...convTranspose2dSize(o)],
      data: convTransposeRef(of(d), r),
    }),
    backward: (d, dy, r) => {
      const { dx, dw } = convTranspose2dBackward(of(d), dy, r);
      return { x: dx, w: dw };
    },
  };
});

holds('softmax', fc.record({ rows: shape(3), cols: upTo(150) }), ({ rows, cols }) => {
  const of = (x: Float64Array) => ({ x, rows: x.length / cols, cols });
  return {
    inputs: { x: randomInput([...rows, cols], 1, -10, 10) },
    op: ({ x }) => softmax(x!),
    forward: ({ x }, r) => ({ shape: [...rows, cols], data: softmaxRef(of(x!), r) }),
    backward: ({ x }, dy, r) => ({ x: softmaxBackward(of(x!), dy, r).dx }),
    // as in ops-attention.test.ts
    allowance: 3 * softmaxAllowance(cols),
  };
});

// Widths of one tile, so that the cases share their programs: attention.test.ts takes wider ones.
const attentions = fc.record({
  ...{ B: upTo(3), Nq: upTo(40), Nk: upTo(40), DK: upTo(8), DV: upTo(8) },
  channelMajor: fc.boolean(),
});
holds('attention', attentions, (o) => {
  const { B, Nq, Nk, DK, DV, channelMajor } = o;
  const scale = 0.5;
  const shapeOf = (n: number, d: number) => (channelMajor ? [B, d, n] : [B, n, d]);
  const of = (d: Named): Attention => ({ ...o, q: d['q']!, k: d['k']!, v: d['v']!, scale });
  return {
    inputs: {
      q: randomInput(shapeOf(Nq, DK), 1, -2, 2),
      k: randomInput(shapeOf(Nk, DK), 2, -2, 2),
      v: randomInput(shapeOf(Nk, DV), 3),
    },
    op: ({ q, k, v }) =>
      attention(q!, k!, v!, { layout: channelMajor ? 'channel' : 'sequence', scale }),
    forward: (d, r) => ({ shape: shapeOf(Nq, DV), data: attentionRef(of(d), r).o }),
    backward: (d, dy, r) => {
      const { dq, dk, dv } = attentionBackward(of(d), dy, r);
      return { q: dq, k: dk, v: dv };
    },
    // as in ops-attention.test.ts
    allowance: 2 * Math.sqrt(Nq * DV) * softmaxAllowance(Nk),
  };
});

test('random shapes: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
