// The f16 rungs of matmul against the float64 loops, with operands that f16 holds exactly: what remains is the order of an
// f32 sum. The rung on tensor cores runs with its matrices emulated (test/support/matrices.ts).
import { describe, expect, test } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import { choose } from '../../src/kernels/rung.ts';
import type { Tile } from '../../src/kernels/kernel.ts';
import { matmul, matmulLadder } from '../../src/kernels/matmul.ts';
import type { MatmulDims, MatmulRung } from '../../src/kernels/matmul.ts';
import { halfRung, matrixRung } from '../../src/kernels/matmul-matrix.ts';
import type { Precision } from '../../src/kernels/precision.ts';
import { matmul as reference } from '../reference/matmul.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { packHalves, randomHalves, storedAsHalf, unpackHalves } from '../support/half.ts';
import { openMatrixGpu } from '../support/matrices.ts';

const gpu = await openTestGpu();
const emulating = await openMatrixGpu();
const f16 = emulating !== undefined;

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
  { M: 5, N: 3, K: 2, batchA: 3, batchB: 3 },
  { M: 16, N: 16, K: 16, alpha: -0.5 },
  { M: 33, N: 67, K: 29 },
  { M: 64, N: 20, K: 36, batchA: 2, batchB: 2 },
  { M: 40, N: 68, K: 19, batchA: 2, batchB: 0, alpha: 2 },
  { M: 64, N: 64, K: 72 },
];
/** Two tiles of the largest size in each direction, and edges. */
const large: readonly Case[] = [
  { M: 130, N: 132, K: 36 },
  { M: 129, N: 131, K: 65, batchA: 2, batchB: 0 },
];

const transposes = [
  { transA: false, transB: false },
  { transA: false, transB: true },
  { transA: true, transB: false },
  { transA: true, transB: true },
];
const kinds: readonly Precision[] = [{ precision: 'f16' }, { stored: 'f16' }];

function setUp(c: Case, trans: (typeof transposes)[number], precision: Precision) {
  const { M, N, K, batchA = 1, batchB = 1, alpha = 1 } = c;
  const [countA, countB] = [Math.max(1, batchA), Math.max(1, batchB)];
  const a = randomHalves(countA * M * K, 1);
  const b = randomHalves(countB * K * N, 2);
  const dims: MatmulDims = {
    ...{ M, N, K, batch: Math.max(countA, countB), ...trans, ...precision },
    strideA: batchA > 1 ? M * K : 0,
    strideB: batchB > 1 ? K * N : 0,
  };
  const input = { a, b, batchA: [countA], batchB: [countB], M, N, K, ...trans };
  const scaled = (round: typeof f64) => reference(input, round).map((x) => round(alpha * x));
  const ref = scaled(f64);
  const float = budget(ref, scaled(f32));
  const what = JSON.stringify({ ...c, ...trans, ...precision });
  return {
    ...{ a, b, dims, alpha, ref, what },
    budget: dims.stored === 'f16' ? storedAsHalf(float) : float,
  };
}

type Made = ReturnType<typeof setUp>;

async function product(device: Gpu, rung: Pick<MatmulRung, 'run'>, made: Made, tile?: Tile) {
  const { a, b, dims, alpha } = made;
  const halves = dims.stored === 'f16';
  const n = dims.batch * dims.M * dims.N;
  const { out } = await execute(
    device,
    {
      a: halves ? packHalves(a) : a,
      b: halves ? packHalves(b) : b,
      out: halves ? Math.ceil(n / 2) : n,
    },
    (s) => {
      rung.run(device, { ...s, ...dims, alpha }, tile);
    },
    ['out'],
  );
  return halves ? unpackHalves(out, n) : Float64Array.from(out);
}

async function check(device: Gpu, rung: MatmulRung, made: Made, tiles?: readonly Tile[]) {
  for (const tile of tiles ?? rung.tiles(device, made.dims)) {
    const out = await product(device, rung, made, tile);
    expectClose(out, made.ref, made.budget, `${made.what} ${JSON.stringify(tile)}`);
  }
}

