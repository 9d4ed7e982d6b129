import type { Gpu } from './device.ts';
import { encode } from './recorder.ts';
import type { Encodable } from './recorder.ts';

/** Which clock a time was read from: the GPU's own, or the host's where there is no `timestamp-query`. */
export type Clock = 'gpu' | 'wall';

/** A query set holds 4096 time stamps at most, two a pass. */
const mostPasses = 2048;

export function clockOf(gpu: Gpu): Clock {
  return gpu.features.has('timestamp-query') ? 'gpu' : 'wall';
}

/**
 * Runs each list of launches in a pass of its own, in order, and returns the passes' times (ms). On the host's clock a
 * time holds a submit and a wait besides. What has never run may compile in its first pass: warm up before.
 */
export async function timePasses(
  gpu: Gpu,
  passes: readonly (readonly Encodable[])[],
): Promise<number[]> {
  gpu.flush();
  const times: number[] = [];
  if (clockOf(gpu) === 'wall') {
    for (const entries of passes) times.push(await timeOnHost(gpu, entries));
    return times;
  }
  for (let start = 0; start < passes.length; start += mostPasses) {
    times.push(...(await timeOnGpu(gpu, passes.slice(start, start + mostPasses))));
  }
  return times;
}

async function timeOnGpu(gpu: Gpu, passes: readonly (readonly Encodable[])[]): Promise<number[]> {
  const { device } = gpu;
  const count = 2 * passes.length;
  const querySet = device.createQuerySet({ type: 'timestamp', count });
  const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const resolve = device.createBuffer({ size: 8 * count, usage: QUERY_RESOLVE | COPY_SRC });
  const host = device.createBuffer({ size: 8 * count, usage: COPY_DST | MAP_READ });
  try {
    const encoder = device.createCommandEncoder();
    passes.forEach((entries, i) => {
      const [beginningOfPassWriteIndex, endOfPassWriteIndex] = [2 * i, 2 * i + 1];
      const timestampWrites = { querySet, beginningOfPassWriteIndex, endOfPassWriteIndex };
      const pass = encoder.beginComputePass({ timestampWrites });
      encode(pass, entries);
      pass.end();
    });
    encoder.resolveQuerySet(querySet, 0, count, resolve, 0);
    encoder.copyBufferToBuffer(resolve, 0, host, 0, 8 * count);
    device.queue.submit([encoder.finish()]);
    await gpu.wait(host.mapAsync(GPUMapMode.READ));
    const stamps = new BigUint64Array(host.getMappedRange());
    return passes.map((_entries, i) => {
      return Number((stamps[2 * i + 1] ?? 0n) - (stamps[2 * i] ?? 0n)) / 1e6;
    });
  } finally {
    host.destroy();
    resolve.destroy();
    querySet.destroy();
  }
}

async function timeOnHost(gpu: Gpu, entries: readonly Encodable[]): Promise<number> {
  await gpu.sync();
  const start = performance.now();
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  encode(pass, entries);
  pass.end();
  gpu.device.queue.submit([encoder.finish()]);
  await gpu.sync();
  return performance.now() - start;
}
