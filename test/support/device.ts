import { afterAll, inject } from 'vitest';
import { openGpu } from '../../src/gpu/device.ts';
import type { Gpu, GpuOptions } from '../../src/gpu/device.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** The driver that this vitest project runs on. */
    driver: 'auto' | 'lavapipe' | 'swiftshader';
  }
}

/** The device of this project's driver, closed after the file. Guard bands and poison are on unless switched off. */
export async function openTestGpu(options: GpuOptions = {}): Promise<Gpu> {
  const gpu = await openGpu({ driver: inject('driver'), guard: true, ...options });
  afterAll(() => {
    gpu.close();
  });
  return gpu;
}
