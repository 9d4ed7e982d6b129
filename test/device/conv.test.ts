import { describe, expect, test } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import {
  chooseConvDataGrad,
  chooseConvForward,
  chooseConvWeightGrad,
  convDataGrad,
  convDataGradLadder,
  convForward,
  convForwardLadder,
  convWeightGrad,
  convWeightGradLadder,
} from '../../src/kernels/conv.ts';
import type { ConvDims } from '../../src/kernels/conv.ts';
import { planGather } from '../../src/kernels/conv-plan.ts';
import type { ConvRung } from '../../src/kernels/conv.ts';
import { canRun } from '../../src/kernels/kernel.ts';
import { conv2d, conv2dBackward, convTranspose2d } from '../reference/conv.ts';
import type { Conv2d } from '../reference/conv.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { randomData } from '../support/random.ts';

const gpu = await openTestGpu();

type Pair = readonly [number, number];

interface Case {
  readonly N: number;
  readonly C: number;
  readonly K: number;
  readonly size: Pair;
  readonly window: Pair;
  readonly stride?: Pair;
  readonly pad?: Pair;
}

function dimsOf({ N, C, K, size, window, stride = [1, 1], pad = [0, 0] }: Case): ConvDims {
  const out = (i: 0 | 1) => Math.floor((size[i] + 2 * pad[i] - window[i]) / stride[i]) + 1;
  return {
    ...{ N, C, H: size[0], W: size[1], K, R: window[0], S: window[1], OH: out(0), OW: out(1) },
    ...{ strideH: stride[0], strideW: stride[1], padH: pad[0], padW: pad[1] },
  };
}

const title = (d: ConvDims) =>
  `N${d.N} ${d.C}→${d.K} ${d.H}×${d.W}→${d.OH}×${d.OW} window ${d.R}×${d.S}` +
  ` stride ${d.strideH},${d.strideW} pad ${d.padH},${d.padW}`;

const cases: readonly ConvDims[] = [
  // SAGAN's own: halving, from a latent and to one number, 3×3, 1×1.
  dimsOf({ N: 4, C: 3, K: 16, size: [16, 16], window: [4, 4], stride: [2, 2], pad: [1, 1] }),
  dimsOf({ N: 2, C: 16, K: 24, size: [8, 8], window: [4, 4], stride: [2, 2], pad: [1, 1] }),
  dimsOf({ N: 16, C: 24, K: 9, size: [4, 4], window: [4, 4] }),
  dimsOf({ N: 4, C: 33, K: 1, size: [4, 4], window: [4, 4] }),
  dimsOf({ N: 2, C: 12, K: 20, size: [8, 8], window: [3, 3], pad: [1, 1] }),
  dimsOf({ N: 2, C: 16, K: 3, size: [8, 8], window: [1, 1] }),
  dimsOf({ N: 4, C: 70, K: 66, size: [4, 4], window: [1, 1] }),
  // Size 1 everywhere, odd and prime sizes, unequal sides.
  dimsOf({ N: 1, C: 1, K: 1, size: [1, 1], window: [1, 1] }),
  dimsOf({ N: 1, C: 1, K: 1, size: [1, 1], window: [3, 3], pad: [1, 1] }),
  dimsOf({ N: 2, C: 5, K: 7, size: [1, 1], window: [3, 3], pad: [1, 1] }),
  dimsOf({ N: 3, C: 5, K: 7, size: [3, 5], window: [1, 1] }),
  dimsOf({ N: 1, C: 7, K: 5, size: [13, 11], window: [3, 5], pad: [1, 2] }),
  dimsOf({ N: 2, C: 3, K: 5, size: [11, 7], window: [2, 3], stride: [2, 1], pad: [0, 1] }),
  dimsOf({ N: 3, C: 2, K: 3, size: [10, 13], window: [5, 2], stride: [3, 2], pad: [2, 0] }),
  dimsOf({ N: 1, C: 4, K: 4, size: [17, 17], window: [3, 3], stride: [3, 3], pad: [2, 1] }),
  // The window is smaller than the stride: some phases meet no tap. Pixels that no window covers.
  dimsOf({ N: 2, C: 3, K: 4, size: [9, 8], window: [2, 1], stride: [3, 3], pad: [0, 1] }),
  dimsOf({ N: 2, C: 6, K: 5, size: [6, 6], window: [1, 1], stride: [2, 2] }),
  dimsOf({ N: 2, C: 3, K: 2, size: [5, 5], window: [1, 1], pad: [1, 1] }),
  // One output along an axis while the image is longer than the window.
  dimsOf({ N: 2, C: 3, K: 4, size: [7, 6], window: [3, 2], stride: [9, 1] }),
  // More than one tile in every direction, parts of unequal length.
  dimsOf({ N: 5, C: 9, K: 71, size: [12, 15], window: [3, 3], pad: [1, 1] }),
  dimsOf({ N: 3, C: 5, K: 6, size: [12, 20], window: [1, 1] }),
  dimsOf({ N: 16, C: 2, K: 3, size: [9, 9], window: [3, 3], stride: [2, 2], pad: [1, 1] }),
];

