// Matrix products and convolutions: against the float64 references, values, gradients, and replay against eager.
import { expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { ones } from '../../src/nn/init.ts';
import { Linear } from '../../src/nn/linear.ts';
import { conv2d, convTranspose2d } from '../../src/ops/conv.ts';
import { linear, matmul } from '../../src/ops/matmul.ts';
import { HostRng } from '../../src/util/philox.ts';
import {
  conv2d as conv2dRef,
  conv2dBackward,
  conv2dSize,
  convTranspose2d as convTransposeRef,
  convTranspose2dBackward,
  convTranspose2dSize,
} from '../reference/conv.ts';
import { matmul as matmulRef, matmulBackward } from '../reference/matmul.ts';
import { broadcastShape } from '../reference/shape.ts';
import { eachCase } from '../support/cases.ts';
import { openTestGpu } from '../support/device.ts';
import { count, type OpCase, randomInput } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

const each = eachCase(tape);

const products = [false, true].flatMap((transA) =>
  [false, true].flatMap((transB) =>
    (
      [
        { batchA: [], batchB: [], M: 5, K: 7, N: 3 },
        { batchA: [4], batchB: [4], M: 8, K: 4, N: 12 },
        { batchA: [16], batchB: [], M: 3, K: 5, N: 2 },
        { batchA: [], batchB: [2], M: 3, K: 5, N: 4 },
        { batchA: [2, 1], batchB: [1, 3], M: 4, K: 3, N: 5 },
        { batchA: [1], batchB: [2], M: 1, K: 1, N: 1 },
      ] as const
    ).map((o) => ({ ...o, transA, transB })),
  ),
);
each(
  'matmul',
  products.map((o): OpCase => {
    const { batchA, batchB, M, K, N, transA, transB } = o;
    const alpha = 0.5;
    // On f16 the gradients of an operand's repetitions are rounded before they are added up: each is a sum of M or N products.
    const batch = broadcastShape(batchA, batchB);
    const between = count(batch) * 2 ** -10 * alpha * Math.max(M, N);
    const mark = (t: boolean) => (t ? 'ᵀ' : '');
    const of = (d: Readonly<Record<string, Float64Array>>) => ({ ...o, a: d['a']!, b: d['b']! });
    return {
      name: `[${batchA.join()}] A${mark(transA)} ${M}×${K} · [${batchB.join()}] B${mark(transB)} ${K}×${N}`,
      inputs: {
        a: randomInput([...batchA, ...(transA ? [K, M] : [M, K])], 1),
        b: randomInput([...batchB, ...(transB ? [N, K] : [K, N])], 2),
      },
      halves: {
        between: batchA.join() === batchB.join() ? 0 : between,
        // One B for all rows of A is a single product, whose gradient is not a sum of many.
        weights: [
          ...(count(batchA) < count(batch) ? ['a'] : []),
          ...(count(batchB) < count(batch) && (transA || batchB.length > 0) ? ['b'] : []),
        ],
      },
      op: ({ a, b }) => matmul(a!, b!, { transA, transB, alpha }),
      // a half is exact: it commutes with every rounding
      forward: (d, r) => ({
        shape: [...batch, M, N],
        data: matmulRef(of(d), r).map((x) => alpha * x),
      }),
      backward: (d, dy, r) => {
        const { da, db } = matmulBackward(of(d), dy, r);
        return { a: da.map((x) => alpha * x), b: db.map((x) => alpha * x) };
      },
    };
  }),
);
each('linear', [
  {
    name: 'rows of any rank',
    inputs: { x: randomInput([4, 3, 5], 1), w: randomInput([7, 5], 2) },
    halves: {},
    op: ({ x, w }) => linear(x!, w!),
    forward: ({ x, w }, r) => ({
      shape: [4, 3, 7],
      data: matmulRef({ a: x!, b: w!, M: 12, K: 5, N: 7, transB: true }, r),
    }),
    backward: ({ x, w }, dy, r) => {
      const { da, db } = matmulBackward({ a: x!, b: w!, M: 12, K: 5, N: 7, transB: true }, dy, r);
      return { x: da, w: db };
    },
  },
  {
    name: 'one row',
    inputs: { x: randomInput([5], 1), w: randomInput([7, 5], 2) },
    halves: {},
    op: ({ x, w }) => linear(x!, w!),
    forward: ({ x, w }, r) => ({
      shape: [7],
      data: matmulRef({ a: x!, b: w!, M: 1, K: 5, N: 7, transB: true }, r),
    }),
    backward: ({ x, w }, dy, r) => {
      const { da, db } = matmulBackward({ a: x!, b: w!, M: 1, K: 5, N: 7, transB: true }, dy, r);
      return { x: da, w: db };
    },
  },
]);

test('the Linear module takes a single row, bias and all', async () => {
  const layer = new Linear(tape, 3, 2, { rng: new HostRng(1), init: ones });
  layer.bias!.set(Float32Array.of(10, 20));
  const y = layer.forward(tensor(tape, [1, 2, 3], [3]));
  expect(y.shape).toEqual([2]);
  expect([...(await y.read())]).toEqual([16, 26]);
});

const convolutions = [
  { N: 1, C: 1, H: 1, W: 1, K: 1, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
  { N: 2, C: 3, H: 5, W: 7, K: 5, R: 3, S: 3, stride: [1, 1], pad: [1, 1] },
  { N: 4, C: 3, H: 8, W: 8, K: 7, R: 4, S: 4, stride: [2, 2], pad: [1, 1] },
  { N: 16, C: 5, H: 4, W: 4, K: 3, R: 4, S: 4, stride: [1, 1], pad: [0, 0] },
  { N: 4, C: 16, H: 4, W: 4, K: 2, R: 1, S: 1, stride: [1, 1], pad: [0, 0] },
  // rows and columns that no window reaches
  { N: 2, C: 3, H: 8, W: 9, K: 2, R: 3, S: 2, stride: [3, 2], pad: [0, 1] },
] as const;
each(
  'conv2d',
  convolutions.flatMap((o) =>
    [false, true].map((biased): OpCase => {
      const { N, C, H, W, K, R, S, stride, pad } = o;
      const of = (d: Readonly<Record<string, Float64Array>>) => ({
        ...{ ...o, x: d['x']!, w: d['w']! },
        ...(biased ? { bias: d['b']! } : {}),
      });
      return {
        name: `N${N} ${C}→${K} ${H}×${W} window ${R}×${S} stride ${stride.join()} pad ${pad.join()}${biased ? ' bias' : ''}`,
        inputs: {
          x: randomInput([N, C, H, W], 1),
          w: randomInput([K, C, R, S], 2),
          ...(biased ? { b: randomInput([K], 3) } : {}),
        },
        halves: { inputs: ['x', 'w'], weights: ['w'] },
        op: ({ x, w, b }) => conv2d(x!, w!, { bias: b, stride, padding: pad }),
        forward: (d, r) => ({ shape: [N, K, ...conv2dSize(o)], data: conv2dRef(of(d), r) }),
        backward: (d, dy, r) => {
          const { dx, dw, dbias } = conv2dBackward(of(d), dy, r);
          return { x: dx, w: dw, ...(biased ? { b: dbias } : {}) };
        },
      };
    }),
  ),
);

const transposedConvolutions = [
  { N: 1, Cin: 1, H: 1, W: 1, Cout: 1, R: 1, S: 1, stride: [1, 1], pad: [0, 0], outputPad: [0, 0] },
  {
    N: 16,
    Cin: 7,
    H: 1,
    W: 1,
    Cout: 5,
    R: 4,
    S: 4,
    stride: [1, 1],
    pad: [0, 0],
    outputPad: [0, 0],
  },
  { N: 4, Cin: 5, H: 4, W: 4, Cout: 3, R: 4, S: 4, stride: [2, 2], pad: [1, 1], outputPad: [0, 0] },
  { N: 2, Cin: 3, H: 3, W: 2, Cout: 4, R: 3, S: 5, stride: [2, 3], pad: [1, 2], outputPad: [1, 2] },
  { N: 2, Cin: 2, H: 3, W: 3, Cout: 3, R: 2, S: 2, stride: [3, 3], pad: [0, 0], outputPad: [0, 0] },
] as const;
each(
  'convTranspose2d',
  transposedConvolutions.flatMap((o) =>
    [false, true].map((biased): OpCase => {
      const { N, Cin, H, W, Cout, R, S, stride, pad, outputPad } = o;
      const of = (d: Readonly<Record<string, Float64Array>>) => ({
        ...{ ...o, x: d['x']!, w: d['w']! },
        ...(biased ? { bias: d['b']! } : {}),
      });
      return {
        name: `N${N} ${Cin}→${Cout} ${H}×${W} window ${R}×${S} stride ${stride.join()} pad ${pad.join()} out ${outputPad.join()}${biased ? ' bias' : ''}`,
        inputs: {
          x: randomInput([N, Cin, H, W], 1),
          w: randomInput([Cin, Cout, R, S], 2),
          ...(biased ? { b: randomInput([Cout], 3) } : {}),
        },
        halves: { inputs: ['x', 'w'], weights: ['w'] },
        op: ({ x, w, b }) =>
          convTranspose2d(x!, w!, { bias: b, stride, padding: pad, outputPadding: outputPad }),
        forward: (d, r) => ({
          shape: [N, Cout, ...convTranspose2dSize(o)],
          data: convTransposeRef(of(d), r),
        }),
        backward: (d, dy, r) => {
          const { dx, dw, dbias } = convTranspose2dBackward(of(d), dy, r);
          return { x: dx, w: dw, ...(biased ? { b: dbias } : {}) };
        },
      };
    }),
  ),
);

test('matrix products and convolutions: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
