import { Gpu } from '../../src/gpu/device.ts';
import { openTestGpu } from './device.ts';

/**
 * The device of this project's driver, said to launch at most `most` workgroups along an axis: small sizes then make the
 * grids that otherwise take 65,536 workgroups.
 */
export async function openNarrowGpu(most: number): Promise<Gpu> {
  const { device, adapter } = await openTestGpu();
  const limits = { ...adapter.limits, maxComputeWorkgroupsPerDimension: most };
  return new Gpu(device, { ...adapter, limits }, { guard: true });
}

/** The grids of everything that `body` launches, by kernel; nothing runs. */
export function gridsOf(gpu: Gpu, body: () => void): { name: string; grid: readonly number[] }[] {
  const { dispatches } = gpu.capture(() => {
    body();
    return [];
  });
  return dispatches.map(({ spec, grid }) => ({ name: spec.name, grid }));
}
