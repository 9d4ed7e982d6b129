// Convolutions at the edges of the device: grids past the limit of workgroups, empty batches, and tables that come and go.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, inject, test } from 'vitest';
import type { Gpu } from '../../src/gpu/device.ts';
import {
  convDataGradLadder,
  convForwardLadder,
  convWeightGradLadder,
} from '../../src/kernels/conv.ts';
import type { ConvDims } from '../../src/kernels/conv.ts';
import { mostPlans } from '../../src/kernels/conv-tables.ts';
import type { Ladder } from '../../src/kernels/rung.ts';
import { broadcastLanes } from '../../src/kernels/kernel.ts';
import { rungNamed } from '../../src/kernels/rung.ts';
import { convChecks, convDims, convLengths } from '../support/conv.ts';
import { openTestGpu } from '../support/device.ts';
import { execute } from '../support/execute.ts';
import { gridsOf, openNarrowGpu } from '../support/narrow.ts';
import { randomFloats } from '../support/random.ts';

const gpu = await openTestGpu();
const window = 'conv/4_window';

/** Runs every rung of the three ladders whose name matches, in its default tile, and compares. */
async function checkRungs(device: Gpu, dims: ConvDims, names: RegExp): Promise<number> {
  const checks = convChecks(device, dims).filter(({ name }) => names.test(name));
  for (const { check } of checks) await check(device);
  return checks.length;
}

describe('grids past the limit', async () => {
  const narrow = await openNarrowGpu(2);

  test.each([
    convDims({ N: 3, C: 5, K: 70, size: 9, window: 3, pad: 1 }),
    convDims({ N: 5, C: 70, K: 3, size: 9, window: 4, stride: 2, pad: 1 }),
    convDims({ N: 9, C: 30, K: 130, size: 1, window: 3, pad: 1 }),
    convDims({ N: 2, C: 130, K: 5, size: 7, window: 4, stride: 3, pad: 2 }),
    convDims({ N: 5, C: 70, K: 130, size: 3, window: 1 }),
    convDims({ N: 67, C: 70, K: 5, size: 5, window: 1 }),
  ])('workgroups folded into a row find their tiles: %o', async (dims) => {
    expect(await checkRungs(narrow, dims, /tiled/)).toBeGreaterThanOrEqual(3);
  });

  test('on the register rungs too', async () => {
    // What comes before and after the kernel (border, sum of parts) lies in a row and is not folded: a higher limit.
    const wide = await openNarrowGpu(8);
    const window = convDims({ N: 16, C: 5, K: 9, size: 5, window: 3, pad: 1 });
    expect(await checkRungs(wide, window, /gather/)).toBe(3);
    const pointwise = convDims({ N: 70, C: 21, K: 12, size: 2, window: 1 });
    const passes = broadcastLanes(gpu) === undefined ? 0 : 3;
    expect(await checkRungs(wide, pointwise, /lanes/)).toBe(passes);
    expect(await wide.brokenGuards()).toEqual([]);
  });

  test
    .runIf(broadcastLanes(gpu) !== undefined)
    .each([
      convDims({ N: 16, C: 1, K: 2, size: 12, window: 3, pad: 1 }),
      convDims({ N: 16, C: 1, K: 1, size: [18, 20], window: 4, stride: 2, pad: 1 }),
      convDims({ N: 1, C: 1, K: 200, size: 4, window: 3, pad: 1 }),
    ])('on the window rung too: %o', async (dims) => {
    // Packing, frame and sum of parts lie in a row as well.
    const wide = await openNarrowGpu(12);
    const { dispatches } = wide.capture(() => {
      const [x, w, dy] = Object.values(convLengths(dims)).map((n) => wide.alloc(4 * n, 'operand'));
      rungNamed(convForwardLadder, window).run(wide, { x: x!, w: w!, out: dy!, dims });
      rungNamed(convDataGradLadder, window).run(wide, { dy: dy!, w: w!, out: x!, dims });
      rungNamed(convWeightGradLadder, window).run(wide, { x: x!, dy: dy!, out: w!, dims });
      return [];
    });
    const folded = dispatches.filter(({ spec }) => spec.code.includes('const FOLDED = true;'));
    expect(folded.length).toBeGreaterThanOrEqual(2);
    expect(await checkRungs(wide, dims, /window/)).toBe(3);
    expect(await wide.brokenGuards()).toEqual([]);
  });

  test('nothing was written outside the outputs', async () => {
    expect(await narrow.brokenGuards()).toEqual([]);
  });

  test.each([
    convDims({ N: 256, C: 3, K: 1, size: 128, window: 3, pad: 1 }),
    convDims({ N: 70_000, C: 1, K: 1, size: 1, window: 1 }),
    convDims({ N: 1, C: 1, K: 4_200_000, size: 1, window: 1 }),
    convDims({ N: 1, C: 4_200_000, K: 1, size: 1, window: 1 }),
    convDims({ N: 1, C: 1, K: 1, size: 300, window: 300 }),
  ])('every rung for GPUs has a grid: %o', (dims) => {
    const grids = gridsOf(gpu, () => {
      const size = convLengths(dims);
      const [x, w, dy] = [size.x, size.w, size.dy].map((n) => gpu.alloc(4 * n, 'operand'));
      const tiled = <Args, O extends string>({ rungs }: Ladder<ConvDims, Args, O>) =>
        rungs.filter((rung) => rung.fits(gpu, dims) && rung.name.endsWith('tiled'));
      for (const rung of tiled(convForwardLadder)) rung.run(gpu, { x: x!, w: w!, out: dy!, dims });
      for (const rung of tiled(convDataGradLadder))
        rung.run(gpu, { dy: dy!, w: w!, out: x!, dims });
      for (const rung of tiled(convWeightGradLadder))
        rung.run(gpu, { x: x!, dy: dy!, out: w!, dims });
    });
    expect(grids.length).toBeGreaterThanOrEqual(3);
    for (const { name, grid } of grids) {
      expect(Math.max(...grid), name).toBeLessThanOrEqual(65_535);
    }
  });

  test('70,000 images of one pixel', async () => {
    const dims = convDims({ N: 70_000, C: 1, K: 1, size: 1, window: 1 });
    expect(await checkRungs(gpu, dims, /direct|gather/)).toBe(6);
  });

  // SwiftShader takes minutes for the barriers.
  const patient = test.skipIf(inject('driver') === 'swiftshader');
  patient('one image of more pixels than 65,535 tiles of 64', async () => {
    const dims = convDims({ N: 1, C: 1, K: 1, size: 2049, window: 1 });
    const x = randomFloats(2049 * 2049, 1);
    const tiled = rungNamed(convForwardLadder, 'conv/forward_3_tiled');
    const { out } = await execute(
      gpu,
      { x, w: Float32Array.of(2), out: x.length },
      (s) => {
        tiled.run(gpu, { ...s, dims });
      },
      ['out'],
    );
    expect(out.findIndex((y, i) => y !== 2 * x[i]!)).toBe(-1);
  });
});