interface Inputs {
  readonly reference: Conv2d;
  readonly x: Float64Array;
  readonly w: Float64Array;
  readonly dy: Float64Array;
  readonly biasK: Float64Array;
  readonly biasC: Float64Array;
}

function inputsOf(d: ConvDims): Inputs {
  const x = randomData(d.N * d.C * d.H * d.W, 1);
  const w = randomData(d.K * d.C * d.R * d.S, 2);
  const dy = randomData(d.N * d.K * d.OH * d.OW, 3);
  const reference: Conv2d = {
    ...{ x, w, N: d.N, C: d.C, H: d.H, W: d.W, K: d.K, R: d.R, S: d.S },
    ...{ stride: [d.strideH, d.strideW], pad: [d.padH, d.padW] },
  };
  return { reference, x, w, dy, biasK: randomData(d.K, 4), biasC: randomData(d.C, 5) };
}

function upload(device: Gpu, data: Float64Array, label: string) {
  const storage = device.alloc(4 * data.length, label);
  device.write(storage, Float32Array.from(data));
  return storage;
}

async function download(storage: ReturnType<Gpu['alloc']>) {
  return new Float32Array(await gpu.read(storage));
}

/** Each rung that serves the sizes, with `test`, or with `test.skip` where the device lacks what the rung needs. */
function eachRung<Args>(
  ladder: readonly ConvRung<Args>[],
  dims: ConvDims,
  body: (rung: ConvRung<Args>, testOrSkip: typeof test | typeof test.skip) => void,
): void {
  for (const rung of ladder.filter((r) => r.fits(dims))) {
    body(rung, canRun(gpu, rung.kernel) ? test : test.skip);
  }
}

