// Random draws.
import { describe, expect, test } from 'vitest';
import { Tape } from '../../src/autograd/tape.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { Rng } from '../../src/ops/random.ts';
import { HostRng } from '../../src/util/philox.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu();
const tape = new Tape(gpu);

describe('random numbers', () => {
  test('streams of a step differ, steps differ, and a restored stream repeats them', async () => {
    const rng = new Rng(tape, 5);
    const step = async () => {
      const draws = [rng.normal([6]), rng.normal([6]), rng.uniform([6])];
      const values = await Promise.all(draws.map(async (t) => [...(await t.read())]));
      rng.advance();
      return values;
    };
    const [first, second] = [await step(), await step()];
    expect(new Set([...first, ...second].map(String)).size).toBe(6);
    rng.restore(1);
    expect(await step()).toEqual(second);
    expect(await new Rng(tape, 5, 1).normal([6]).read()).toEqual(Float32Array.from(second[0]!));
    expect([...(await new Rng(tape, 6).normal([6]).read())]).not.toEqual(first[0]);
  });

  test('a step that was given up half-way leaves no trace', async () => {
    const rng = new Rng(tape, 5);
    expect(() =>
      gpu.capture(() => {
        rng.normal([6]);
        throw new Error('given up');
      }),
    ).toThrow('given up');
    rng.begin();
    expect(await rng.normal([6]).read()).toEqual(await new Rng(tape, 5).normal([6]).read());
  });

  test('no stream of the host meets one of the GPU', async () => {
    const host = new HostRng(1, { stream: [3, 0] });
    const own = Array.from({ length: 64 }, () => Math.fround(host.normal()));
    const device = new Set(await new Rng(tape, 1, 3).normal([256]).read());
    expect(own.filter((x) => [...device].some((y) => Math.abs(x - y) < 1e-6))).toEqual([]);
  });

  test('draws keep their bounds, mean and deviation', async () => {
    const rng = new Rng(tape, 2 ** 40 + 3);
    const uniform = await rng.uniform([4096], { low: -2, high: 3 }).read();
    expect(uniform.every((x) => x >= -2 && x < 3)).toBe(true);
    const normal = await rng.normal([4096], { mean: 5, std: 2 }).read();
    const mean1 = normal.reduce((s, x) => s + x, 0) / 4096;
    const variance = normal.reduce((s, x) => s + (x - mean1) ** 2, 0) / 4096;
    // five standard errors
    expect(Math.abs(mean1 - 5)).toBeLessThan((5 * 2) / 64);
    expect(Math.abs(variance - 4)).toBeLessThan((5 * 4 * Math.SQRT2) / 64);
    const ints = await rng.int([4096], 10).readU32();
    expect([...new Set(ints)].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  test('uniform numbers stay below their upper bound where they are few', async () => {
    const rng = new Rng(tape, 3);
    // Eight floats lie in [2²⁰, 2²⁰ + 1): a sixteenth of the words would round up to the bound.
    const low = 2 ** 20;
    const n = 1 << 14;
    const bins = new Float64Array(8);
    for (const x of await rng.uniform([n], { low, high: low + 1 }).read()) {
      expect(x >= low && x < low + 1).toBe(true);
      bins[(x - low) * 8]!++;
    }
    const chi = bins.reduce((s, found) => s + (found - n / 8) ** 2 / (n / 8), 0);
    // 7 degrees of freedom: mean 7, deviation √14; five deviations
    expect(chi).toBeLessThan(7 + 5 * Math.sqrt(14));
    expect([...(await rng.uniform([3], { low: 2, high: 2 }).read())]).toEqual([2, 2, 2]);
  });

  test('a replayed program draws new numbers at every step', async () => {
    const rng = new Rng(tape, 11);
    let drawn: Tensor | undefined;
    const program = await gpu
      .capture(() => {
        drawn = rng.normal([8]);
        rng.advance();
        return [drawn.storage];
      })
      .build();
    const eager = new Rng(tape, 11);
    for (let i = 0; i < 3; i++) {
      program.run();
      const expected = await eager.normal([8]).read();
      eager.advance();
      expect(await drawn!.read()).toEqual(expected);
    }
    program.destroy();
  });

  test('a seed that is no whole number is refused', () => {
    expect(() => new Rng(tape, -1)).toThrow('seed -1 is not a whole number from 0 to 2⁵³');
    expect(() => new Rng(tape, 1.5)).toThrow('seed 1.5 is not a whole number');
  });
});

test('random draws: nothing was written outside a block', async () => {
  expect(await gpu.brokenGuards()).toEqual([]);
});
