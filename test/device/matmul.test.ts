// Every rung of matmul against the float64 loops: transposes, edges, batches, alpha, guard bands, the same bits.
import { describe, expect, test } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import type { Tile } from '../../src/kernels/kernel.ts';
import { broadcastLanes } from '../../src/kernels/kernel.ts';
import { matmul, matmulLadder } from '../../src/kernels/matmul.ts';
import type { MatmulDims, MatmulRung } from '../../src/kernels/matmul.ts';
import { matmul as reference } from '../reference/matmul.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { gridsOf, openNarrowGpu } from '../support/narrow.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const narrow = await openNarrowGpu(2);

interface Case {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** 0: one matrix shared by all batches. */
  readonly batchA?: number;
  readonly batchB?: number;
  readonly alpha?: number;
}

const cases: readonly Case[] = [
  { M: 1, N: 1, K: 1 },
  { M: 1, N: 131, K: 7 },
  { M: 67, N: 1, K: 33 },
  { M: 5, N: 3, K: 2, batchA: 3, batchB: 3 },
  { M: 16, N: 16, K: 16, alpha: -0.5 },
  { M: 33, N: 67, K: 29 },
  { M: 64, N: 20, K: 36, batchA: 2, batchB: 2 },
  { M: 40, N: 132, K: 19, batchA: 2, batchB: 0, alpha: 2 },
  { M: 30, N: 36, K: 24, batchA: 0, batchB: 5 },
  { M: 128, N: 64, K: 257 },
];

const anySize: MatmulDims = {
  ...{ M: 8, N: 8, K: 8, batch: 1, strideA: 0, strideB: 0 },
  transA: false,
  transB: false,
};

const transposes = [
  { transA: false, transB: false },
  { transA: false, transB: true },
  { transA: true, transB: false },
  { transA: true, transB: true },
];

/** Those of f32; the others are in matmul-matrix.test.ts. */
const rungs = matmulLadder.rungs.filter((rung) => rung.fits(gpu, anySize));
test('the rungs of f32 are these; lanes need subgroups of eight or more', () => {
  expect(rungs.map((rung) => rung.name)).toEqual([
    'matmul/1_naive',
    'matmul/2_tiled',
    'matmul/3_registers',
    'matmul/4_vec4',
    ...(broadcastLanes(gpu) === undefined ? [] : ['matmul/5_lanes']),
  ]);
});

function setUp(c: Case, trans: { transA: boolean; transB: boolean }) {
  const { M, N, K, batchA = 1, batchB = 1, alpha = 1 } = c;
  const batch = Math.max(batchA, batchB);
  const a = randomFloats(Math.max(1, batchA) * M * K, 1);
  const b = randomFloats(Math.max(1, batchB) * K * N, 2);
  const dims: MatmulDims = {
    ...{ M, N, K, batch, ...trans },
    strideA: batchA > 1 ? M * K : 0,
    strideB: batchB > 1 ? K * N : 0,
  };
  const input = { a, b, batchA: [Math.max(1, batchA)], batchB: [Math.max(1, batchB)], M, N, K };
  const scaled = (round: typeof f64) =>
    reference({ ...input, ...trans }, round).map((x) => round(alpha * x));
  return { a, b, dims, alpha, ref: scaled(f64), naive: scaled(f32) };
}

async function product(
  rung: Pick<MatmulRung, 'run'>,
  made: ReturnType<typeof setUp>,
  { device = gpu, tile }: { device?: Gpu; tile?: Tile } = {},
) {
  const { a, b, dims, alpha } = made;
  const { out } = await execute(
    device,
    { a, b, out: dims.batch * dims.M * dims.N },
    (s) => {
      rung.run(device, { ...s, ...dims, alpha }, tile);
    },
    ['out'],
  );
  return out;
}

for (const rung of rungs) {
  for (const trans of transposes) {
    const name = `${rung.name} ${trans.transA ? 'Aᵀ' : 'A'}${trans.transB ? 'Bᵀ' : 'B'}`;
    test(`${name} matches the float64 loops on every shape`, async () => {
      for (const c of cases) {
        const made = setUp(c, trans);
        const out = await product(rung, made);
        expectClose(out, made.ref, budget(made.ref, made.naive), `${name} ${JSON.stringify(c)}`);
      }
    });
  }

  test(`${rung.name} gives the same bits twenty times`, async () => {
    const made = setUp({ M: 33, N: 67, K: 129 }, { transA: true, transB: true });
    await expectSameBits(async () => ({ out: await product(rung, made) }));
  });
}

