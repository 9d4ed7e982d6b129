// Attention on tensor cores, forward and backward, both layouts, against the float64 loops. The matrices are emulated
// (test/support/matrices.ts); operands are such as f16 holds exactly, so that only the rounding of P and dS is allowed for.
import { expect, test } from 'vitest';
import { attentionBackwardMatrix, attentionMatrix } from '../../src/kernels/attention-matrix.ts';
import type { MatrixAttentionDims } from '../../src/kernels/attention-matrix.ts';
import type { AttentionLayout } from '../../src/kernels/attention-common.ts';
import type { Tile } from '../../src/kernels/kernel.ts';
import { attention as reference, attentionBackward } from '../reference/attention.ts';
import {
  budget,
  expAllowance,
  f32,
  f64,
  logAllowance,
  maxAbs,
  softmaxAllowance,
} from '../reference/naive.ts';
import type { Budget } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { packHalves, randomHalves, storedAsHalf, unpackHalves } from '../support/half.ts';
import { openMatrixGpu } from '../support/matrices.ts';

const gpu = await openMatrixGpu();
const testOrSkip = test.skipIf(gpu === undefined);

type Sizes = readonly [B: number, Nq: number, Nk: number, DK: number, DV: number];

const shapes: readonly Sizes[] = [
  [1, 1, 1, 1, 1],
  [2, 37, 67, 3, 5],
  [3, 1, 29, 4, 8],
  [2, 70, 36, 17, 7],
  // Widths past a chunk of dims and past a slice of values.
  [1, 40, 20, 36, 68],
  [2, 66, 35, 70, 67],
];
const layouts: readonly AttentionLayout[] = ['channel', 'sequence'];

/** WGSL lets a conversion to f16 round either way. */
const half = 2 ** -10;
const names = ['out', 'lse', 'dq', 'dk', 'dv'] as const;
type Name = (typeof names)[number];

function setUp(
  [B, Nq, Nk, DK, DV]: Sizes,
  layout: AttentionLayout,
  { stored }: Pick<MatrixAttentionDims, 'stored'> = {},
) {
  const scale = 1 / Math.sqrt(DK);
  const dims: MatrixAttentionDims = { B, Nq, Nk, DK, DV, layout, scale, precision: 'f16', stored };
  const [q, k] = [randomHalves(B * Nq * DK, 1), randomHalves(B * Nk * DK, 2)];
  const [v, dOut] = [randomHalves(B * Nk * DV, 3), randomHalves(B * Nq * DV, 4)];
  const input = { q, k, v, ...dims, channelMajor: layout === 'channel' };
  const run = (r: typeof f64) => {
    const { o, lse } = reference(input, r);
    return { out: o, lse, ...attentionBackward(input, dOut, r) };
  };
  const [expected, naive] = [run(f64), run(f32)];
  // What exp and lse may be off by, of a weight, and what a weight loses as f16.
  const spread = 2 * scale * DK * maxAbs(q) * maxAbs(k) + Math.log(Nk);
  const lse = softmaxAllowance(Nk) + logAllowance(Math.log(Nk));
  const weight = expAllowance(spread) + 2 * lse + half;
  const outAllowance = weight * maxAbs(v);
  // The most that a column of P sums to, and that dP comes to: dv of ones, and dOut·v pair by pair.
  const ones = new Float64Array(dOut.length).fill(1);
  const column = maxAbs(attentionBackward(input, ones, f64).dv);
  const dP = largestDot({ B, Nq, Nk, DV, layout }, dOut, v);
  // delta is made from an `out` that is off by its own budget, and by its rounding where it is stored as f16.
  const delta = DV * maxAbs(dOut) * (outAllowance + (stored === 'f16' ? half * maxAbs(v) : 0));
  const dS = scale * (2 * (weight + half) * dP + delta);
  const allowance: Record<Name, number> = {
    out: outAllowance,
    lse,
    dq: dS * maxAbs(k) + Nk * 2 ** -24,
    dk: dS * maxAbs(q) * column + Nq * 2 ** -24,
    dv: weight * column * maxAbs(dOut),
  };
  const allowed = (name: Name): Budget => {
    const float = budget(expected[name], naive[name], { allowance: allowance[name] });
    return stored === 'f16' && name !== 'lse' ? storedAsHalf(float) : float;
  };
  return { dims, given: { q, k, v, dOut }, expected, allowed };
}

/** max |dOut_i · v_j| over every pair of a query and a key. */
function largestDot(
  { B, Nq, Nk, DV, layout }: Pick<MatrixAttentionDims, 'B' | 'Nq' | 'Nk' | 'DV' | 'layout'>,
  dOut: Float64Array,
  v: Float64Array,
): number {
  const at = (x: Float64Array, N: number, b: number, n: number, d: number) =>
    layout === 'channel' ? x[(b * DV + d) * N + n]! : x[(b * N + n) * DV + d]!;
  let most = 0;
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Nq; i++) {
      for (let j = 0; j < Nk; j++) {
        let dot = 0;
        for (let d = 0; d < DV; d++) dot += at(dOut, Nq, b, i, d) * at(v, Nk, b, j, d);
        most = Math.max(most, Math.abs(dot));
      }
    }
  }
  return most;
}

