// A NaN put into a training from outside: whatever it begins in, the step is named, what was saved before it is good, and a
// run that may go back to that is one that never had it.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, inject, test, vi } from 'vitest';
import { memoryDataset } from '../../src/data/memory.ts';
import { openGpu } from '../../src/gpu/device.ts';
import type * as capacity from '../../src/train/capacity.ts';
import { checkpointFolder, readCheckpoint } from '../../src/train/checkpoint.ts';
import type { Checkpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import type { Learner } from '../../src/train/learner.ts';
import type { TrainConfig } from '../../src/train/options.ts';
import { trainWithRollbacks } from '../../src/train/rollback.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { uniform } from '../support/random.ts';

/** What the trainer makes of its config, which it shows nobody. */
let learner: Learner | undefined;
vi.mock('../../src/train/capacity.ts', async (original) => {
  const real = await original<typeof capacity>();
  const createLearnerThatFits: typeof real.createLearnerThatFits = (...args) =>
    (learner = real.createLearnerThatFits(...args));
  return { ...real, createLearnerThatFits };
});

const next = uniform(3);
const dataset = memoryDataset({
  ...{ name: 'noise', description: '', fingerprint: 'noise', channels: 3, imageSize: 8 },
  ...{ classes: ['noise'], labels: new Uint32Array(6) },
  images: Uint8Array.from({ length: 6 * 3 * 8 ** 2 }, () => next() * 256),
});

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'wgsagan-nan-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const half = 0.5;
const config = resolveConfig({
  ...{ data: 'noise', preset: 'sagan-32-tiny', imageSize: 8, width: 2, batch: 2, latentSize: 3 },
  ...{ steps: 8, logEvery: 1, sampleEvery: 8, checkpointEvery: 2, rollbackFactor: half },
});

/** Trains into `run`; `poisoned` is the module that gets a NaN before step 6, once. */
async function train(
  run: string,
  { poisoned, resume, ...more }: { poisoned?: string; resume?: Checkpoint } & Partial<TrainConfig>,
) {
  let gpu = await openGpu({ driver: inject('driver') });
  let first: typeof gpu | undefined = gpu;
  let left = poisoned;
  const told: string[] = [];
  const { step } = await trainWithRollbacks({
    ...{ config: { ...config, ...more }, run, openData: () => Promise.resolve(dataset), resume },
    openGpu: async () => {
      gpu = first ?? (await openGpu({ driver: inject('driver') }));
      first = undefined;
      return gpu;
    },
    onRollback: (text) => told.push(text),
    events: {
      onStep(done) {
        if (done !== 5 || left === undefined) return;
        const [weight] = learner!.modules[left]!.parameters();
        gpu.write(weight!.storage, Float32Array.of(NaN));
        left = undefined;
      },
    },
  });
  return { step, told };
}

const at = (run: string, step: number) =>
  join(checkpointFolder(run), `step-000000${step}.safetensors`);

describe.each(['generator', 'discriminator'])('a NaN in the %s before step 6', (poisoned) => {
  test('ends the run at that step, and the checkpoint before it is good', async () => {
    const run = join(folder, 'run');
    await expect(train(run, { onNan: 'stop', poisoned })).rejects.toThrow(
      /^step 6 gave loss[GD] NaN, .*step-0000004\.safetensors/,
    );
    expect(existsSync(at(run, 6))).toBe(false);
    const { tensors } = (await readCheckpoint(at(run, 4))).file;
    for (const [name, { data }] of tensors) {
      if (data instanceof Float32Array) expect(data.every(Number.isFinite), name).toBe(true);
    }
    expect(readMetrics(run).map(({ step }) => step)).toEqual([1, 2, 3, 4, 5]);
  });

  test('is gone after a rollback: to the bits of a run that never had it, with the lower rates', async () => {
    const [whole, run] = [join(folder, 'whole'), join(folder, 'run')];
    await train(whole, { steps: 4 });
    const lower = { lrG: half * config.lrG, lrD: half * config.lrD };
    await train(whole, { ...lower, resume: await readCheckpoint(at(whole, 4)) });
    const { step, told } = await train(run, { onNan: 'rollback', poisoned });
    expect(step).toBe(8);
    expect(told).toHaveLength(1);
    expect(told[0]).toMatch(/^step 6 gave .*rolled back to .*step-0000004/);
    const tensors = async (of: string) =>
      [...(await readCheckpoint(at(of, 8))).file.tensors].map(([name, { data }]) => [name, data]);
    expect(await tensors(run)).toEqual(await tensors(whole));
    expect(readFileSync(join(run, 'samples', 'step-0000008.png'))).toEqual(
      readFileSync(join(whole, 'samples', 'step-0000008.png')),
    );
  });
});
