// The measured roofs, and the clock that they are measured on.
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Gpu } from '../../src/gpu/device.ts';
import { clockOf, timePasses } from '../../src/gpu/timing.ts';
import { measurePeaks } from '../../src/kernels/peaks.ts';
import { total } from '../../src/kernels/pointwise.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu({ guard: false });
afterEach(() => vi.restoreAllMocks());

const n = 2 ** 18;

async function smallProgram() {
  const [a, b, out] = ['a', 'b', 'out'].map((label) => gpu.alloc(4 * n, label));
  gpu.write(a!, new Float32Array(n).fill(1));
  gpu.write(b!, new Float32Array(n).fill(2));
  const capture = gpu.capture(() => {
    for (let i = 0; i < 5; i++) total(gpu, { terms: [a!, b!], out: out!, n });
    return [];
  });
  return { program: await capture.build(), out: out! };
}

describe('timing', () => {
  test('the GPU clock is not quantised: its stamps differ by less than 65 microseconds', async () => {
    expect(gpu.adapter.toggles.disabled).toContain('timestamp_quantization');
    if (clockOf(gpu) === 'wall') return;
    const { program } = await smallProgram();
    const ns = (await program.times(20)).map((ms) => Math.round(ms * 1e6));
    expect(ns.filter((t) => t % 65536 !== 0)).not.toEqual([]);
    expect(Math.min(...ns)).toBeGreaterThan(0);
  });

  test('a pass holds as many launches as it is given, and every one ran', async () => {
    const { program, out } = await smallProgram();
    const [one = 0, all = 0] = await timePasses(gpu, [
      program.entries.slice(0, 1),
      Array.from({ length: 20 }, () => program.entries).flat(),
    ]);
    expect(one).toBeGreaterThan(0);
    expect(all).toBeGreaterThan(one);
    expect(new Float32Array(await gpu.read(out)).every((x) => x === 3)).toBe(true);
  });

  test('a program is timed launch by launch and as a whole', async () => {
    const { program } = await smallProgram();
    await program.times(1);
    const launches = await program.profile();
    expect(launches).toHaveLength(5);
    for (const { ms } of launches) expect(ms).toBeGreaterThan(0);
    expect(await program.times(3)).toHaveLength(3);
    program.destroy();
    await expect(program.times(1)).rejects.toThrow('the program was destroyed');
    await expect(program.profile()).rejects.toThrow('the program was destroyed');
  });

  test('without timestamp queries the wall clock takes their place', async () => {
    const { program } = await smallProgram();
    vi.spyOn(gpu.features, 'has').mockReturnValue(false);
    expect(clockOf(gpu)).toBe('wall');
    const launches = await program.profile();
    expect(launches).toHaveLength(5);
    for (const { ms } of launches) expect(ms).toBeGreaterThan(0);
  });
});

describe('peaks', () => {
  test('are positive numbers, and leave no memory behind', async () => {
    const before = gpu.pool.stats().liveBytes;
    const peaks = await measurePeaks(gpu);
    expect(peaks.clock).toBe(clockOf(gpu));
    expect(peaks.fmaGflops).toBeGreaterThan(0.1);
    expect(peaks.copyGBs).toBeGreaterThan(0.05);
    expect(peaks.f16Gflops !== undefined).toBe(gpu.features.has('shader-f16'));
    expect(peaks.matrixGflops !== undefined).toBe(
      gpu.adapter.matrixConfigs.some((config) => config.startsWith('f16→f32')),
    );
    expect(gpu.pool.stats().liveBytes).toBe(before);
  });

  test('are refused if the multiply-adds or the copy are wrong', async () => {
    const read = (storage: Parameters<Gpu['read']>[0]) => Gpu.prototype.read.call(gpu, storage);
    const spoil = (at: number) => {
      let call = 0;
      vi.spyOn(gpu, 'read').mockImplementation(async (storage) => {
        const bytes = await read(storage);
        if (call++ === at) new Uint32Array(bytes)[100]! ^= 2 ** 22;
        return bytes;
      });
    };
    spoil(0);
    await expect(measurePeaks(gpu)).rejects.toThrow('peak/fma is wrong: thread 100 has ');
    if (gpu.features.has('shader-f16')) {
      spoil(3);
      await expect(measurePeaks(gpu)).rejects.toThrow('peak/fma_f16 is wrong: thread 100 has ');
    }
    spoil(gpu.features.has('shader-f16') ? 4 : 3);
    await expect(measurePeaks(gpu)).rejects.toThrow('peak/stream is wrong: word 100 is ');
  });
});
