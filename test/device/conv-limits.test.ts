// Convolutions at the edges of the device: grids past the limit of workgroups, empty batches, and tables that come and go.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, inject, test } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import {
  convDataGrad,
  convDataGradLadder,
  convForward,
  convForwardLadder,
  convWeightGrad,
  convWeightGradLadder,
} from '../../src/kernels/conv.ts';
import type { ConvDims, ConvRung } from '../../src/kernels/conv.ts';
import { mostPlans } from '../../src/kernels/conv-tables.ts';
import { canRun } from '../../src/kernels/kernel.ts';
import { conv2d, conv2dBackward } from '../reference/conv.ts';
import { budget, f32, f64 } from '../reference/naive.ts';
import { expectClose } from '../support/close.ts';
import { openTestGpu } from '../support/device.ts';
import { execute } from '../support/execute.ts';
import { gridsOf, openNarrowGpu } from '../support/narrow.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();

/** A square convolution. */
function square(sizes: {
  N: number;
  C: number;
  K: number;
  size: number;
  window: number;
  stride?: number;
  pad?: number;
}): ConvDims {
  const { N, C, K, size, window, stride = 1, pad = 0 } = sizes;
  const out = Math.floor((size + 2 * pad - window) / stride) + 1;
  return {
    ...{ N, C, H: size, W: size, K, R: window, S: window, OH: out, OW: out },
    ...{ strideH: stride, strideW: stride, padH: pad, padW: pad },
  };
}

const lengths = (d: ConvDims) => ({
  x: d.N * d.C * d.H * d.W,
  w: d.K * d.C * d.R * d.S,
  y: d.N * d.K * d.OH * d.OW,
});

const usable = <Args>(ladder: readonly ConvRung<Args>[], dims: ConvDims) =>
  ladder.filter((rung) => rung.fits(dims) && canRun(gpu, rung.kernel));

/** Runs every rung of the three ladders whose name matches, and compares. */
async function checkRungs(device: Gpu, dims: ConvDims, names: RegExp): Promise<number> {
  const size = lengths(dims);
  const [x, w, dy] = [randomFloats(size.x, 1), randomFloats(size.w, 2), randomFloats(size.y, 3)];
  const { N, C, H, W, K, R, S, strideH, strideW, padH, padW } = dims;
  const options = {
    ...{ x: Float64Array.from(x), w: Float64Array.from(w), N, C, H, W, K, R, S },
    ...{ stride: [strideH, strideW] as const, pad: [padH, padW] as const },
  };
  const exact = { y: conv2d(options, f64), ...conv2dBackward(options, Float64Array.from(dy), f64) };
  const naive = { y: conv2d(options, f32), ...conv2dBackward(options, Float64Array.from(dy), f32) };
  let checked = 0;
  const check = async (name: string, result: 'y' | 'dx' | 'dw', run: Runner) => {
    if (!names.test(name)) return;
    const contents = { x, w, dy, out: exact[result].length };
    const { out } = await execute(device, contents, run, ['out']);
    const allowed = budget(exact[result], naive[result]);
    expectClose(out, exact[result], allowed, `${name} ${JSON.stringify(dims)}`);
    checked += 1;
  };
  for (const rung of usable(convForwardLadder, dims)) {
    await check(rung.kernel.name, 'y', (s) => {
      rung.run(device, { ...s, dims });
    });
  }
  for (const rung of usable(convDataGradLadder, dims)) {
    await check(rung.kernel.name, 'dx', (s) => {
      rung.run(device, { ...s, dims });
    });
  }
  for (const rung of usable(convWeightGradLadder, dims)) {
    await check(rung.kernel.name, 'dw', (s) => {
      rung.run(device, { ...s, dims });
    });
  }
  return checked;
}

type Runner = (s: Record<'x' | 'w' | 'dy' | 'out', ReturnType<Gpu['alloc']>>) => void;

