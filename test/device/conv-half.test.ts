// The convolutions of tensors in f16 against the float64 loops: rungs that read them as they lie, and rungs of f32 between
// copies. Values are such as f16 holds, so that what remains is the order of an f32 sum and the rounding of the result.
import { describe, expect, test } from 'vitest';
import {
  convDataGradLadder,
  convForward,
  convForwardLadder,
  convWeightGradLadder,
} from '../../src/kernels/conv.ts';
import type { ConvSizes } from '../../src/kernels/conv.ts';
import { precisionOf } from '../../src/kernels/precision.ts';
import { choiceKey, pickDefault } from '../../src/kernels/rung.ts';
import type { Ladder } from '../../src/kernels/rung.ts';
import { convChecks, convDims, convLengths, convTitle } from '../support/conv.ts';
import { openTestGpu } from '../support/device.ts';
import { expectSameBits } from '../support/execute.ts';
import { openMatrixGpu } from '../support/matrices.ts';

const gpu = await openTestGpu();
const cores = await openMatrixGpu();
const f16 = gpu.features.has('shader-f16');

const cases: readonly ConvSizes[] = [
  // SAGAN's own: halving, from a latent, 3×3, 1×1.
  convDims({ N: 2, C: 3, K: 16, size: 8, window: 4, stride: 2, pad: 1 }),
  convDims({ N: 5, C: 24, K: 9, size: 4, window: 4 }),
  convDims({ N: 2, C: 12, K: 20, size: 8, window: 3, pad: 1 }),
  convDims({ N: 4, C: 70, K: 66, size: 4, window: 1 }),
  // A single number in each tensor; odd counts of elements, so that the last one shares its word with nothing.
  convDims({ N: 1, C: 1, K: 1, size: 1, window: 1 }),
  convDims({ N: 1, C: 3, K: 5, size: 3, window: 1 }),
  convDims({ N: 1, C: 7, K: 5, size: [13, 11], window: [3, 5], pad: [1, 2] }),
  convDims({ N: 3, C: 3, K: 3, size: [9, 13], window: [5, 3], stride: [3, 2], pad: [2, 0] }),
  // Positions of a weight gradient in parts.
  convDims({ N: 16, C: 2, K: 3, size: 9, window: 3, stride: 2, pad: 1 }),
].map((dims) => ({ ...dims, stored: 'f16' as const }));

describe.skipIf(!f16).each(cases.map((dims) => ({ name: convTitle(dims), dims })))(
  '$name',
  ({ dims }) => {
    for (const { kind, name, tiles, check } of convChecks(gpu, dims)) {
      test(`${kind} on ${name}`, async () => {
        await check(gpu, tiles[0]);
      });
    }

    for (const { kind, name, check } of convChecks(gpu, dims, { bias: true })) {
      if (kind === 'weight gradient') continue;
      test(`${kind} on ${name} with a bias in f32`, async () => {
        await check(gpu);
      });
    }

    for (const { kind, name, check } of convChecks(gpu, dims, { bias: true, slope: 0.2 })) {
      test(`${kind} on ${name} with a bias and an activation`, async () => {
        await check(gpu);
      });
    }
  },
);

test.skipIf(!f16)('the same bits twenty times, in parts and between copies', async () => {
  for (const { check } of convChecks(gpu, cases.at(-1)!)) {
    await expectSameBits(async () => ({ out: await check(gpu) }));
  }
});

const ladders = [convForwardLadder, convDataGradLadder, convWeightGradLadder] as const;
/** What an adapter gets of each ladder. */
const picks = (device: typeof gpu, dims: ConvSizes) => {
  const pick = <Args, O extends string>(ladder: Ladder<ConvSizes, Args, O>) => {
    const { rung, widened } = pickDefault(device, ladder, dims);
    return { name: rung.name, widened };
  };
  return [pick(convForwardLadder), pick(convDataGradLadder), pick(convWeightGradLadder)];
};

test.skipIf(!f16)('a software adapter widens, a GPU reads f16 as it lies', () => {
  const [halving, , , pointwise] = cases;
  for (const { name, widened } of [...picks(gpu, halving!), ...picks(gpu, pointwise!)]) {
    expect(widened, name).toBe(true);
    expect(name).toMatch(/4_window|2_gather|5_lanes/);
  }
  for (const { name, widened } of [...picks(cores!, halving!), ...picks(cores!, pointwise!)]) {
    expect(widened, name).toBe(false);
    expect(name).toMatch(/tensor_cores$/);
  }
  // Rounding has to be allowed: plain f32 never meets tensor cores.
  const floats = picks(cores!, { ...halving!, stored: undefined });
  expect(floats.map(({ name }) => name)).toEqual([
    ...['conv/forward_3_tiled', 'conv/data_grad_3_tiled', 'conv/weight_grad_3_tiled'],
  ]);
});

test('sizes of f32 name the same choice whichever way they are given', () => {
  const dims = convDims({ N: 1, C: 3, K: 5, size: 3, window: 1 });
  const key = (given: ConvSizes) => {
    const args = { dims: given } as Parameters<typeof convForwardLadder.dimsOf>[0];
    return choiceKey(convForwardLadder, convForwardLadder.dimsOf(args));
  };
  expect(key({ ...dims, stored: 'f32' })).toBe(key(dims));
  expect(key(dims)).not.toContain('stored');
  expect(key({ ...dims, stored: 'f16' })).toContain('stored=f16');
  expect(precisionOf({ stored: 'f32', precision: undefined })).toEqual({});
});

test('bytes count two an element of what is stored as f16, and four of a weight gradient', () => {
  const dims = cases[2]!;
  const { x, w, dy } = convLengths(dims);
  expect(convForwardLadder.bytes(dims)).toBe(2 * (x + w + dy));
  expect(convDataGradLadder.bytes(dims)).toBe(2 * (x + w + dy));
  expect(convWeightGradLadder.bytes(dims)).toBe(2 * (x + dy) + 4 * w);
  const floats = { ...dims, stored: undefined };
  for (const ladder of ladders) expect(ladder.bytes(floats)).toBe(4 * (x + w + dy));
});

test.skipIf(!f16)('the copies of a widened rung are given back, in no scope too', () => {
  const dims = cases[2]!;
  const { x, w, dy } = convLengths(dims);
  const [a, b, out] = [x, w, dy].map((n) => gpu.alloc(2 * n, 'operand'));
  const run = () => {
    convForward(gpu, { x: a!, w: b!, out: out!, dims });
  };
  run();
  const { liveBytes } = gpu.pool.stats();
  run();
  expect(gpu.pool.stats().liveBytes).toBe(liveBytes);
  for (const storage of [a!, b!, out!]) gpu.release(storage);
});

test('nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
