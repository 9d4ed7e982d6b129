// What ends a run in its middle: every failed write names the file, and the checkpoint to go on from.
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { memoryDataset } from '../../src/data/memory.ts';
import { checkpointFolder, readNewestCheckpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { readMetrics, runPaths } from '../../src/train/run-folder.ts';
import { type TrainEvents, train } from '../../src/train/trainer.ts';
import { UserError } from '../../src/util/errors.ts';
import { openTestGpu } from '../support/device.ts';
import { uniform } from '../support/random.ts';

const gpu = await openTestGpu();

const config = resolveConfig({
  ...{ data: 'noise', preset: 'sagan-32-tiny', imageSize: 8, width: 2, batch: 2, latentSize: 3 },
  ...{ steps: 8, logEvery: 1, sampleEvery: 2, checkpointEvery: 3 },
});
const next = uniform(3);
const noise = (imageSize: number) =>
  memoryDataset({
    ...{ name: 'noise', description: '', fingerprint: 'noise', channels: 3, imageSize },
    classes: ['noise'],
    images: Uint8Array.from({ length: 6 * 3 * imageSize ** 2 }, () => next() * 256),
    labels: new Uint32Array(6),
  });
const dataset = noise(8);

let folder = '';
let run = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'wgsagan-trainer-'));
  run = join(folder, 'run');
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const start = (events: TrainEvents, more = {}) =>
  train({ gpu, openData: () => Promise.resolve(dataset), config, run, events, ...more });
const checkpointAt = (step: number) =>
  join(checkpointFolder(run), `step-000000${step}.safetensors`);

test('the next steps are encoded while one runs, and losses are read late', async () => {
  const larger = resolveConfig({
    ...{ data: 'noise', preset: 'sagan-32-tiny', batch: 16, steps: 12, logEvery: 1 },
    ...{ sampleEvery: 100, checkpointEvery: 100 },
  });
  const leads: number[] = [];
  let arrived = 0;
  await start(
    {
      onStep: (step) => leads.push(step - arrived),
      onMetrics: ({ step }) => (arrived = step),
    },
    { config: larger, openData: () => Promise.resolve(noise(32)) },
  );
  expect(arrived).toBe(12);
  // The ring holds three steps whose losses have not arrived. A fast GPU may be done before there is another batch.
  expect(Math.max(...leads)).toBeLessThanOrEqual(3);
  if (gpu.adapter.kind === 'software') expect(Math.max(...leads)).toBeGreaterThan(1);
});

test('told to stop before its first step, a run that goes on takes none, and is saved where it stood', async () => {
  await start({}, { config: { ...config, steps: 3 } });
  const resume = await readNewestCheckpoint(run);
  const stop = { requested: false };
  const told: unknown[] = [];
  const onResume = (path: string, step: number) => {
    told.push([path, step]);
    stop.requested = true;
  };
  const ended = await start({ onResume, onStep: (step) => told.push(step) }, { resume, stop });
  expect([ended.step, ended.why]).toEqual([3, 'stopped']);
  expect(told).toEqual([[checkpointAt(3), 3]]);
  const again = await readNewestCheckpoint(run);
  expect(again.progress).toEqual(resume.progress);
  expect(again.file.tensors).toEqual(resume.file.tensors);
  expect((await start({}, { resume: again })).step).toBe(8);
});

describe('a write that fails', () => {
  const whole = () => `${checkpointAt(3)} is whole: go on from it by --resume`;

  /** Runs until `spoil`, called at the first checkpoint, makes a write fail; then goes on to the end. */
  async function failAfterCheckpoint(spoil: () => void, mend: () => void, message: string) {
    let done = false;
    const failure = start({
      onCheckpoint: () => {
        if (!done) spoil();
        done = true;
      },
    });
    await expect(failure).rejects.toThrow(new UserError(message));
    mend();
    for (const inside of [run, checkpointFolder(run), runPaths(run).samples]) {
      expect(readdirSync(inside).filter((name) => name.endsWith('.tmp'))).toEqual([]);
    }
    const resume = await readNewestCheckpoint(run);
    expect(resume.progress.step).toBe(3);
    const { step, why } = await start({}, { resume });
    expect({ step, why }).toEqual({ step: 8, why: 'finished' });
    expect(readMetrics(run).map((line) => line.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  }

  test('of a checkpoint', async () => {
    const taken = checkpointAt(6);
    await failAfterCheckpoint(
      () => mkdirSync(taken),
      () => {
        rmSync(taken, { recursive: true });
      },
      `cannot write ${taken}: it is a folder, not a file (EISDIR); ${whole()}`,
    );
  });

  test('of a grid', async () => {
    const { samples } = runPaths(run);
    const away = join(folder, 'away');
    await failAfterCheckpoint(
      () => {
        renameSync(samples, away);
        writeFileSync(samples, '');
      },
      () => {
        rmSync(samples);
        renameSync(away, samples);
      },
      `cannot write ${join(samples, 'step-0000004.png')}: a part of the path is a file, not a folder (ENOTDIR); ${whole()}`,
    );
  });

  test('of a line of metrics', async () => {
    const { metrics } = runPaths(run);
    const away = join(folder, 'away');
    await failAfterCheckpoint(
      () => {
        renameSync(metrics, away);
        mkdirSync(metrics);
      },
      () => {
        rmSync(metrics, { recursive: true });
        renameSync(away, metrics);
      },
      `cannot write ${metrics}: it is a folder, not a file (EISDIR); ${whole()}`,
    );
  });

  test('before there is a checkpoint', async () => {
    const { samples } = runPaths(run);
    const failure = start({
      onReady: () => {
        rmSync(samples, { recursive: true });
      },
    });
    await expect(failure).rejects.toThrow(
      new UserError(
        `cannot write ${join(samples, 'step-0000002.png')}: no such file or folder (ENOENT); ` +
          `${run} has no checkpoint yet: begin it again by --resume`,
      ),
    );
  });
});
