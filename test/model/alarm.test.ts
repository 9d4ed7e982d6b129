// The alarm on a training that is made to fail: a discriminator that learns far too fast, on images that are all bright.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { memoryDataset } from '../../src/data/memory.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { readNewestCheckpoint } from '../../src/train/checkpoint.ts';
import { readMetrics, runPaths } from '../../src/train/run-folder.ts';
import { train } from '../../src/train/trainer.ts';
import type { Alarm } from '../../src/train/watch.ts';
import { openTestGpu } from '../support/device.ts';
import { uniform } from '../support/random.ts';

const gpu = await openTestGpu();
const folder = mkdtempSync(join(tmpdir(), 'wgsagan-alarm-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

test('a sure discriminator is told once and recorded, and not told again by a run that goes on', async () => {
  const run = join(folder, 'run');
  const next = uniform(3);
  const dataset = memoryDataset({
    ...{ name: 'noise', description: '', fingerprint: 'noise', channels: 3, imageSize: 8 },
    classes: ['noise'],
    images: Uint8Array.from({ length: 32 * 3 * 64 }, () => 200 + next() * 56),
    labels: new Uint32Array(32),
  });
  const config = resolveConfig({
    ...{ data: 'noise', preset: 'sagan-32-tiny', imageSize: 8, width: 8, batch: 4, latentSize: 3 },
    ...{ lrD: 0.01, lrG: 1e-6, steps: 60, logEvery: 1, sampleEvery: 100, checkpointEvery: 5 },
  });
  const alarms: Alarm[] = [];
  const openData = () => Promise.resolve(dataset);
  const events = { onAlarm: (alarm: Alarm) => alarms.push(alarm) };
  await train({ gpu, openData, config, run, events });
  const saturations = alarms.filter(({ cause }) => cause === 'saturation');
  expect(saturations).toHaveLength(1);
  expect(saturations[0]!.text).toMatch(/sure of every image \(hinge loss \S+, D\(real\) /);
  const read = () =>
    readFileSync(runPaths(run).alarms, 'utf8')
      .trim()
      .split('\n')
      .map((text) => JSON.parse(text) as Alarm);
  expect(read()).toEqual(alarms);
  expect(readMetrics(run)).toHaveLength(60);

  const again: Alarm[] = [];
  const resume = await readNewestCheckpoint(run);
  const longer = { ...config, steps: 62 };
  const more = { onAlarm: (alarm: Alarm) => again.push(alarm) };
  await train({ gpu, openData, config: longer, run, resume, events: more });
  expect(again.filter(({ cause }) => cause === 'saturation')).toEqual([]);
  expect(read()).toEqual([...alarms, ...again]);
});
