// Every rung of the three convolutions against the float64 loops: windows, strides, borders, bias, tiles, the same bits.
import { describe, expect, test } from 'vitest';
import {
  convDataGrad,
  convDataGradLadder,
  convForward,
  convForwardLadder,
  convWeightGrad,
  convWeightGradLadder,
} from '../../src/kernels/conv.ts';
import type { ConvDims, ConvSizes } from '../../src/kernels/conv.ts';
import { planGather } from '../../src/kernels/conv-plan.ts';
import { planWindow } from '../../src/kernels/conv-window.ts';
import { broadcastLanes } from '../../src/kernels/kernel.ts';
import { choose } from '../../src/kernels/rung.ts';
import type { Ladder } from '../../src/kernels/rung.ts';
import type { Storage } from '../../src/gpu/storage.ts';
import { convTranspose2d } from '../reference/conv.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { convChecks, convDims, convLengths, convTitle } from '../support/conv.ts';
import type { Pair } from '../support/conv.ts';
import { openTestGpu } from '../support/device.ts';
import { execute, expectSameBits } from '../support/execute.ts';
import { randomData, randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();

const cases: readonly ConvDims[] = [
  // SAGAN's own: halving, from a latent and to one number, 3×3, 1×1.
  convDims({ N: 4, C: 3, K: 16, size: [16, 16], window: [4, 4], stride: [2, 2], pad: [1, 1] }),
  convDims({ N: 2, C: 16, K: 24, size: [8, 8], window: [4, 4], stride: [2, 2], pad: [1, 1] }),
  convDims({ N: 16, C: 24, K: 9, size: [4, 4], window: [4, 4] }),
  convDims({ N: 4, C: 33, K: 1, size: [4, 4], window: [4, 4] }),
  convDims({ N: 2, C: 12, K: 20, size: [8, 8], window: [3, 3], pad: [1, 1] }),
  convDims({ N: 2, C: 16, K: 3, size: [8, 8], window: [1, 1] }),
  convDims({ N: 4, C: 70, K: 66, size: [4, 4], window: [1, 1] }),
  // Size 1 everywhere, odd and prime sizes, unequal sides.
  convDims({ N: 1, C: 1, K: 1, size: [1, 1], window: [1, 1] }),
  // A product that is both a 1×1 window and a window as large as the image.
  convDims({ N: 2, C: 5, K: 7, size: [1, 1], window: [1, 1] }),
  convDims({ N: 1, C: 1, K: 1, size: [1, 1], window: [3, 3], pad: [1, 1] }),
  convDims({ N: 2, C: 5, K: 7, size: [1, 1], window: [3, 3], pad: [1, 1] }),
  convDims({ N: 3, C: 5, K: 7, size: [3, 5], window: [1, 1] }),
  convDims({ N: 1, C: 7, K: 5, size: [13, 11], window: [3, 5], pad: [1, 2] }),
  convDims({ N: 2, C: 3, K: 5, size: [11, 7], window: [2, 3], stride: [2, 1], pad: [0, 1] }),
  convDims({ N: 3, C: 2, K: 3, size: [10, 13], window: [5, 2], stride: [3, 2], pad: [2, 0] }),
  convDims({ N: 1, C: 4, K: 4, size: [17, 17], window: [3, 3], stride: [3, 3], pad: [2, 1] }),
  // The window is smaller than the stride: some phases meet no tap. Pixels that no window covers.
  convDims({ N: 2, C: 3, K: 4, size: [9, 8], window: [2, 1], stride: [3, 3], pad: [0, 1] }),
  convDims({ N: 2, C: 6, K: 5, size: [6, 6], window: [1, 1], stride: [2, 2] }),
  convDims({ N: 2, C: 3, K: 2, size: [5, 5], window: [1, 1], pad: [1, 1] }),
  // One output along an axis while the image is longer than the window.
  convDims({ N: 2, C: 3, K: 4, size: [7, 6], window: [3, 2], stride: [9, 1] }),
  // Rows of whole vec4s that a frame shifts by 2, 3 and 5 floats.
  convDims({ N: 2, C: 3, K: 5, size: [7, 4], window: [3, 3], pad: [0, 2] }),
  convDims({ N: 2, C: 5, K: 4, size: [6, 8], window: [3, 4], pad: [1, 3] }),
  convDims({ N: 1, C: 3, K: 4, size: [5, 12], window: [3, 3], stride: [1, 2], pad: [2, 5] }),
  // More than one tile in every direction, parts of unequal length.
  convDims({ N: 5, C: 9, K: 71, size: [12, 15], window: [3, 3], pad: [1, 1] }),
  convDims({ N: 3, C: 5, K: 6, size: [12, 20], window: [1, 1] }),
  convDims({ N: 16, C: 2, K: 3, size: [9, 9], window: [3, 3], stride: [2, 2], pad: [1, 1] }),
];

const ladders = [convForwardLadder, convDataGradLadder, convWeightGradLadder] as const;

test.each(ladders.flatMap(({ name, rungs }) => rungs.map((rung) => ({ name, rung }))))(
  'some of the sizes fit $rung.name of $name',
  ({ rung }) => {
    // A rung that none of them fits would go untested; those of lanes need subgroups of eight or more.
    const byLanes = /lanes|window/.test(rung.name) && broadcastLanes(gpu) === undefined;
    // Those of f16 are in conv-matrix.test.ts.
    const halves = rung.name.endsWith('tensor_cores');
    expect(cases.some((dims) => rung.fits(gpu, dims))).toBe(!byLanes && !halves);
  },
);

const named = cases.map((dims, i) => ({ name: convTitle(dims), dims, whole: i % 3 === 0 }));

// Each tile, bias and activation is a program more to compile: every third of the sizes sees them all.
describe.each(named)('$name', ({ dims, whole }) => {
  for (const { kind, name, tiles, check } of convChecks(gpu, dims)) {
    test(`${kind} on ${name}${whole ? ', every tile' : ''}`, async () => {
      expect(tiles.length).toBeGreaterThan(0);
      for (const tile of whole ? tiles : tiles.slice(0, 1)) await check(gpu, tile);
    });
  }

  const biased = whole ? convChecks(gpu, dims, { bias: true }) : [];
  for (const { kind, name, check } of biased) {
    if (kind !== 'data gradient') continue;
    test(`${kind} on ${name} with bias`, async () => {
      await check(gpu);
    });
  }

  const slope = 0.2;
  const activated = whole ? convChecks(gpu, dims, { bias: true, slope }) : [];
  for (const { name, check } of activated) {
    test(`forward on ${name} with bias and an activation`, async () => {
      const sum = biased.find((c) => c.kind === 'forward' && c.name === name)!;
      const sums = await sum.check(gpu);
      const wanted = sums.map((v) => (v > 0 ? v : Math.fround(slope) * v + 0));
      expect(await check(gpu), 'the bits of the sum, activated').toEqual(wanted);
    });
  }

  test('the adapter gets rungs that fit', async () => {
    const chosen = <Args, O extends string>(ladder: Ladder<ConvSizes, Args, O>) => {
      const { rung } = choose(gpu, ladder, dims);
      expect(rung.fits(gpu, dims), rung.name).toBe(true);
    };
    chosen(convForwardLadder);
    chosen(convDataGradLadder);
    chosen(convWeightGradLadder);
    expect(await gpu.brokenGuards()).toEqual([]);
  });
});

describe('a NaN of the image goes through an activation', () => {
  const shared = { N: 2, C: 4, K: 5, size: 4 };
  test.each(
    [
      convDims({ ...shared, window: 3, pad: 1 }),
      convDims({ ...shared, window: 1 }),
      convDims({ ...shared, size: 3, window: 1 }),
      convDims({ ...shared, window: 4 }),
    ].flatMap((dims) => [0, 0.2].map((slope) => ({ what: convTitle(dims), dims, slope }))),
  )('$what, slope $slope', async ({ dims, slope }) => {
    const size = convLengths(dims);
    // One number of the first image: what does not see it is finite, as is all of the second image.
    const x = randomFloats(size.x, 1);
    x[5] = Number.NaN;
    const given = { x, w: randomFloats(size.w, 2), out: size.dy };
    for (const rung of convForwardLadder.rungs.filter((r) => r.fits(gpu, dims))) {
      const resultOf = async (activation: { slope: number } | undefined) => {
        const run = (s: Record<keyof typeof given, Storage>) => {
          rung.run(gpu, { ...s, activation, dims });
        };
        return (await execute(gpu, given, run, ['out'])).out;
      };
      const sums = await resultOf(undefined);
      expect([...sums].filter(Number.isNaN).length, rung.name).toBeGreaterThan(0);
      const wanted = sums.map((v) => (v > 0 || Number.isNaN(v) ? v : Math.fround(slope) * v + 0));
      expect(await resultOf({ slope }), rung.name).toEqual(wanted);
    }
  });
});

describe('convTranspose2d is the data gradient', () => {
  test.each([
    { N: 2, Cin: 6, H: 4, W: 5, Cout: 3, R: 4, S: 4, stride: 2, pad: 1, outputPad: 0 },
    { N: 3, Cin: 5, H: 5, W: 3, Cout: 4, R: 3, S: 3, stride: 2, pad: 1, outputPad: 1 },
    { N: 1, Cin: 2, H: 3, W: 4, Cout: 9, R: 2, S: 3, stride: 3, pad: 0, outputPad: 2 },
    { N: 16, Cin: 10, H: 1, W: 1, Cout: 17, R: 4, S: 4, stride: 1, pad: 0, outputPad: 0 },
    { N: 2, Cin: 3, H: 1, W: 1, Cout: 2, R: 2, S: 2, stride: 3, pad: 0, outputPad: 2 },
  ])('%o', async ({ stride, pad, outputPad, ...sizes }) => {
    const { N, Cin, H, W, Cout, R, S } = sizes;
    const x = randomData(N * Cin * H * W, 6);
    const w = randomData(Cin * Cout * R * S, 7);
    const bias = randomData(Cout, 8);
    const both = (n: number): Pair => [n, n];
    const pairs = { stride: both(stride), pad: both(pad), outputPad: both(outputPad) };
    const run = (r: (v: number) => number) =>
      convTranspose2d({ x, w, bias, ...sizes, ...pairs }, r);
    const expected = run(f64);
    const size = (n: number, window: number) => (n - 1) * stride - 2 * pad + window + outputPad;
    const dims: ConvDims = {
      ...{ N, C: Cout, H: size(H, R), W: size(W, S), K: Cin, R, S, OH: H, OW: W },
      ...{ strideH: stride, strideW: stride, padH: pad, padW: pad },
    };
    for (const rung of convDataGradLadder.rungs.filter((r) => r.fits(gpu, dims))) {
      const { out } = await execute(
        gpu,
        { dy: x, w, bias, out: expected.length },
        (s) => {
          rung.run(gpu, { ...s, dims });
        },
        ['out'],
      );
      expectClose(out, expected, budget(expected, run(f32)), rung.name);
    }
    expect(await gpu.brokenGuards()).toEqual([]);
  });
});

describe('a halving convolution whose weight gradient is split', () => {
  const dims = convDims({
    N: 16,
    C: 3,
    K: 7,
    size: [9, 9],
    window: [4, 4],
    stride: [2, 2],
    pad: [1, 1],
  });
  const size = convLengths(dims);
  const upload = (n: number, seed: number) => {
    const storage = gpu.alloc(4 * n, 'operand');
    gpu.write(storage, randomFloats(n, seed));
    return storage;
  };
  const inputs = () => ({ x: upload(size.x, 1), w: upload(size.w, 2), dy: upload(size.dy, 3) });
  const outputs = () => ({
    y: gpu.alloc(4 * size.dy, 'y'),
    dx: gpu.alloc(4 * size.x, 'dx'),
    dw: gpu.alloc(4 * size.w, 'dw'),
  });
  const bits = async (out: ReturnType<typeof outputs>) =>
    Object.fromEntries(
      await Promise.all(
        Object.entries(out).map(async ([name, s]) => [name, new Uint32Array(await gpu.read(s))]),
      ),
    ) as Record<string, Uint32Array>;

  test('is split', () => {
    expect(planGather('weightGrad', dims).parts).toBeGreaterThan(1);
    expect(planWindow('weightGrad', dims).parts).toBeGreaterThan(1);
  });

  test.each(convChecks(gpu, dims))(
    'gives the same bits twenty times: $kind on $name',
    async ({ check }) => {
      await expectSameBits(async () => ({ out: await check(gpu) }));
    },
  );

  test('replays to the bits of eager execution and makes no buffer on the way', async () => {
    const given = inputs();
    const eager = outputs();
    const replayed = outputs();
    const step = (out: ReturnType<typeof outputs>) => {
      convForward(gpu, { ...given, out: out.y, dims });
      convDataGrad(gpu, { ...given, out: out.dx, dims });
      convWeightGrad(gpu, { ...given, out: out.dw, dims });
    };
    const before = gpu.pool.stats().liveBlocks;
    step(eager);
    const expected = await bits(eager);
    step(eager);
    const live = gpu.pool.stats().liveBlocks;
    step(eager);
    expect(gpu.pool.stats().liveBlocks).toBe(live);
    expect(live - before).toBeLessThanOrEqual(9); // the tables of three convolutions, no scratch

    const program = await gpu
      .capture(() => {
        step(replayed);
        return [];
      })
      .build();
    const created = gpu.pool.stats().created;
    program.run();
    program.run();
    expect(await bits(replayed)).toEqual(expected);
    expect(gpu.pool.stats().created).toBe(created);
    program.destroy();
    expect(await gpu.brokenGuards()).toEqual([]);
  });
});
