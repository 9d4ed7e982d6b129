// The tuning cache: a file an adapter, driver and engine version, and what becomes of one that is not whole.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeEach, expect, test, vi } from 'vitest';
import type { AdapterSummary } from '../../src/gpu/adapter.ts';
import { readTuned, tunedChoices, tunedPath, writeTuned } from '../../src/cli/tuned.ts';
import { kernelsOf } from '../../src/train/built.ts';

const cache = mkdtempSync(join(os.tmpdir(), 'wgsagan-tuned-'));
vi.stubEnv('XDG_CACHE_HOME', cache);
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true });
});
beforeEach(() => {
  rmSync(join(cache, 'wgsagan'), { recursive: true, force: true });
});

const adapter: AdapterSummary = {
  ...{ name: 'A GPU', kind: 'discrete', vendor: 'v', architecture: 'a', description: 'driver 1' },
  ...{ subgroupSizes: [32, 32], matrixConfigs: [], features: [], limits: {} },
  driver: { kind: 'system', version: null, vectorWidth: 128 },
  toggles: { enabled: [], disabled: [] },
};
const choices = new Map([
  ['matmul M=8', { rung: 'matmul/2_tiled', tile: { T: 16, FLAG: 'true' }, ms: 1, usualMs: 2 }],
]);

test('what was written is read back, and nothing temporary is left', async () => {
  expect(readTuned(adapter)).toMatchObject({ state: 'none', complaint: '' });
  const path = await writeTuned(adapter, choices);
  const read = readTuned(adapter);
  expect(read).toMatchObject({ state: 'good', path, complaint: '' });
  expect(read.choices).toEqual(choices);
  expect(Date.parse(read.made)).toBeGreaterThan(Date.now() - 60_000);
  expect(readdirSync(dirname(path))).toHaveLength(1);
});

test('another driver, vector width or adapter has a cache of its own', () => {
  const lavapipe = { kind: 'lavapipe', version: '25', vectorWidth: 128 } as const;
  const paths = [
    adapter,
    { ...adapter, name: 'B GPU' },
    { ...adapter, description: 'driver 2' },
    { ...adapter, driver: lavapipe },
    { ...adapter, driver: { ...lavapipe, vectorWidth: 256 as const } },
  ].map(tunedPath);
  expect(new Set(paths).size).toBe(paths.length);
  for (const path of paths) expect(path.startsWith(join(cache, 'wgsagan', 'tuning'))).toBe(true);
});

test.each([
  ['cut in its middle', (text: string) => text.slice(0, 90), /cannot be read \(/],
  ['of another make', () => '{"format": 2}', /is no tuning cache \(/],
  [
    'with a choice that is none',
    (text: string) => text.replace('"rung"', '"rnug"'),
    /\(choices\.matmul M=8\.rung\)/,
  ],
  [
    'of another driver',
    (text: string) => text.replace('driver 1', 'driver 0'),
    /is of A GPU, system driver 0, wgsagan/,
  ],
])('a file %s is ignored with one line that says how to go on', async (_what, spoil, message) => {
  const path = await writeTuned(adapter, choices);
  writeFileSync(path, spoil(readFileSync(path, 'utf8')));
  const told: string[] = [];
  const spy = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    told.push(String(text));
    return true;
  });
  expect(tunedChoices(adapter).size).toBe(0);
  spy.mockRestore();
  expect(told).toHaveLength(1);
  expect(told[0]).toMatch(message);
  expect(told[0]).toMatch(
    /^\S+\.json .*: what was tuned is not used; `wgsagan tune --force` makes it anew\n$/,
  );
  expect(readTuned(adapter).state).toBe('broken');
});

test('the kernels of a step are told apart by rung, tile and sizes, and not by their order', () => {
  const one = (rung: string, T: number) => ({
    ...{ ladder: 'matmul', sizes: { M: 8 }, choice: { rung, tile: { T } }, tuned: false },
  });
  const [a, b] = [one('matmul/1', 8), one('matmul/2', 8)];
  const known = kernelsOf(
    new Map([
      ['x', a],
      ['y', b],
    ]),
  );
  expect(
    kernelsOf(
      new Map([
        ['y', b],
        ['x', { ...a, tuned: true }],
      ]),
    ),
  ).toBe(known);
  expect(
    kernelsOf(
      new Map([
        ['x', b],
        ['y', a],
      ]),
    ),
  ).not.toBe(known);
  expect(
    kernelsOf(
      new Map([
        ['x', one('matmul/1', 16)],
        ['y', b],
      ]),
    ),
  ).not.toBe(known);
  expect(kernelsOf(new Map([['x', a]]))).not.toBe(known);
});
