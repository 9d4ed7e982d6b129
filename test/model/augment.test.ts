// Training with DiffAugment: other bits than without, and the same ones after a stop.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { memoryDataset } from '../../src/data/memory.ts';
import { readNewestCheckpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { train } from '../../src/train/trainer.ts';
import { openTestGpu } from '../support/device.ts';
import { uniform } from '../support/random.ts';

const gpu = await openTestGpu();
const folder = mkdtempSync(join(tmpdir(), 'wgsagan-augment-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const next = uniform(3);
const dataset = memoryDataset({
  ...{ name: 'noise', description: '', fingerprint: 'noise', channels: 3, imageSize: 8 },
  classes: ['noise'],
  images: Uint8Array.from({ length: 6 * 3 * 64 }, () => next() * 256),
  labels: new Uint32Array(6),
});

/** The tensors of the last checkpoint of a run of so many steps. */
async function bitsOf(name: string, steps: number, more = {}) {
  const run = join(folder, name);
  const config = resolveConfig({
    ...{ data: 'noise', preset: 'sagan-32-tiny', imageSize: 8, width: 2, batch: 2, latentSize: 3 },
    ...{ steps, logEvery: 1, sampleEvery: 100, checkpointEvery: 100, ...more },
  });
  const resume = steps > 2 ? await readNewestCheckpoint(run).catch(() => undefined) : undefined;
  await train({ gpu, openData: () => Promise.resolve(dataset), config, run, resume });
  const { path } = await readNewestCheckpoint(run);
  const bytes = readFileSync(path);
  return bytes.subarray(8 + Number(bytes.readBigUInt64LE(0)));
}

test('a run that was stopped goes on to the same bits, which are others than without', async () => {
  const augment = ['color', 'translation', 'cutout'];
  const whole = await bitsOf('whole', 4, { augment });
  await bitsOf('parts', 2, { augment });
  expect((await bitsOf('parts', 4, { augment })).equals(whole)).toBe(true);
  expect((await bitsOf('plain', 4)).equals(whole)).toBe(false);
});

test.each([{ regularizer: 'r1' }, { regularizer: 'gp', precision: 'f16' }] as const)(
  'it goes with %j',
  async (more) => {
    if ('precision' in more && !gpu.features.has('shader-f16')) return;
    const augment = ['color', 'cutout'];
    const bits = await bitsOf(JSON.stringify(more), 2, { augment, ...more });
    expect(bits.length).toBeGreaterThan(0);
  },
);
