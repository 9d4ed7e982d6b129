// What flags of `sample` cannot mean together, and which checkpoint of a run is meant.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { checkPlanFlags, planIdentity, planOf } from '../../src/cli/sample-plan.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { chooseCheckpoint } from '../../src/train/choose-checkpoint.ts';
import type { Checkpoint } from '../../src/train/checkpoint.ts';

const folder = mkdtempSync(join(tmpdir(), 'wgsagan-plan-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const run = 'runs/x';
const checkpointOf = (options: object): Checkpoint => ({
  path: 'x',
  file: { metadata: {}, tensors: new Map() },
  config: resolveConfig({ data: 'none', preset: 'sagan-32-tiny', ...options }),
  progress: { step: 1, loader: undefined, classes: ['dark', 'light', 'red'] },
});
const plain = checkpointOf({});
const told = checkpointOf({ preset: 'sagan-resnet-32', conditional: true, classes: 3 });

test.each([
  [{ truncation: 0 }, '--truncation is 0: expected 0.02 to 5'],
  [{ truncation: NaN }, '--truncation is NaN: expected 0.02 to 5'],
  [{ seeds: [1], n: 4 }, '--seeds and --n cannot be given together: seeds says which images'],
  [{ seeds: [1], seed: 4 }, '--seeds and --seed cannot be given together'],
  [{ seeds: [1], first: 4 }, '--seeds and --first cannot be given together'],
  [{ sweep: true, class: 'dark' }, '--sweep and --class cannot be given together'],
  [{ sweep: true, interpolate: 3 }, '--sweep and --interpolate cannot be given together'],
  [{ interpolate: 1 }, '--interpolate is 1: expected 2 or more images from end to end'],
  [{ interpolate: 4, seeds: [3] }, '--interpolate needs two ends or more; --seeds gives one'],
  [{ interpolate: 4, n: 1 }, '--interpolate needs two ends or more; --n gives one'],
])('%j is refused', (flags, message) => {
  expect(() => {
    checkPlanFlags({ run, ...flags });
  }).toThrow(message);
});

describe('classes', () => {
  const labels = (plan: ReturnType<typeof planOf>) =>
    Array.from({ length: plan.n }, (_u, i) => plan.label?.(i));

  test('of a grid are rows, of single files do not depend on how many there are', () => {
    expect(labels(planOf({ run, n: 9 }, told, 'grid'))).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2]);
    const each = labels(planOf({ run, n: 9 }, told, 'each'));
    expect(each).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2]);
    expect(labels(planOf({ run, n: 4, first: 2 }, told, 'each'))).toEqual(each.slice(2, 6));
    expect(labels(planOf({ run, n: 3, class: 'light' }, told, 'each'))).toEqual([1, 1, 1]);
    expect(labels(planOf({ run, n: 3, class: '2' }, told, 'grid'))).toEqual([2, 2, 2]);
    expect(planOf({ run, n: 3 }, plain, 'grid').label).toBeUndefined();
  });

  test('that there are not are refused', () => {
    const of = (flags: object, checkpoint: Checkpoint) => () =>
      planOf({ run, ...flags }, checkpoint, 'grid');
    expect(of({ sweep: true }, plain)).toThrow(
      '--sweep goes over classes: runs/x was trained without --conditional',
    );
    expect(of({ class: 'dark' }, plain)).toThrow(
      '--class dark: runs/x was trained without --conditional',
    );
    expect(of({ class: 'drak' }, told)).toThrow('--class drak is unknown; did you mean dark?');
    expect(of({ class: '3' }, told)).toThrow('--class 3 is unknown');
  });
});

test('a folder is another’s as soon as anything but the number differs', () => {
  const texts = [
    ...[{}, { seed: 2 }, { truncation: 0.5 }, { class: 'a' }, { interpolate: 3 }, { sweep: true }],
    ...[{ seeds: [1, 2] }, { seeds: [2, 1] }],
  ].map((flags) => JSON.stringify(planIdentity({ run, ...flags })));
  expect(new Set(texts).size).toBe(texts.length);
  expect(JSON.stringify(planIdentity({ run, n: 5, first: 2 }))).toBe(texts[0]);
});

test('a checkpoint that is not there is refused, with those that are', async () => {
  mkdirSync(join(folder, 'checkpoints'));
  for (const step of [3, 12]) {
    writeFileSync(
      join(folder, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`),
      '',
    );
  }
  await expect(chooseCheckpoint(folder, 'best')).rejects.toThrow(
    'was never evaluated while it trained, so none is known to be the best; leave --checkpoint out',
  );
  await expect(chooseCheckpoint(folder, '4')).rejects.toThrow(
    /^--checkpoint 4 is no file, and no step of which .* keeps a checkpoint; it has 3, 12$/,
  );
  await expect(chooseCheckpoint(folder, '12')).rejects.toThrow('step-0000012.safetensors');
});