describe.each(cases.map((dims) => ({ name: title(dims), dims })))('$name', ({ dims }) => {
  const { reference, x, w, dy, biasK, biasC } = inputsOf(dims);
  const channels = (y: Float64Array, bias: Float64Array, area: number, r: (v: number) => number) =>
    y.map((v, i) => r(v + bias[Math.floor(i / area) % bias.length]!));

  for (const withBias of [false, true]) {
    const suffix = withBias ? ' with bias' : '';

    const forward = () => {
      const options = withBias ? { ...reference, bias: biasK } : reference;
      const expected = conv2d(options, f64);
      return { expected, allowed: budget(expected, conv2d(options, f32)) };
    };
    eachRung(convForwardLadder, dims, (rung, testOrSkip) => {
      testOrSkip(`forward on ${rung.kernel.name}${suffix}`, async () => {
        const { expected, allowed } = forward();
        const out = gpu.alloc(4 * expected.length, 'y');
        const bias = withBias ? upload(gpu, biasK, 'bias') : undefined;
        rung.run(gpu, { x: upload(gpu, x, 'x'), w: upload(gpu, w, 'w'), out, bias, dims });
        expectClose(await download(out), expected, allowed, rung.kernel.name);
      });
    });

    const dataGrad = () => {
      const area = dims.H * dims.W;
      const run = (r: (v: number) => number) => {
        const { dx } = conv2dBackward(reference, dy, r);
        return withBias ? channels(dx, biasC, area, r) : dx;
      };
      const expected = run(f64);
      return { expected, allowed: budget(expected, run(f32)) };
    };
    eachRung(convDataGradLadder, dims, (rung, testOrSkip) => {
      testOrSkip(`data gradient on ${rung.kernel.name}${suffix}`, async () => {
        const { expected, allowed } = dataGrad();
        const out = gpu.alloc(4 * expected.length, 'dx');
        const bias = withBias ? upload(gpu, biasC, 'bias') : undefined;
        rung.run(gpu, { dy: upload(gpu, dy, 'dy'), w: upload(gpu, w, 'w'), out, bias, dims });
        expectClose(await download(out), expected, allowed, rung.kernel.name);
      });
    });
  }

  eachRung(convWeightGradLadder, dims, (rung, testOrSkip) => {
    testOrSkip(`weight gradient on ${rung.kernel.name}`, async () => {
      const expected = conv2dBackward(reference, dy, f64).dw;
      const allowed = budget(expected, conv2dBackward(reference, dy, f32).dw);
      const out = gpu.alloc(4 * expected.length, 'dw');
      rung.run(gpu, { x: upload(gpu, x, 'x'), dy: upload(gpu, dy, 'dy'), out, dims });
      expectClose(await download(out), expected, allowed, rung.kernel.name);
    });
  });

  test('the adapter gets rungs that fit and that it can run', async () => {
    for (const rung of [
      chooseConvForward(gpu, dims),
      chooseConvDataGrad(gpu, dims),
      chooseConvWeightGrad(gpu, dims),
    ]) {
      expect(rung.fits(dims), rung.kernel.name).toBe(true);
      expect(canRun(gpu, rung.kernel), rung.kernel.name).toBe(true);
    }
    expect(await gpu.brokenGuards()).toEqual([]);
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
    for (const rung of convDataGradLadder.filter((r) => r.fits(dims) && canRun(gpu, r.kernel))) {
      const out = gpu.alloc(4 * expected.length, 'y');
      const tensors = {
        dy: upload(gpu, x, 'x'),
        w: upload(gpu, w, 'w'),
        bias: upload(gpu, bias, 'b'),
      };
      rung.run(gpu, { ...tensors, out, dims });
      expectClose(await download(out), expected, budget(expected, run(f32)), rung.kernel.name);
    }
    expect(await gpu.brokenGuards()).toEqual([]);
  });
});

describe('a halving convolution whose weight gradient is split', () => {
  const dims = dimsOf({
    N: 16,
    C: 3,
    K: 7,
    size: [9, 9],
    window: [4, 4],
    stride: [2, 2],
    pad: [1, 1],
  });
  const { x, w, dy } = inputsOf(dims);
  const inputs = () => ({
    x: upload(gpu, x, 'x'),
    w: upload(gpu, w, 'w'),
    dy: upload(gpu, dy, 'dy'),
  });
  const outputs = () => ({
    y: gpu.alloc(4 * dy.length, 'y'),
    dx: gpu.alloc(4 * x.length, 'dx'),
    dw: gpu.alloc(4 * w.length, 'dw'),
  });
  const bits = async (out: ReturnType<typeof outputs>) =>
    Object.fromEntries(
      await Promise.all(
        Object.entries(out).map(async ([name, s]) => [name, new Uint32Array(await gpu.read(s))]),
      ),
    ) as Record<string, Uint32Array>;

  test('is split', () => {
    expect(planGather('weightGrad', dims).parts).toBeGreaterThan(1);
  });

  test('gives the same bits twenty times, on every rung', async () => {
    const given = inputs();
    const out = outputs();
    for (const [i, forward] of convForwardLadder.entries()) {
      const rungs = [forward, convDataGradLadder[i]!, convWeightGradLadder[i]!] as const;
      if (!rungs.every((rung) => rung.fits(dims) && canRun(gpu, rung.kernel))) continue;
      let first: Record<string, Uint32Array> | undefined;
      for (let round = 0; round < 20; round++) {
        rungs[0].run(gpu, { ...given, out: out.y, dims });
        rungs[1].run(gpu, { ...given, out: out.dx, dims });
        rungs[2].run(gpu, { ...given, out: out.dw, dims });
        const now = await bits(out);
        first ??= now;
        expect(now).toEqual(first);
      }
    }
  });

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