describe('an empty batch', () => {
  test.each([
    convDims({ N: 0, C: 3, K: 5, size: 8, window: 4, stride: 2, pad: 1 }),
    convDims({ N: 0, C: 3, K: 5, size: 8, window: 1 }),
    convDims({ N: 0, C: 3, K: 5, size: 3, window: 1 }),
  ])('has a weight gradient of zeros, and no images, on every rung: %o', async (dims) => {
    for (const { kind, name, check } of convChecks(gpu, dims)) {
      const out = await check(gpu);
      if (kind === 'weight gradient') expect(new Set(out), name).toEqual(new Set([0]));
      else expect(out).toHaveLength(0);
    }
    expect(await gpu.brokenGuards()).toEqual([]);
  });
});

describe('the tables of convolutions on a software driver', async () => {
  // A device of their own: what else ran on it would count.
  const own = await openTestGpu();
  const gather = 'conv/2_gather';
  const shape = (N: number, size: number) => convDims({ N, C: 2, K: 3, size, window: 3, pad: 1 });

  /** Forward, data gradient and weight gradient on one rung, eagerly. */
  const runAll = (dims: ConvDims, rung = gather) => {
    own.scope(() => {
      const size = convLengths(dims);
      const [x, w, dy] = [size.x, size.w, size.dy].map((n) => own.alloc(4 * n, 'operand'));
      const args = { x: x!, w: w!, dy: dy!, dims };
      // Longer than the outputs: sizes come from the dims.
      const out = own.alloc(4 * Math.max(size.x, size.w, size.dy), 'out');
      rungNamed(convForwardLadder, rung).run(own, { ...args, out });
      rungNamed(convDataGradLadder, rung).run(own, { ...args, out });
      rungNamed(convWeightGradLadder, rung).run(own, { ...args, out });
    });
  };

  test('are bounded, whatever sizes come', async () => {
    for (let N = 1; N <= 20; N++) {
      runAll(shape(N, 6), window);
      runAll(shape(N, 6));
    }
    for (let size = 3; size < 40; size++) runAll(shape(2, size));
    // Those of the windows are gone.
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
    const size = convLengths(dims);
    const x = own.alloc(4 * size.x, 'x');
    const w = own.alloc(4 * size.w, 'w');
    const out = own.alloc(4 * size.dy, 'y');
    own.write(x, randomFloats(size.x, 1));
    own.write(w, randomFloats(size.w, 2));
    const replay = async (): Promise<Uint32Array[]> => {
      const program = await own
        .capture(() => {
          rungNamed(convForwardLadder, gather).run(own, { x, w, out, dims });
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
