// Masked attention against float64 loops: masks of every kind and shape, causal, rows with nothing to look at; gradients,
// second gradients, f16, what it keeps, and what is refused.
import { describe, expect, test } from 'vitest';
import { Tape, grad } from '../../src/autograd/tape.ts';
import { empty, tensor } from '../../src/autograd/tensor.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { attention } from '../../src/ops/attention.ts';
import { maskedBackwardLadder, maskedForwardLadder } from '../../src/kernels/masked-attention.ts';
import type { MaskedDims } from '../../src/kernels/masked-attention.ts';
import { sum } from '../../src/ops/reduce.ts';
import {
  type Attention,
  attention as reference,
  attentionBackward,
} from '../reference/attention.ts';
import { f64, softmaxAllowance } from '../reference/naive.ts';
import { eachCase } from '../support/cases.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute } from '../support/execute.ts';
import {
  type Named,
  type OpCase,
  bitsOf,
  count,
  eagerly,
  leaf,
  randomInput,
} from '../support/ops.ts';
import { secondBudget, secondOrder, secondReference } from '../support/second.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);
const scale = 0.5;

interface Masked {
  readonly layout: 'channel' | 'sequence';
  /** items, heads, queries, keys, widths. */
  readonly sizes: readonly [
    B: number,
    heads: number,
    Nq: number,
    Nk: number,
    DK: number,
    DV: number,
  ];
  readonly causal?: boolean;
  readonly mask?: { readonly shape: readonly number[]; readonly data: Uint32Array | Float32Array };
  readonly halves?: boolean;
}

/** A key in three is hidden, and all of every fifth row; −∞, the lowest float and small numbers where they are added. */
const hide = (n: number, Nk: number) => n % 3 === 1 || Math.floor(n / Nk) % 5 === 2;
function boolean(...shape: number[]) {
  const data = Uint32Array.from({ length: count(shape) }, (_, n) =>
    hide(n, shape.at(-1)!) ? 0 : n + 1,
  );
  return { shape, data };
}
function additive(...shape: number[]) {
  const lowest = -3.4028234663852886e38;
  const { data } = randomInput(shape, 7);
  const added = Float32Array.from(data, (x, n) =>
    hide(n, shape.at(-1)!) ? (n % 2 === 0 ? -Infinity : lowest) : x,
  );
  return { shape, data: added };
}

/** The mask of a case as the reference takes it. */
function biasOf({ sizes, causal, mask }: Masked): NonNullable<Attention['bias']> {
  const heads = sizes[1];
  const shape = [1, 1, 1, 1, ...(mask?.shape ?? [])].slice(-4) as [number, number, number, number];
  return (b, i, j) => {
    if (causal === true && j > i) return -Infinity;
    if (mask === undefined) return 0;
    const place = [Math.floor(b / heads), b % heads, i, j];
    const at = place.reduce((sum, n, axis) => sum * shape[axis]! + (shape[axis] === 1 ? 0 : n), 0);
    const word = mask.data[at]!;
    if (mask.data instanceof Uint32Array) return word === 0 ? -Infinity : 0;
    return word < -3e38 ? -Infinity : word;
  };
}

function caseOf(masked: Masked): OpCase {
  const { layout, sizes, causal = false, mask, halves } = masked;
  const [items, heads, Nq, Nk, DK, DV] = sizes;
  const B = items * heads;
  const channelMajor = layout === 'channel';
  const shapeOf = (n: number, d: number) => (channelMajor ? [B, d, n] : [B, n, d]);
  const bias = biasOf(masked);
  const of = (d: Named): Attention => ({
    ...{ q: d['q']!, k: d['k']!, v: d['v']!, B, Nq, Nk, DK, DV, scale, channelMajor, bias },
  });
  const hides = mask && tensor(tape, mask.data, mask.shape);
  const kind = mask === undefined ? 'no mask' : mask.data.constructor.name;
  return {
    name: `${layout}-major, ${sizes.join('×')}, ${kind} [${mask?.shape.join(', ') ?? ''}]${causal ? ', causal' : ''}`,
    inputs: {
      q: randomInput(shapeOf(Nq, DK), 1, -2, 2),
      k: randomInput(shapeOf(Nk, DK), 2, -2, 2),
      v: randomInput(shapeOf(Nk, DV), 3),
    },
    op: ({ q, k, v }) => attention(q!, k!, v!, { layout, scale, heads, causal, mask: hides }),
    forward: (d, r) => ({ shape: shapeOf(Nq, DV), data: reference(of(d), r).o }),
    backward: (d, dy, r) => {
      const { dq, dk, dv } = attentionBackward(of(d), dy, r);
      return { q: dq, k: dk, v: dv };
    },
    // As plain attention's.
    allowance: 2 * Math.sqrt(Nq * DV) * softmaxAllowance(Nk),
    // delta = Σ dOut·out is made of an out that was rounded to f16; a column of weights sums to at most Nq, |q|, |k| ≤ 2.
    ...(halves === true ? { halves: { between: 2 * scale * Nq * DV * 2 ** -11 } } : {}),
  };
}

