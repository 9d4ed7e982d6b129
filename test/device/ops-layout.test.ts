// Ops that move, pick and look up: layout, embedding, bytes: against the float64 references, values, gradients, and replay against eager.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import { copyInto } from '../../src/ops/copy.ts';
import { embedding } from '../../src/ops/embedding.ts';
import { imagesToFloat } from '../../src/ops/images.ts';
import { concat, expand, permute, reshape, slice, transpose } from '../../src/ops/layout.ts';
import { add, maximum } from '../../src/ops/pointwise.ts';
import { sum, sumTo } from '../../src/ops/reduce.ts';
import { softmax } from '../../src/ops/softmax.ts';
import { embedding as embeddingRef, embeddingBackward } from '../reference/embedding.ts';
import { binary, binaryBackward } from '../reference/pointwise.ts';
import {
  concat as concatRef,
  concatBackward,
  concatShape,
  permute as permuteRef,
  permuteBackward,
  slice as sliceRef,
  sliceBackward,
} from '../reference/shape.ts';
import { eachCase } from '../support/cases.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { storedAsHalf } from '../support/half.ts';
import { count, type OpCase, randomInput } from '../support/ops.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const each = eachCase(tape);

each('layout', [
  ...(
    [
      [
        [2, 3, 4],
        [0, 2, 1],
      ],
      [
        [16, 3, 5, 2],
        [1, 3, 0, 2],
      ],
      [[5], [0]],
      [
        [7, 11],
        [1, 0],
      ],
    ] as const
  ).map(([shape, order]): OpCase => ({
    name: `permute [${shape.join(', ')}] by ${order.join(', ')}`,
    inputs: { x: randomInput(shape, 1) },
    halves: {},
    op: ({ x }) => permute(x!, order),
    forward: ({ x }, r) => ({
      shape: order.map((axis) => shape[axis]!),
      data: permuteRef({ x: x!, shape, order }, r),
    }),
    backward: ({ x }, dy, r) => ({ x: permuteBackward({ x: x!, shape, order }, dy, r).dx }),
  })),
  {
    name: 'transpose of the last two axes',
    inputs: { x: randomInput([2, 3, 5], 1) },
    halves: {},
    op: ({ x }) => transpose(x!, -1, -2),
    forward: ({ x }, r) => ({
      shape: [2, 5, 3],
      data: permuteRef({ x: x!, shape: [2, 3, 5], order: [0, 2, 1] }, r),
    }),
    backward: ({ x }, dy, r) => ({
      x: permuteBackward({ x: x!, shape: [2, 3, 5], order: [0, 2, 1] }, dy, r).dx,
    }),
  },
  ...(
    [
      [1, 1, 3],
      [0, 0, 1],
      [2, 4, 1],
    ] as const
  ).map(([axis, start, length]): OpCase => {
    const shape = [4, 5, 7];
    const o = {
      shape,
      start: shape.map((_d, i) => (i === axis ? start : 0)),
      end: shape.map((d, i) => (i === axis ? start + length : d)),
    };
    return {
      name: `slice axis ${axis} from ${start}, ${length} long`,
      inputs: { x: randomInput(shape, 1) },
      halves: {},
      op: ({ x }) => slice(x!, axis - (axis === 2 ? 3 : 0), start, length),
      forward: ({ x }, r) => ({
        shape: shape.map((d, i) => (i === axis ? length : d)),
        data: sliceRef({ x: x!, ...o }, r),
      }),
      backward: ({ x }, dy, r) => ({ x: sliceBackward({ x: x!, ...o }, dy, r).dx }),
    };
  }),
  ...([0, 1, -1] as const).map((axis): OpCase => {
    const at = axis < 0 ? 2 : axis;
    const shapes = [2, 1, 5].map((d) => [2, 3, 4].map((size, i) => (i === at ? d : size)));
    const of = (d: Readonly<Record<string, Float64Array>>) => ({
      xs: [d['a']!, d['b']!, d['c']!],
      shapes,
      axis: at,
    });
    return {
      name: `concat along ${axis}`,
      inputs: Object.fromEntries(shapes.map((s, i) => ['abc'[i]!, randomInput(s, i)])),
      halves: {},
      op: ({ a, b, c }) => concat([a!, b!, c!], axis),
      forward: (d, r) => ({ shape: concatShape(shapes, at), data: concatRef(of(d), r) }),
      backward: (d, dy, r) => {
        const [a, b, c] = concatBackward(of(d), dy, r).dxs;
        return { a: a!, b: b!, c: c! };
      },
    };
  }),
  ...(
    [
      [
        [3, 1, 5],
        [3, 4, 5],
      ],
      [[5], [16, 5]],
      [[1], [2, 3]],
    ] as const
  ).map(([from, shape]): OpCase => {
    const zero = (x: Float64Array) => ({
      ...{ a: x, shapeA: from },
      ...{ b: new Float64Array(count(shape)), shapeB: shape },
    });
    return {
      name: `expand [${from.join(', ')}] to [${shape.join(', ')}]`,
      inputs: { x: randomInput(from, 1) },
      halves: { weights: ['x'] },
      op: ({ x }) => expand(x!, shape),
      forward: ({ x }, r) => ({ shape, data: binary('add', zero(x!), r) }),
      backward: ({ x }, dy, r) => ({ x: binaryBackward('add', zero(x!), dy, r).da }),
    };
  }),
  {
    name: 'reshape with one size left open',
    inputs: { x: randomInput([2, 3, 4], 1) },
    halves: {},
    op: ({ x }) => reshape(x!, [4, -1]),
    forward: ({ x }) => ({ shape: [4, 6], data: x! }),
    backward: (_d, dy) => ({ x: dy }),
  },
]);