type Made = ReturnType<typeof setUp>;

async function resultsOf(device: NonNullable<typeof gpu>, made: Made, tile?: Tile) {
  const { dims, given, expected } = made;
  const halves = dims.stored === 'f16';
  const put = (data: Float64Array) => (halves ? packHalves(data) : data);
  const room = (n: number) => (halves ? Math.ceil(n / 2) : n);
  const raw = await execute(
    device,
    {
      ...{ q: put(given.q), k: put(given.k), v: put(given.v), dOut: put(given.dOut) },
      ...{ out: room(expected.out.length), lse: expected.lse.length },
      ...{ dq: room(given.q.length), dk: room(given.k.length), dv: room(given.v.length) },
    },
    (s) => {
      attentionMatrix.run(device, { ...s, ...dims }, tile);
      attentionBackwardMatrix.run(device, { ...s, ...dims }, tile);
    },
    names,
  );
  const take = (name: Name) =>
    halves && name !== 'lse' ? unpackHalves(raw[name], expected[name].length) : raw[name];
  return { ...Object.fromEntries(names.map((name) => [name, take(name)])) } as Record<
    Name,
    Float64Array | Float32Array<ArrayBuffer>
  >;
}

async function check(device: NonNullable<typeof gpu>, made: Made, tile?: Tile) {
  const results = await resultsOf(device, made, tile);
  for (const name of names) {
    const what = `${name} of ${JSON.stringify(made.dims)} ${JSON.stringify(tile)}`;
    expectClose(results[name], made.expected[name], made.allowed(name), what);
  }
}

for (const layout of layouts) {
  testOrSkip(`every shape, ${layout}`, async () => {
    for (const shape of shapes) await check(gpu!, setUp(shape, layout));
  });
}

testOrSkip('tensors stored as f16', async () => {
  for (const shape of [shapes[1]!, shapes[4]!]) {
    await check(gpu!, setUp(shape, 'channel', { stored: 'f16' }));
  }
});

testOrSkip('every tile, and one as wide as a GPU takes', async () => {
  const made = setUp([2, 35, 37, 20, 133], 'sequence');
  const tiles = attentionMatrix.tiles(gpu!, made.dims);
  expect(tiles.length).toBeGreaterThanOrEqual(2);
  const wide = { ...tiles[0]!, SG: 2, TV: 128 };
  for (const tile of [...tiles, wide]) await check(gpu!, made, tile);
});

testOrSkip.each([
  { config: 'f16→f32 16×8×16', lanes: 32 },
  { config: 'f16→f32 8×8×8', lanes: 32 },
])('$config, subgroups of $lanes', async (options) => {
  const device = await openMatrixGpu(options);
  await check(device!, setUp(shapes[3]!, 'channel'));
});

testOrSkip('folded grids, and the same bits twenty times', async () => {
  const narrow = await openMatrixGpu({ most: 3 });
  const made = setUp([2, 66, 35, 9, 200], 'sequence');
  await check(narrow!, made);
  expect(await narrow!.brokenGuards()).toEqual([]);
  await expectSameBits(async () => {
    const results = await resultsOf(gpu!, made);
    return Object.fromEntries(names.map((name) => [name, Float32Array.from(results[name])]));
  });
});

testOrSkip('one key among many thousands keeps its weight', async () => {
  // An even row: every weight is 1/Nk, which f16 could hold to a few digits only.
  const made = setUp([1, 3, 5000, 1, 3], 'channel');
  await check(gpu!, made);
});

testOrSkip('only the gradients that are asked for', async () => {
  const { dims, given, expected, allowed } = setUp(shapes[1]!, 'channel');
  const { dv } = await execute(
    gpu!,
    { ...given, out: expected.out, lse: expected.lse, dv: given.v.length },
    (s) => {
      attentionBackwardMatrix.run(gpu!, { ...s, ...dims });
    },
    ['dv'],
  );
  expectClose(dv, expected.dv, allowed('dv'), 'dv alone');
});

testOrSkip(
  'it is not for those who asked for f32, and wrote nothing outside its outputs',
  async () => {
    const { precision: asked, ...dims } = setUp(shapes[1]!, 'channel').dims;
    expect(asked).toBe('f16');
    expect(attentionMatrix.fits(gpu!, { ...dims, precision: asked })).toBe(true);
    expect(attentionMatrix.fits(gpu!, dims)).toBe(false);
    expect(attentionBackwardMatrix.fits(gpu!, dims)).toBe(false);
    expect(await gpu!.brokenGuards()).toEqual([]);
  },
);