const small = [2, 3, 5, 7, 2, 4] as const;
eachCase(tape)(
  'masked attention',
  (
    [
      { layout: 'sequence', sizes: [1, 1, 1, 1, 1, 1], causal: true },
      { layout: 'channel', sizes: [1, 2, 37, 21, 2, 4], causal: true },
      { layout: 'sequence', sizes: [1, 2, 5, 29, 2, 4], causal: true },
      { layout: 'sequence', sizes: small, mask: boolean(2, 1, 1, 7) },
      { layout: 'sequence', sizes: small, mask: boolean(2, 3, 5, 7), halves: true },
      { layout: 'channel', sizes: small, mask: additive(5, 7) },
      { layout: 'sequence', sizes: small, mask: additive(3, 5, 1), causal: true },
    ] satisfies Masked[]
  ).map(caseOf),
);

describe('masked attention', () => {
  test('second gradients are those of central differences, a row with nothing to look at among them', async () => {
    const mask = additive(4, 5);
    const one = caseOf({ layout: 'channel', sizes: [1, 1, 4, 5, 2, 3], mask, causal: true });
    const inputs = Object.fromEntries(
      Object.entries(one.inputs).map(([key, { data }]) => [key, Float64Array.from(data)]),
    );
    const dy = randomInput([1, 3, 4], 9);
    const { second, noise } = secondReference(
      (t, g) => one.backward(t, g, f64),
      inputs,
      Float64Array.from(dy.data),
    );
    const leaves = Object.entries(one.inputs).map(([key, input]) => leaf(tape, input, key));
    const found = await eagerly(gpu, () => {
      const [q, k, v] = leaves;
      const f = () => one.op({ q: q!, k: k!, v: v! }, 'f32');
      return secondOrder(f, leaves, leaf(tape, dy, 'dy')).second;
    });
    const limit = secondBudget(second, { terms: 16, allowance: 8 * softmaxAllowance(5), noise });
    second.forEach((wanted, i) => {
      expectClose(found[i]!.data, wanted, limit, `second gradient ${i}`);
    });
  });

  test('rows wider than a thread keeps are read again, and their gradients made a slice at a time', async () => {
    const [DK, DV, N] = [6, 7, 5];
    const dims: MaskedDims = {
      ...{ B: 1, Nq: N, Nk: N, DK, DV, scale, layout: 'sequence', heads: 1, causal: true },
      ...{ mask: 'none', maskItems: 1, maskHeads: 1, maskQueries: 1, maskKeys: 1 },
    };
    const [q, k, v, dOut] = [DK, DK, DV, DV].map((d, i) =>
      Float32Array.from(randomInput([N, d], 20 + i).data),
    ) as [Float32Array, Float32Array, Float32Array, Float32Array];
    const given = { q, k, v, ...dims, channelMajor: false };
    const bias = (_b: number, i: number, j: number) => (j > i ? -Infinity : 0);
    const exact = reference({ ...given, bias }, f64);
    const tile = { WG: 8, TD: 4, TV: 3 };
    const inputs = { q, k, v, hides: new Float32Array(1), dOut, out: N * DV, lse: N };
    const found = await execute(
      gpu,
      { ...inputs, dq: N * DK, dk: N * DK, dv: N * DV },
      (s) => {
        maskedForwardLadder.rungs[0]!.run(gpu, { ...dims, ...s }, tile);
        maskedBackwardLadder.rungs[0]!.run(gpu, { ...dims, ...s }, tile);
      },
      ['out', 'dq', 'dk', 'dv'],
    );
    const limit = { abs: 2 * Math.sqrt(N * DV) * softmaxAllowance(N) };
    expectClose(found.out!, exact.o, limit, 'out');
    const gradients = attentionBackward({ ...given, bias }, dOut, f64);
    for (const name of ['dq', 'dk', 'dv'] as const) {
      expectClose(found[name]!, gradients[name], limit, name);
    }
  });

  test('a query from which every key is hidden gets zeros and moves nothing', async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => leaf(tape, randomInput([1, 3, 2], seed)));
    const mask = tensor(tape, Uint32Array.of(1, 0, 1), [3, 1]);
    const [y, dq] = await eagerly(gpu, () => {
      const out = attention(q!, k!, v!, { layout: 'sequence', mask });
      return [out, ...grad([sum(out)], [q!])];
    });
    expect([...y!.data.subarray(2, 4), ...dq!.data.subarray(2, 4)]).toEqual([0, 0, 0, 0]);
    expect(Math.min(...[0, 1, 4, 5].map((i) => Math.abs(y!.data[i]!)))).toBeGreaterThan(0);
  });

  test('a NaN at a hidden key is not seen, and at a query stays in its row', async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => Float32Array.from(randomInput([1, 4, 1], seed).data));
    q![2] = NaN;
    k![3] = NaN;
    const [y] = await eagerly(gpu, () => {
      const [a, b, c] = [q!, k!, v!].map((data) => tensor(tape, data, [1, 4, 1]));
      const mask = tensor(tape, Uint32Array.of(1, 1, 1, 0), [4]);
      return [attention(a!, b!, c!, { layout: 'sequence', mask })];
    });
    expect([...y!.data].map(Number.isNaN)).toEqual([false, false, true, false]);
  });

  test('gives the same bits ten times', async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => leaf(tape, randomInput([2, 3, 37], seed)));
    const body = () => grad([sum(attention(q!, k!, v!, { causal: true }))], [q!, k!, v!]);
    const first = bitsOf(await eagerly(gpu, body));
    for (let i = 0; i < 9; i++) expect(bitsOf(await eagerly(gpu, body))).toEqual(first);
  });

  test('of 16384 positions it allocates nothing of their square, gradients included', () => {
    const N = 16_384;
    const capture = gpu.capture(() => {
      const inputs = [4, 4, 5].map((d) => empty(tape, [2, d, N], { requiresGrad: true }));
      const [a, b, c] = inputs as [Tensor, Tensor, Tensor];
      const mask = tensor(tape, new Uint32Array(N).fill(1), [N]);
      return grad([sum(attention(a, b, c, { mask, causal: true }))], inputs).map((t) => t.storage);
    });
    const held = capture.dispatches.flatMap((d) => d.storages.map(({ bytes }) => bytes));
    expect(Math.max(...held)).toBe(4 * 2 * 5 * N);
  });

  test('masks and heads that do not go with the sequences are refused, and a mask that wants a gradient', () => {
    const x = leaf(tape, randomInput([6, 5, 2], 1));
    const with_ = (mask: Tensor, heads = 3) =>
      attention(x, x, x, { layout: 'sequence', mask, heads });
    const zeros = (...shape: number[]) => tensor(tape, new Float32Array(count(shape)), shape);
    for (const shape of [[4], [6, 1, 1, 5], [1, 1, 1, 1, 5]]) {
      expect(() => with_(zeros(...shape))).toThrow(
        `attention: the mask is [${shape.join(', ')}]; it must broadcast to [2, 3, 5, 5], items by heads by queries by keys`,
      );
    }
    expect(() => with_(zeros(5), 4)).toThrow('attention: 4 heads do not divide a batch of 6');
    expect(() => with_(leaf(tape, randomInput([5], 1)))).toThrow(
      'attention: the mask requires a gradient, and none is made for it: give mask.detach()',
    );
  });
});

test('masked attention wrote nothing outside its tensors', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