describe('grids past the limit', async () => {
  const narrow = await openNarrowGpu(2);

  test.each([
    square({ N: 3, C: 5, K: 70, size: 9, window: 3, pad: 1 }),
    square({ N: 5, C: 70, K: 3, size: 9, window: 4, stride: 2, pad: 1 }),
    square({ N: 9, C: 30, K: 130, size: 1, window: 3, pad: 1 }),
    square({ N: 2, C: 130, K: 5, size: 7, window: 4, stride: 3, pad: 2 }),
    square({ N: 5, C: 70, K: 130, size: 3, window: 1 }),
    square({ N: 67, C: 70, K: 5, size: 5, window: 1 }),
  ])('workgroups folded into a row find their tiles: %o', async (dims) => {
    expect(await checkRungs(narrow, dims, /tiled/)).toBeGreaterThanOrEqual(3);
  });

  test('on the register rungs too', async () => {
    // What comes before and after the kernel (border, sum of parts) lies in a row and is not folded: a higher limit.
    const wide = await openNarrowGpu(8);
    const window = square({ N: 16, C: 5, K: 9, size: 5, window: 3, pad: 1 });
    expect(await checkRungs(wide, window, /gather/)).toBe(3);
    const pointwise = square({ N: 70, C: 21, K: 9, size: 2, window: 1 });
    expect(await checkRungs(wide, pointwise, /1x1.*registers/)).toBe(3);
    expect(await wide.brokenGuards()).toEqual([]);
  });

  test('nothing was written outside the outputs', async () => {
    expect(await narrow.brokenGuards()).toEqual([]);
  });

  test.each([
    square({ N: 256, C: 3, K: 1, size: 128, window: 3, pad: 1 }),
    square({ N: 70_000, C: 1, K: 1, size: 1, window: 1 }),
    square({ N: 1, C: 1, K: 4_200_000, size: 1, window: 1 }),
    square({ N: 1, C: 4_200_000, K: 1, size: 1, window: 1 }),
    square({ N: 1, C: 1, K: 1, size: 300, window: 300 }),
  ])('every rung for GPUs has a grid: %o', (dims) => {
    const grids = gridsOf(gpu, () => {
      const size = lengths(dims);
      const io = {
        x: gpu.alloc(4 * size.x, 'x'),
        w: gpu.alloc(4 * size.w, 'w'),
        dy: gpu.alloc(4 * size.y, 'y'),
      };
      const tiled = <Args>(ladder: readonly ConvRung<Args>[]) =>
        usable(ladder, dims).filter((rung) => rung.kernel.name.endsWith('tiled'));
      for (const rung of tiled(convForwardLadder)) rung.run(gpu, { ...io, out: io.dy, dims });
      for (const rung of tiled(convDataGradLadder)) rung.run(gpu, { ...io, out: io.x, dims });
      for (const rung of tiled(convWeightGradLadder)) rung.run(gpu, { ...io, out: io.w, dims });
    });
    expect(grids.length).toBeGreaterThanOrEqual(3);
    for (const { name, grid } of grids) {
      expect(Math.max(...grid), name).toBeLessThanOrEqual(65_535);
    }
  });

  test('70,000 images of one pixel', async () => {
    const dims = square({ N: 70_000, C: 1, K: 1, size: 1, window: 1 });
    expect(await checkRungs(gpu, dims, /direct|gather/)).toBe(6);
  });

  // SwiftShader takes minutes for the barriers.
  const patient = test.skipIf(inject('driver') === 'swiftshader');
  patient('one image of more pixels than 65,535 tiles of 64', async () => {
    const dims = square({ N: 1, C: 1, K: 1, size: 2049, window: 1 });
    const x = randomFloats(2049 * 2049, 1);
    const [tiled] = usable(convForwardLadder, dims).filter((r) => /3_tiled/.test(r.kernel.name));
    const { out } = await execute(
      gpu,
      { x, w: Float32Array.of(2), out: x.length },
      (s) => {
        tiled!.run(gpu, { ...s, dims });
      },
      ['out'],
    );
    expect(out.findIndex((y, i) => y !== 2 * x[i]!)).toBe(-1);
  });
});

