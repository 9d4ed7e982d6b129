// Classes from the command line: folders become classes, both nets are told them, and one of them can be asked for.
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import sharp from 'sharp';
import { decodeSafetensors } from '../../src/io/safetensors.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { readGrid, tileDistance } from '../support/images.ts';

const folder = tempFolder();
const run = join(folder, 'run');
const data = join(folder, 'data');
const steps = 12;
const size = 16;

beforeAll(async () => {
  for (const [name, red] of [
    ['dark', 40],
    ['light', 220],
  ] as const) {
    mkdirSync(join(data, name), { recursive: true });
    for (let i = 0; i < 8; i++) {
      const background = { r: red, g: 10 * i, b: 255 - red };
      const plain = sharp({ create: { width: size, height: size, channels: 3, background } });
      await plain.png().toFile(join(data, name, `${i}.png`));
    }
  }
  const net = ['--preset', 'sagan-resnet-32', '--image-size', `${size}`, '--width', '4'];
  const call = ['train', '--data', data, '--out', run, '--conditional', ...net, '--batch', '8'];
  const fast = ['--attention-at', '8', '--lr-g', '0.01', '--ema-decay', '0'];
  const { stdout } = await runWell([...call, ...fast, '--steps', `${steps}`, '--log-every', '1']);
  expect(stdout).toMatch(/^data +16 images in 2 classes from /m);
});

test('trains on class folders: finite losses, tables of both classes that moved, names kept', () => {
  const lines = readMetrics(run);
  expect(lines).toHaveLength(steps);
  expect(lines.every((line) => Object.values(line).every(Number.isFinite))).toBe(true);
  const file = join(run, 'checkpoints', `step-${String(steps).padStart(7, '0')}.safetensors`);
  const { tensors, metadata } = decodeSafetensors(readFileSync(file), { name: file });
  expect(JSON.parse(metadata['classes']!)).toEqual(['dark', 'light']);
  const gain = tensors.get('generator.blocks.0.0.bn1.gain.weight')!;
  expect(gain.shape).toEqual([2, 8]);
  const [dark, light] = [gain.data.slice(0, 8), gain.data.slice(8)];
  for (const row of [dark, light])
    expect([...(row as Float32Array)].every((x) => x !== 1)).toBe(true);
  expect(dark).not.toEqual(light);
});

test('a grid has a row a class, and a class alone is what its row was', async () => {
  const draw = async (name: string, ...more: string[]) => {
    const out = join(folder, name);
    await runWell(['sample', '--run', run, '--n', '4', '--seed', '3', '--out', out, ...more]);
    return readGrid(out, size).tiles;
  };
  const all = await draw('all.png');
  const light = await draw('light.png', '--class', 'light');
  const same = all.map((tile, i) => tileDistance(tile, light[i]!) < 0.1);
  expect(same).toEqual([false, false, true, true]);
});

test('a class that there is not is refused, with those that there are', async () => {
  const call = ['sample', '--run', run, '--class', 'lihgt', '--out', join(folder, 'none.png')];
  expect(complaintOf(await runCli(call))).toContain('did you mean light? There are dark, light');
});

test('a sweep has a row a latent and a column a class', async () => {
  const out = join(folder, 'sweep.png');
  await runWell(['sample', '--run', run, '--n', '2', '--seed', '3', '--sweep', '--out', out]);
  const { side, tiles } = readGrid(out, size);
  expect([side, tiles.length]).toEqual([2, 4]);
  // Red is what the classes differ in.
  const red = tiles.map(({ pixels }) => pixels.filter((_v, i) => i % 4 === 0));
  const mean = red.map((values) => values.reduce((sum, v) => sum + v, 0) / values.length);
  for (const row of [0, 2]) expect(mean[row + 1]! - mean[row]!).toBeGreaterThan(10);
});