test('a reshape is a view: no launch, the same buffer', () => {
  const x = tensor(tape, [1, 2, 3, 4, 5, 6], [2, 3]);
  const capture = gpu.capture(() => {
    expect(reshape(x, [3, 2]).storage).toBe(x.storage);
    return [];
  });
  expect(capture.dispatches).toEqual([]);
  expect(reshape(x, [2, 3])).toBe(x);
});

test('sumTo undoes a broadcast, added axes and stretched ones', async () => {
  const x = tensor(tape, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [2, 3, 2]);
  expect([...(await sumTo(x, [3, 1]).read())]).toEqual([18, 26, 34]);
  expect(sumTo(x, [2, 3, 2])).toBe(x);
});

each(
  'embedding',
  (
    [
      { V: 7, D: 5, index: [3, 0, 3, 6, 3, 0] },
      { V: 1, D: 1, index: [0] },
      { V: 5, D: 3, index: new Array<number>(37).fill(4) },
    ] as const
  ).map(({ V, D, index }): OpCase => {
    const rows = tensor(tape, Uint32Array.from(index), [index.length]);
    const of = (table: Float64Array) => ({ table, V, D, index });
    return {
      name: `${index.length} rows of ${D} from a table of ${V}`,
      inputs: { table: randomInput([V, D], 1) },
      op: ({ table }) => embedding(rows, table!),
      forward: ({ table }, r) => ({ shape: [index.length, D], data: embeddingRef(of(table!), r) }),
      backward: ({ table }, dy, r) => ({ table: embeddingBackward(of(table!), dy, r).dtable }),
    };
  }),
);

test('bytes become floats between −1 and 1', async () => {
  const bytes = Uint8Array.of(0, 255, 51, 204, 128, 1);
  const words = new Uint32Array(2);
  new Uint8Array(words.buffer).set(bytes);
  const y = imagesToFloat(tensor(tape, words, [2]), [1, 2, 3]);
  expect(y.shape).toEqual([1, 2, 3]);
  // 2/255 and the product are rounded, each by half an ulp of up to 2, then the difference
  (await y.read()).forEach((v, i) => {
    expect(Math.abs(v - ((bytes[i]! * 2) / 255 - 1))).toBeLessThan(2 ** -22);
  });
});

describe.skipIf(!gpu.features.has('shader-f16'))('tensors of f16', () => {
  test('bytes become halves', async () => {
    const words = tensor(tape, Uint32Array.of(0x80_33_ff_00, 1), [2]);
    const y = imagesToFloat(words, [5], 'f16');
    expect(y.dtype).toBe('f16');
    const reference = [0, 255, 51, 128, 1].map((byte) => (2 * byte) / 255 - 1);
    expectClose(await y.read(), reference, storedAsHalf({ abs: 2 ** -22 }), 'bytes');
  });

  test('copyInto overwrites one by another, and by no f32', async () => {
    const f16 = { dtype: 'f16' } as const;
    const to = tensor(tape, [1, 2, 3], [3], f16);
    copyInto(to, tensor(tape, [0.5, -65504, 2 ** -24], [3], f16));
    expect([...(await to.read())]).toEqual([0.5, -65504, 2 ** -24]);
    expect(() => {
      copyInto(to, tensor(tape, [1, 2, 3], [3]));
    }).toThrow('copyInto: target is f16 and source f32; both must be f32, or both f16');
  });

  test('a number beside a tensor is of its type, and two tensors must agree', async () => {
    const x = tensor(tape, [-1, 0.25, 3], [3], { dtype: 'f16', label: 'x' });
    const y = maximum(x, 0.5);
    expect(y.dtype).toBe('f16');
    expect([...(await y.read())]).toEqual([0.5, 0.5, 3]);
    expect(() => add(x, tensor(tape, [1, 2, 3], [3], { label: 'y' }))).toThrow(
      'add: input 1 (y) is f32 [3]; it must be f16 as input 0 (x) is: convert one by to()',
    );
  });
});