describe('an empty batch', () => {
  test.each([
    square({ N: 0, C: 3, K: 5, size: 8, window: 4, stride: 2, pad: 1 }),
    square({ N: 0, C: 3, K: 5, size: 8, window: 1 }),
    square({ N: 0, C: 3, K: 5, size: 3, window: 1 }),
  ])('has a weight gradient of zeros, and no images, on every rung: %o', async (dims) => {
    for (const rung of usable(convForwardLadder, dims)) {
      await execute(
        gpu,
        { x: 0, w: lengths(dims).w, out: 0 },
        (s) => {
          rung.run(gpu, { ...s, dims });
        },
        [],
      );
    }
    for (const rung of usable(convDataGradLadder, dims)) {
      await execute(
        gpu,
        { dy: 0, w: lengths(dims).w, out: 0 },
        (s) => {
          rung.run(gpu, { ...s, dims });
        },
        [],
      );
    }
    for (const rung of usable(convWeightGradLadder, dims)) {
      const { out } = await execute(
        gpu,
        { x: 0, dy: 0, out: lengths(dims).w },
        (s) => {
          rung.run(gpu, { ...s, dims });
        },
        ['out'],
      );
      expect(new Set(out), rung.kernel.name).toEqual(new Set([0]));
    }
    expect(await gpu.brokenGuards()).toEqual([]);
  });
});

describe('the tables of convolutions on a software driver', async () => {
  // A device of their own: what else ran on it would count.
  const own = await openTestGpu();
  const gather = convForwardLadder[1]!;
  const shape = (N: number, size: number) => square({ N, C: 2, K: 3, size, window: 3, pad: 1 });

  /** Forward, data gradient and weight gradient on the gather rung, eagerly. */
  const runAll = (dims: ConvDims) => {
    own.scope(() => {
      const size = lengths(dims);
      const [x, w, dy] = [size.x, size.w, size.y].map((n) => own.alloc(4 * n, 'operand'));
      const args = { x: x!, w: w!, dy: dy!, dims };
      const out = own.alloc(4 * Math.max(size.x, size.w, size.y), 'out');
      convForward(own, { ...args, out });
      convDataGrad(own, { ...args, out });
      convWeightGrad(own, { ...args, out });
      gather.run(own, { ...args, out });
      convDataGradLadder[1]!.run(own, { ...args, out });
      convWeightGradLadder[1]!.run(own, { ...args, out });
    });
  };

  test('are bounded, whatever sizes come', async () => {
    for (let N = 1; N <= 40; N++) runAll(shape(N, 6));
    for (let size = 3; size < 40; size++) runAll(shape(2, size));
    expect(own.pool.stats().liveBlocks).toBe(3 * mostPlans);
    // One plan of many megabytes drops the small ones.
    runAll(shape(64, 128));
    const { liveBlocks, liveBytes } = own.pool.stats();
    expect(liveBlocks).toBeLessThanOrEqual(3 * 3);
    expect(liveBytes).toBeLessThan(2 ** 26);
    runAll(shape(1, 4));
    await own.sync();
  });

  test('stay while a program reads them, and go when it is gone', async () => {
    const dims = shape(3, 5);
    const size = lengths(dims);
    const x = own.alloc(4 * size.x, 'x');
    const w = own.alloc(4 * size.w, 'w');
    const out = own.alloc(4 * size.y, 'y');
    own.write(x, randomFloats(size.x, 1));
    own.write(w, randomFloats(size.w, 2));
    const replay = async (): Promise<Uint32Array[]> => {
      const program = await own
        .capture(() => {
          gather.run(own, { x, w, out, dims });
          return [];
        })
        .build();
      program.run();
      const first = new Uint32Array(await own.read(out));
      // Every plan that the cache held gives way; the blocks that go back are used again by others.
      for (let N = 1; N <= mostPlans; N++) runAll(shape(N, 7));
      program.run();
      const second = new Uint32Array(await own.read(out));
      program.destroy();
      return [first, second];
    };
    const [first, second] = await replay();
    expect(second).toEqual(first);
    const collect = garbageCollector();
    const live = () => own.pool.stats().liveBlocks;
    const rest = 3 * mostPlans + 3; // the cache, x, w and out
    for (let i = 0; i < 50 && live() > rest; i++) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(live()).toBe(rest);
    expect(await own.brokenGuards()).toEqual([]);
  });
});

/** V8's collector, without a flag on the command line. */
function garbageCollector(): () => void {
  setFlagsFromString('--expose_gc');
  return runInNewContext('gc') as () => void;
}