describe.each([
  { name: halfRung.name, rung: halfRung, device: gpu },
  { name: matrixRung.name, rung: matrixRung, device: emulating ?? gpu },
])('$name', ({ rung, device }) => {
  for (const trans of transposes) {
    const name = `${trans.transA ? 'Aᵀ' : 'A'}${trans.transB ? 'Bᵀ' : 'B'}`;
    test.skipIf(!f16)(`${name} matches the float64 loops on every shape`, async () => {
      for (const [i, c] of cases.entries()) {
        const made = setUp(c, trans, kinds[i % 2]!);
        await check(device, rung, made, [rung.tiles(device, made.dims)[0]!]);
      }
    });

    test.skipIf(!f16)(`${name} is right in every tile`, async () => {
      for (const [i, c] of large.entries()) {
        const made = setUp(c, trans, kinds[i % 2]!);
        expect(rung.tiles(device, made.dims)).toHaveLength(3);
        await check(device, rung, made);
      }
    });
  }

  test.skipIf(!f16)(
    'gives zeros for an inner size of 0, and the same bits twenty times',
    async () => {
      const none = setUp({ M: 5, N: 8, K: 0 }, transposes[0]!, { precision: 'f16' });
      expect([...(await product(device, rung, none))]).toEqual(Array.from({ length: 40 }, () => 0));
      const made = setUp({ M: 33, N: 67, K: 129 }, transposes[3]!, { precision: 'f16' });
      await expectSameBits(async () => ({
        out: Float32Array.from(await product(device, rung, made)),
      }));
    },
  );

  test.skipIf(!f16)('is never chosen where f32 was asked for', () => {
    const { dims } = setUp(cases[2]!, transposes[0]!, {});
    expect(rung.fits(device, dims)).toBe(false);
    expect(choose(device, matmulLadder, dims).rung.name).not.toBe(rung.name);
  });
});

test.skipIf(!f16)('tensor cores: workgroups folded into a row find their tiles', async () => {
  const narrow = await openMatrixGpu({ most: 2 });
  for (const c of [
    { M: 67, N: 41, K: 9, batchA: 5, batchB: 5 },
    { M: 300, N: 3, K: 5 },
  ]) {
    await check(narrow!, matrixRung, setUp(c, transposes[1]!, { precision: 'f16' }));
  }
  expect(await narrow!.brokenGuards()).toEqual([]);
});

test.skipIf(!f16).each([
  { config: 'f16→f32 16×8×16', lanes: 32 },
  { config: 'f16→f32 16×8×8', lanes: 32 },
  { config: 'f16→f32 8×8×8', lanes: 32 },
  { config: 'f16→f32 16×16×16', lanes: 64 },
])('tensor cores of $config, subgroups of $lanes', async (options) => {
  const device = await openMatrixGpu(options);
  for (const trans of [transposes[1]!, transposes[2]!]) {
    const made = setUp({ M: 65, N: 67, K: 34 }, trans, { precision: 'f16' });
    expect(matrixRung.fits(device!, made.dims)).toBe(true);
    await check(device!, matrixRung, made, [matrixRung.tiles(device!, made.dims)[0]!]);
  }
});

test.skipIf(!f16)('a GPU with tensor cores takes them once f16 may be used', async () => {
  const made = setUp({ M: 96, N: 40, K: 56 }, transposes[0]!, { stored: 'f16' });
  const out = await product(emulating!, { run: matmul }, made);
  expectClose(out, made.ref, made.budget, 'matmul');
  expect(matmulLadder.preferred(emulating!, made.dims)[0]).toBe(matrixRung.name);
  // Two bytes an element, and a profile counts them so.
  expect(matmulLadder.bytes(made.dims)).toBe(2 * (96 * 56 + 56 * 40 + 96 * 40));
});

test.skipIf(!f16)('no f16 matmul wrote outside its output', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
  expect(await emulating!.brokenGuards()).toEqual([]);
});