describe.each(rungs.map((rung) => ({ name: rung.name, rung })))(
  'every tile of $name',
  ({ rung }) => {
    test('is right', async () => {
      for (const c of [
        { M: 130, N: 132, K: 20, batchA: 2, batchB: 2 },
        { M: 65, N: 67, K: 10, batchA: 3, batchB: 0 },
      ]) {
        for (const trans of transposes) {
          const made = setUp(c, trans);
          for (const tile of rung.tiles(gpu, made.dims)) {
            const out = await product(rung, made, { tile });
            const what = `${JSON.stringify(tile)} ${JSON.stringify({ ...c, ...trans })}`;
            expectClose(out, made.ref, budget(made.ref, made.naive), what);
          }
        }
      }
    });
  },
);

test('the matmul that the adapter gets is right, and counts its work', async () => {
  const made = setUp({ M: 96, N: 40, K: 56 }, { transA: false, transB: false });
  const out = await product({ run: matmul }, made);
  expectClose(out, made.ref, budget(made.ref, made.naive), 'matmul');
  const [kernel] = matmulLadder.rungs[0]!.kernels;
  const dims = { M: 4, N: 3, K: 5, batch: 2, strideA: 0, strideB: 15, alpha: 1 };
  expect(kernel!.flops(dims)).toBe(2 * 2 * 4 * 3 * 5);
  expect(kernel!.bytes(dims)).toBe(4 * (20 + 30 + 24));
});

test('an inner size of 0 gives zeros', async () => {
  for (const rung of rungs) {
    const dims = { M: 5, N: 8, K: 0, batch: 1, strideA: 0, strideB: 0 };
    const { out } = await execute(
      gpu,
      { a: 4, b: 4, out: 40 },
      (s) => {
        rung.run(gpu, { ...s, ...dims, transA: false, transB: false });
      },
      ['out'],
    );
    expect([...out], rung.name).toEqual(Array.from({ length: 40 }, () => 0));
  }
});

describe.each(rungs.map((rung) => ({ name: rung.name, rung })))(
  'grids past the limit, $name',
  ({ rung }) => {
    test('workgroups folded into a row find their tiles', async () => {
      const folded = [
        { M: 67, N: 41, K: 9, batchA: 5, batchB: 5 },
        { M: 300, N: 3, K: 5 },
        { M: 3, N: 300, K: 8 },
        { M: 72, N: 300, K: 4, batchA: 3, batchB: 0 },
      ];
      for (const c of folded) {
        const made = setUp(c, { transA: false, transB: true });
        const out = await product(rung, made, { device: narrow });
        expectClose(out, made.ref, budget(made.ref, made.naive), JSON.stringify(c));
      }
    });

    test.each([
      { M: 1, N: 1, batch: 70_000 },
      { M: 9_000_000, N: 1, batch: 1 },
      { M: 1, N: 9_000_000, batch: 1 },
    ])('has a grid for $M × $N, batch $batch', ({ M, N, batch }) => {
      const sizes = { M, N, K: 1, batch, strideA: 1, strideB: 1, transA: false, transB: false };
      const grids = gridsOf(gpu, () => {
        const [a, b, out] = [M, N, M * N].map((n) => gpu.alloc(4 * batch * n, 'matrix'));
        rung.run(gpu, { a: a!, b: b!, out: out!, ...sizes });
      });
      expect(grids).toHaveLength(1);
      for (const { grid } of grids) expect(Math.max(...grid)).toBeLessThanOrEqual(65_535);
    });

    // The rungs with barriers take SwiftShader half a minute for this.
    if (rung.kernels[0]?.needs !== undefined) return;
    test('takes 70,000 batches of 2 × 2', async () => {
      const made = setUp(
        { M: 2, N: 2, K: 2, batchA: 70_000, batchB: 70_000 },
        { transA: false, transB: false },
      );
      const out = await product(rung, made);
      expectClose(out, made.ref, budget(made.ref, made.naive), '70,000 batches');
    });
  },
);

test('no matmul wrote outside its output', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
  expect(await narrow.brokenGuards()).toEqual([]);
});
