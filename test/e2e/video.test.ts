// Clips from the command line: a run on moving shapes that goes on to the same bits, its pictures, and what is refused.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { chunksOf } from '../../src/io/apng.ts';
import { decodePng } from '../../src/io/png.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { namesIn } from '../support/files.ts';
import { readGrid } from '../support/images.ts';

const folder = tempFolder();
const [whole, parts] = [join(folder, 'whole'), join(folder, 'parts')];
const [steps, size, frames] = [6, 16, 4];
const net = ['--preset', 'video-32-tiny', '--image-size', `${size}`, '--frames', `${frames}`];
const trainInto = (out: string) => [
  ...['train', '--data', 'moving-shapes', '--out', out, ...net, '--width', '8', '--batch', '4'],
  ...['--flip', '--log-every', '1', '--ema-start', '2'],
];
const checkpoint = join('checkpoints', `step-${String(steps).padStart(7, '0')}.safetensors`);
const picture = join('samples', `step-${String(steps).padStart(7, '0')}.png`);

beforeAll(async () => {
  const { stdout } = await runWell([...trainInto(whole), '--steps', `${steps}`]);
  expect(stdout).toMatch(/^data +6000 clips of 4 frames: discs, squares, triangles/m);
});

test('a run in two parts is one in one: weights, strip and animation', async () => {
  await runWell([...trainInto(parts), '--steps', '2']);
  await runWell(['train', '--out', parts, '--resume', '--steps', `${steps}`]);
  for (const file of [checkpoint, picture, picture.replace('.png', '.apng')]) {
    expect(readFileSync(join(parts, file)).equals(readFileSync(join(whole, file))), file).toBe(
      true,
    );
  }
  const lines = readMetrics(parts);
  expect(lines).toHaveLength(steps);
  expect(lines.every((line) => Object.values(line).every(Number.isFinite))).toBe(true);
});

test('a strip has a row a clip, and the animation begins with its first column', async () => {
  const draw = async (name: string) => {
    const out = join(folder, name);
    const call = ['sample', '--run', whole, '--n', '4', '--seed', '3', '--out', out];
    const { stdout } = await runWell(call);
    expect(stdout).toContain('4 clips of 4 frames of 16×16 from step 6');
    return out;
  };
  const [still, moving] = [await draw('strip.png'), await draw('clips.apng')];
  const strip = readGrid(still, size);
  expect([strip.side, strip.tiles.length]).toEqual([frames, 4 * frames]);
  const first = readGrid(moving, size);
  expect(first.tiles).toHaveLength(4);
  first.tiles.forEach((tile, clip) => {
    expect(tile.pixels).toEqual(strip.tiles[clip * frames]!.pixels);
  });
  const types = chunksOf(readFileSync(moving)).map(({ type }) => type);
  expect(types.filter((type) => type === 'fcTL')).toHaveLength(frames);
  expect(decodePng(readFileSync(moving)).width).toBe(2 + 2 * (size + 2));
});

test('stills for clips and clips for stills are refused before anything is written', async () => {
  const none = join(folder, 'none');
  const train = ['train', '--out', none];
  const clips = await runCli([...train, '--data', 'avatars', '--preset', 'video-32-tiny']);
  expect(complaintOf(clips)).toContain('--data avatars is a set of stills');
  const stills = await runCli([...train, '--data', 'moving-shapes']);
  expect(complaintOf(stills)).toContain('--data moving-shapes is a set of clips');
  expect(existsSync(none)).toBe(false);
  expect(namesIn(folder).sort()).toEqual(['clips.apng', 'parts', 'strip.png', 'whole']);
});