describe('words that are no floats', () => {
  // 0xffc00001 and 0x00000001 would be NaN and a denormal: nothing may take them for numbers
  const data = Uint32Array.of(1, 0xffc0_0001, 3, 0x7f80_0001, 5, 0xffff_ffff);
  const words = tensor(tape, data, [2, 3], { label: 'labels' });
  const at = (...places: number[]) => Uint32Array.from(places, (i) => data[i]!);
  const moved = {
    reshape: [() => reshape(words, [3, 2]), at(0, 1, 2, 3, 4, 5)],
    permute: [() => permute(words, [1, 0]), at(0, 3, 1, 4, 2, 5)],
    transpose: [() => transpose(words, 0, 1), at(0, 3, 1, 4, 2, 5)],
    slice: [() => slice(words, 1, 1, 2), at(1, 2, 4, 5)],
    concat: [() => concat([words, words], 0), at(0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5)],
    expand: [() => expand(slice(words, 0, 1, 1), [3, 3]), at(3, 4, 5, 3, 4, 5, 3, 4, 5)],
  } as const;
  test.each(Object.entries(moved))('%s moves u32 as u32', async (_name, [op, expected]) => {
    const out = op();
    expect(out.dtype).toBe('u32');
    expect(out.requiresGrad).toBe(false);
    expect(await out.readU32()).toEqual(expected);
  });

  test('a part of an index is an index', async () => {
    const index = tensor(tape, Uint32Array.of(2, 0, 1, 1), [4]);
    const table = tensor(tape, [10, 11, 12], [3, 1]);
    expect([...(await embedding(slice(index, 0, 1, 2), table).read())]).toEqual([10, 11]);
  });

  test('an op that computes refuses them, and one that needs them refuses floats', () => {
    const x = tensor(tape, [1, 2, 3], [3], { label: 'x' });
    expect(() => add(x, words)).toThrow(
      new RangeError('add: input 1 (labels) is u32 [2, 3]; it must be f32 or f16'),
    );
    expect(() => sum(words)).toThrow('sum: input 0 (labels) is u32 [2, 3]; it must be f32');
    expect(() => softmax(words)).toThrow('softmax: input 0 (labels) is u32 [2, 3]; it must be f32');
    expect(() => imagesToFloat(x, [3, 4])).toThrow(
      'imagesToFloat: input 0 (x) is f32 [3]; it must be u32',
    );
    expect(() => concat([words, tensor(tape, [1, 2, 3], [1, 3])])).toThrow(
      'concat: f32 [1, 3] does not join u32 [2, 3]; the element types must agree',
    );
    expect(() => {
      copyInto(tensor(tape, new Float32Array(6), [2, 3]), words);
    }).toThrow('copyInto: target is f32 and source u32; both must be f32, or both f16');
  });
});

test('an index past the table gives zeros and no gradient', async () => {
  const table = tensor(tape, [1, 2, 3, 4], [2, 2], { requiresGrad: true });
  const y = embedding(tensor(tape, Uint32Array.of(1, 2, 0xffff_ffff), [3]), table);
  expect([...(await y.read())]).toEqual([3, 4, 0, 0, 0, 0]);
  expect([...(await grad([sum(y)], [table])[0]!.read())]).toEqual([0, 0, 1, 1]);
});

test('copyInto overwrites in place, and refuses another shape', async () => {
  const to = tensor(tape, [1, 2], [2]);
  copyInto(to, tensor(tape, [3, 4], [2]));
  expect([...(await to.read())]).toEqual([3, 4]);
  expect(() => {
    copyInto(to, tensor(tape, [3], [1]));
  }).toThrow('copyInto: target is [2] but source is [1]; the shapes must agree');
});

test('ops that move, pick and look up: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
