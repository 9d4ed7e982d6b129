// A conditional VAE from the command line: trained, gone on with to the same bits, sampled, images made again, exported.
import { cpSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import sharp from 'sharp';
import { decodeSafetensors } from '../../src/io/safetensors.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { namesIn } from '../support/files.ts';
import { readGrid, tileDistance } from '../support/images.ts';

const folder = tempFolder();
const at = (...path: string[]) => join(folder, ...path);
const run = at('run');
const steps = 8;
const size = 16;
const net = [
  '--preset',
  'vae-32-tiny',
  '--image-size',
  `${size}`,
  '--width',
  '4',
  '--latent-size',
  '4',
];
const how = ['--conditional', '--batch', '8', '--lr-g', '0.02', '--ema-start', '2'];
const every = ['--log-every', '1', '--sample-every', '4', '--checkpoint-every', '4'];
const trainInto = (out: string) => [
  ...['train', '--data', at('data'), '--out', out, ...net, ...how, ...every],
];
const newest = (out: string) => join(out, 'checkpoints', 'step-0000008.safetensors');
const pictures = ['reconstructions-0000008.png', 'step-0000008.png'];

beforeAll(async () => {
  for (const [name, red] of Object.entries({ dark: 40, light: 220 })) {
    mkdirSync(at('data', name), { recursive: true });
    for (let i = 0; i < 8; i++) {
      const background = { r: red, g: 10 * i, b: 255 - red };
      const plain = sharp({ create: { width: size, height: size, channels: 3, background } });
      await plain.png().toFile(at('data', name, `${i}.png`));
    }
  }
  const { stdout } = await runWell([...trainInto(run), '--steps', `${steps}`]);
  expect(stdout).toMatch(/^model +vae-32-tiny: generator [\d.]+ M, encoder [\d.]+ M parameters$/m);
});

test('the loss falls, is the sum of its parts, and the pictures are drawn', () => {
  const lines = readMetrics(run);
  expect(lines.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  for (const { loss, reconstruction, kl } of lines) {
    expect(loss! / (reconstruction! + kl!)).toBeCloseTo(1, 5);
    expect(Math.min(reconstruction!, kl!)).toBeGreaterThan(0);
  }
  expect(lines.at(-1)!.reconstruction).toBeLessThan(0.5 * lines[0]!.reconstruction!);
  expect(namesIn(join(run, 'samples'))).toEqual(
    pictures.flatMap((name) => [name.replace('8.png', '4.png'), name]),
  );
});

test('stopped and gone on with, it ends in the same bits', async () => {
  const other = at('other');
  await runWell([...trainInto(other), '--steps', '4']);
  await runWell(['train', '--out', other, '--resume', '--steps', `${steps}`]);
  expect(readFileSync(newest(other)).equals(readFileSync(newest(run)))).toBe(true);
  for (const name of pictures) {
    const drawn = (out: string) => readFileSync(join(out, 'samples', name));
    expect(drawn(other).equals(drawn(run)), name).toBe(true);
  }
});

test('reconstruct draws the images that the run drew, each above what the nets make of it', async () => {
  const out = at('again.png');
  const { stdout } = await runWell(['reconstruct', '--run', run, '--out', out]);
  expect(stdout).toContain('16 images of');
  expect(readFileSync(out).equals(readFileSync(join(run, 'samples', pictures[0]!)))).toBe(true);
  const { side, tiles } = readGrid(out, size);
  expect([side, tiles.length]).toEqual([8, 32]);
  const [dark, light] = [tiles[0]!, tiles[16]!];
  expect([...dark.pixels.slice(0, 3)]).toEqual([40, 0, 215]);
  expect([...light.pixels.slice(0, 3)]).toEqual([220, 0, 35]);
  // Of two images far apart each is nearer to its own reconstruction.
  expect(tileDistance(tiles[8]!, dark)).toBeLessThan(tileDistance(tiles[8]!, light));
  expect(tileDistance(tiles[24]!, light)).toBeLessThan(tileDistance(tiles[24]!, dark));
});

test('a grid has a row a class, and a class alone is what its row was', async () => {
  const draw = async (name: string, ...more: string[]) => {
    const out = at(name);
    await runWell(['sample', '--run', run, '--n', '4', '--seed', '3', '--out', out, ...more]);
    return readGrid(out, size).tiles;
  };
  const all = await draw('all.png');
  const light = await draw('light.png', '--class', 'light');
  const same = all.map((tile, i) => tileDistance(tile, light[i]!) < 0.1);
  expect(same).toEqual([false, false, true, true]);
});

test('the encoder is exported under its keys; nets and classes that there are not are refused', async () => {
  const call = ['export', '--run', run, '--format', 'safetensors', '--out'];
  const out = at('encoder.safetensors');
  await runWell([...call, out, '--net', 'encoder']);
  const { tensors } = decodeSafetensors(readFileSync(out), { name: out });
  expect(tensors.get('moments.weight')?.shape).toEqual([8, 128]);
  expect(tensors.get('blocks.0.attention.query_conv.weight')?.shape).toEqual([1, 4, 1, 1]);
  const none = await runCli([...call, at('none.safetensors'), '--net', 'discriminator']);
  expect(complaintOf(none)).toBe(
    '--net discriminator: vae-32-tiny has none; there are average, generator and encoder',
  );
  cpSync(at('data', 'dark'), at('green'), { recursive: true });
  const others = ['reconstruct', '--run', run, '--data', at('green'), '--out', at('x.png')];
  expect(complaintOf(await runCli(others))).toMatch(
    /^.*green has images of class green, and checkpoint .* knows dark, light$/,
  );
});
