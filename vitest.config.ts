import os from 'node:os';
import { defineConfig } from 'vitest/config';
import type { ProvidedContext } from 'vitest';
import { readManifest } from './src/gpu/platform.ts';

type Driver = ProvidedContext['driver'];

const MINUTES = 60_000;

/** The device layer runs on every software driver that set-up brought; where it brought none, on the system's own. */
const software = (['lavapipe', 'swiftshader'] as const).filter((name) => readManifest(name));
const drivers: readonly Driver[] = software.length > 0 ? software : ['auto'];

/** Most of a test's time on a software driver is one thread compiling. */
const workersFor = (driver: Driver) => {
  const cores = os.availableParallelism();
  return Math.max(1, driver === 'auto' ? Math.min(4, Math.floor(cores / 2)) : Math.min(2, cores));
};

const project = (name: string, folder: string, options: { driver: Driver; timeoutMs: number }) => ({
  test: {
    name,
    maxWorkers: name === 'browser' ? 1 : workersFor(options.driver),
    include: [`test/${folder}/**/*.test.ts`],
    provide: { driver: options.driver },
    testTimeout: options.timeoutMs,
    hookTimeout: options.timeoutMs,
    pool: 'forks' as const,
    setupFiles: ['test/support/equal-bytes.ts'],
    ...(folder === 'e2e' ? { globalSetup: ['test/support/installed.ts'] } : {}),
  },
});

const best = drivers[0] ?? 'auto';

export default defineConfig({
  test: {
    projects: [
      project('pure', 'pure', { driver: best, timeoutMs: MINUTES / 2 }),
      ...drivers.map((driver) =>
        project(`device-${driver}`, 'device', { driver, timeoutMs: 2 * MINUTES }),
      ),
      project('model', 'model', { driver: best, timeoutMs: 5 * MINUTES }),
      project('browser', 'browser', { driver: best, timeoutMs: MINUTES }),
      project('e2e', 'e2e', { driver: best, timeoutMs: 10 * MINUTES }),
    ],
  },
});
