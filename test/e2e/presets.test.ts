// Every preset, every kind of attention and every loss from the command line, for two steps in small.
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { presetNames, presets } from '../../src/models/presets.ts';
import type { PresetName } from '../../src/models/presets.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { runWell, tempFolder } from '../support/cli.ts';
import { readGrid, writeImages } from '../support/images.ts';

const folder = tempFolder();
const images = join(folder, 'images');

beforeAll(async () => {
  await writeImages(images, 4);
});

/** Presets that a test of their own runs. */
const elsewhere: readonly PresetName[] = [
  ...(['sagan-32-tiny', 'sagan-resnet-32', 'progressive-32', 'vae-32-tiny'] as const),
  'video-32-tiny',
];

/** What each run is besides its preset's; a preset that is not named here runs as it is. */
const more: Partial<Record<PresetName, readonly string[]>> = {
  'sagan-32': ['--attention', 'paper', '--loss', 'bce-minimax'],
  'sagan-64': ['--attention', 'multihead', '--heads', '2', '--loss', 'lsgan'],
  'sagan-128': ['--attention', 'topk', '--loss', 'wasserstein', '--d-steps', '2'],
  'sagan-256': ['--attention', 'linear'],
  'dcgan-attention': ['--attention', 'hybrid', '--regularizer', 'r1'],
  'progressive-64': ['--attention', 'gate', '--stage-steps', '1'],
  'sagan-resnet-64': ['--attention', 'scaled'],
  'sagan-resnet-128': ['--attention', 'none'],
  'vae-64': ['--reconstruction', 'bce'],
};

const names = presetNames.filter((name) => !elsewhere.includes(name));

test.each(names)('%s', async (preset) => {
  const run = join(folder, preset);
  const { options } = presets[preset];
  const data = (options.frames ?? 1) > 1 ? 'moving-shapes' : images;
  const small = ['--width', '4', '--latent-size', '8', '--batch', '2', '--steps', '2'];
  const call = ['train', '--data', data, '--preset', preset, '--out', run, '--log-every', '1'];
  await runWell([...call, ...small, ...(more[preset] ?? [])]);
  const lines = readMetrics(run);
  expect(lines.map(({ step }) => step)).toEqual([1, 2]);
  expect(lines.every((line) => Object.values(line).every(Number.isFinite))).toBe(true);
  const { tiles } = readGrid(join(run, 'samples', 'step-0000002.png'), options.imageSize);
  for (const { std } of tiles) expect(std).toBeGreaterThan(0);
});
