import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { decodeSafetensors } from '../../src/io/safetensors.ts';
import type { RunData } from '../../src/report/data.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { complaintOf, runCli, runWell, startCli, tempFolder } from '../support/cli.ts';
import { namesIn } from '../support/files.ts';
import { readGrid, tileDistance, writeIdx, writeImages } from '../support/images.ts';

const folder = tempFolder();
const images = join(folder, 'images');
const run = join(folder, 'run');
const size = ['--preset', 'sagan-32-tiny', '--width', '8', '--batch', '8'];
/** The smallest net that still has an attention block in each half. */
const tiny = [...size, '--image-size', '16', '--attention-g', '8', '--attention-d', '8'];

function bytes(...path: string[]): Buffer {
  return readFileSync(join(folder, ...path));
}

describe('train on a folder of images', () => {
  let stdout = '';

  beforeAll(async () => {
    await writeImages(images, 24);
    writeFileSync(join(images, 'notes.txt'), 'not an image');
    const every = ['--log-every', '5', '--sample-every', '10', '--checkpoint-every', '10'];
    const call = ['train', '--data', images, '--out', run, ...size, '--steps', '30', ...every];
    ({ stdout } = await runWell(call));
  });

  test('says what it trains on, how far it came, and how to go on', () => {
    expect(stdout).toMatch(/^data +24 images in 3 classes from /m);
    expect(stdout).toMatch(/^adapter +\S.* \((software|integrated|discrete)\)$/m);
    expect(stdout).toMatch(/^model +sagan-32-tiny: generator [\d.]+ M, discriminator [\d.]+ M/m);
    expect(stdout).toMatch(/^step +batch 8, \d+ launches, [\d.]+ GFLOP, \d+ MiB planned/m);
    expect(stdout).toContain('finished 30 steps');
    expect(stdout).toContain(join(run, 'samples', 'step-0000030.png'));
    expect(stdout).toContain(`npx wgsagan train --out ${run} --resume --steps 60`);
    expect(stdout).toContain(`npx wgsagan sample --run ${run}`);
  });

  test('leaves a page of itself that stands alone, and says where it was trained', async () => {
    const html = bytes('run', 'report.html').toString();
    const json = /<script type="application\/json" id="data">(.*)<\/script>/.exec(html)?.[1] ?? '';
    const page = JSON.parse(json) as RunData;
    expect(page).toMatchObject({ name: 'run', state: { step: 30, steps: 30, status: 'finished' } });
    expect(page.tracks).toMatchObject([{ kind: 'samples', all: 3 }]);
    expect(page.series.find(({ key }) => key === 'lossD')?.steps.at(-1)).toBe(30);
    const machine = JSON.parse(bytes('run', 'machine.json').toString()) as Record<string, string>;
    expect(stdout).toContain(machine['adapter'] ?? 'no adapter');
    expect(Object.fromEntries(page.machine)).toEqual(machine);
    // The same by its own command, as it is installed.
    const out = join(folder, 'again.html');
    const report = await runWell(['report', '--run', run, '--out', out]);
    expect(report.stdout).toContain(`${out}: `);
    expect(readFileSync(out, 'utf8').length).toBeGreaterThan(100_000);
    const none = complaintOf(await runCli(['report', '--run', images]));
    expect(none).toBe(
      `${images} holds no run: there is neither config.yaml nor metrics.jsonl in it`,
    );
  });

  test('is served by dashboard until ^C', async () => {
    const served = startCli(['dashboard', folder]);
    await served.until('its address', () => served.output().stdout.includes('^C'));
    const url = /http:\S+/.exec(served.output().stdout)?.[0] ?? '';
    expect(served.output().stdout).toMatch(/^runs +1 run now/m);
    expect((await fetch(url)).status).toBe(200);
    expect((await fetch(`${url}page.js`)).status).toBe(200);
    served.kill('SIGINT');
    expect(await served.result).toMatchObject({ code: 0, stderr: '' });
  });

  test('leaves config, metrics, losses, samples and checkpoints', () => {
    expect(namesIn(run)).toEqual([
      'attention',
      'checkpoints',
      'config.yaml',
      'data-index.gz',
      'losses.svg',
      'machine.json',
      'metrics.jsonl',
      'report.html',
      'samples',
    ]);
    const steps = [10, 20, 30].map((step) => `step-00000${step}`);
    expect(namesIn(join(run, 'samples'))).toEqual(steps.map((step) => `${step}.png`));
    expect(namesIn(join(run, 'checkpoints'))).toEqual(steps.map((step) => `${step}.safetensors`));
    expect(parse(bytes('run', 'config.yaml').toString())).toMatchObject({
      data: images,
      preset: 'sagan-32-tiny',
      width: 8,
      batch: 8,
      steps: 30,
      'image-size': 32,
    });
    expect(bytes('run', 'losses.svg').toString()).toMatch(/^<svg [^]*lossD[^]*lossG[^]*<\/svg>\n$/);
  });

  test('logs finite losses every few steps', () => {
    const lines = readMetrics(run);
    expect(lines.map((line) => line.step)).toEqual([5, 10, 15, 20, 25, 30]);
    for (const line of lines) {
      expect(Object.values(line).every(Number.isFinite), JSON.stringify(line)).toBe(true);
      expect(line.imagesPerSecond).toBeGreaterThan(0);
    }
    const seconds = lines.map((line) => line.seconds);
    expect(seconds).toEqual([...seconds].sort((a, b) => a - b));
    expect(new Set(lines.map((line) => line.lossD)).size).toBe(lines.length);
  });

  test('moves the weights, and every stored number is finite', () => {
    const at = (step: number) => {
      const name = `step-00000${step}.safetensors`;
      return decodeSafetensors(bytes('run', 'checkpoints', name), { name });
    };
    const [early, late] = [at(10), at(30)];
    expect([...late.tensors.keys()]).toEqual([...early.tensors.keys()]);
    const still: string[] = [];
    for (const [name, { data }] of late.tensors) {
      const values = [...(data as Float32Array)];
      expect(values.every(Number.isFinite), name).toBe(true);
      const before = early.tensors.get(name)!.data as Float32Array;
      if (values.every((value, i) => value === before[i])) still.push(name);
    }
    // A weight of one row has a unit vector of one element, which is 1 for ever.
    const unit = (name: string) =>
      name.endsWith('weight_u') && late.tensors.get(name)!.data.length === 1;
    expect(still.filter((name) => !unit(name))).toEqual([]);
    const metadata = late.metadata;
    expect(metadata).toMatchObject({ kind: 'wgsagan checkpoint', step: '30' });
  });

  test('draws 64 images that are pictures: neither flat, nor all the same, nor stuck at a bound', () => {
    const { side, tiles } = readGrid(join(run, 'samples', 'step-0000030.png'), 32);
    expect(side).toBe(8);
    expect(tiles).toHaveLength(64);
    for (const { std, mean } of tiles) {
      expect(std).toBeGreaterThan(3);
      expect(mean).toBeGreaterThan(5);
      expect(mean).toBeLessThan(250);
    }
    const apart = tiles.slice(1).map((tile, i) => tileDistance(tile, tiles[i]!));
    expect(Math.min(...apart)).toBeGreaterThan(0.5);
    const before = readGrid(join(run, 'samples', 'step-0000010.png'), 32).tiles;
    expect(tileDistance(tiles[0]!, before[0]!)).toBeGreaterThan(0.5);
  });

  describe('sample', () => {
    const draw = async (out: string, ...more: string[]) => {
      await runWell(['sample', '--run', run, '--out', join(folder, out), ...more]);
      return bytes(out);
    };

    test('draws the same bytes for the same seed, others for another seed or other weights', async () => {
      const first = await draw('grid.png', '--n', '64', '--seed', '1');
      expect(await draw('again.png', '--n', '64', '--seed', '1')).toEqual(first);
      expect(await draw('seed2.png', '--n', '64', '--seed', '2')).not.toEqual(first);
      const last = await draw('last.png', '--n', '64', '--seed', '1', '--weights', 'last');
      expect(last).not.toEqual(first);
      const onto = ['sample', '--run', run, '--out', join(folder, 'last.png')];
      const { stdout: said } = await runWell([...onto, '--weights', 'last']);
      expect(said).toMatch(/last weights, seed 1\), in place of the file that was there\n$/);
      for (const name of ['grid.png', 'seed2.png', 'last.png']) {
        const { side, tiles } = readGrid(join(folder, name), 32);
        expect([side, tiles.length]).toEqual([8, 64]);
        expect(Math.min(...tiles.map((tile) => tile.std)), name).toBeGreaterThan(3);
      }
    });

    test('gives image i the same pixels whatever --n is, and fills the last row with white', async () => {
      await draw('five.png', '--n', '5', '--seed', '1');
      const few = readGrid(join(folder, 'five.png'), 32);
      const many = readGrid(join(folder, 'grid.png'), 32);
      expect(few.tiles.slice(0, 5).map((tile) => tile.pixels)).toEqual(
        many.tiles.slice(0, 5).map((tile) => tile.pixels),
      );
    });

    test("draws the run's own grid from its seed", async () => {
      const grid = await draw('seed0.png', '--n', '64', '--seed', '0');
      expect(grid).toEqual(bytes('run', 'samples', 'step-0000030.png'));
    });
  });
});

describe('config files', () => {
  const train = ['train', '--data', images];

  test('a flag overrides the file, the file overrides the preset, and the run says what held', async () => {
    const file = join(folder, 'config.yaml');
    writeFileSync(
      file,
      'preset: sagan-32-tiny\nimage-size: 16\nattention-g: [8]\nattention-d: [8]\nwidth: 8\nbatch: 8\nsteps: 5\nlr-g: 0.0002\n',
    );
    const out = join(folder, 'from-file');
    const { stdout } = await runWell([
      ...[...train, '--out', out, '--config', file],
      ...['--steps', '2', '--batch', '4', '--channels', '1', '--flip'],
    ]);
    expect(stdout).toContain('finished 2 steps');
    expect(parse(bytes('from-file', 'config.yaml').toString())).toMatchObject({
      steps: 2,
      batch: 4,
      'lr-g': 0.0002,
      'lr-d': 4e-4,
      'ema-decay': 0.99,
      channels: 1,
      flip: true,
    });
    expect(readGrid(join(out, 'samples', 'step-0000002.png'), 16).tiles).toHaveLength(64);
  });

  test("a run's config.yaml is a config file, and gives the same bits", async () => {
    const first = join(folder, 'original');
    await runWell([...train, '--out', first, ...tiny, '--steps', '3', '--seed', '7']);
    const second = join(folder, 'copy');
    await runWell(['train', '--config', join(first, 'config.yaml'), '--out', second]);
    for (const file of [
      'config.yaml',
      'checkpoints/step-0000003.safetensors',
      'samples/step-0000003.png',
    ]) {
      expect(bytes('copy', file), file).toEqual(bytes('original', file));
    }
  });
});

describe('other data', () => {
  for (const gzip of [false, true]) {
    test(`a folder of ${gzip ? 'gzipped' : 'plain'} IDX files, in grey`, async () => {
      const data = join(folder, `idx-${gzip}`);
      writeIdx(data, { gzip });
      const out = join(folder, `idx-run-${gzip}`);
      const { stdout } = await runWell([
        ...['train', '--data', data, '--out', out, ...size],
        ...['--channels', '1', '--steps', '2'],
      ]);
      expect(stdout).toMatch(/^data +40 images of 28×28 in 10 classes from /m);
      const grid = readGrid(join(out, 'samples', 'step-0000002.png'), 32);
      expect(grid.tiles).toHaveLength(64);
    });
  }

  test('the two foldings of IDX give the same bits', () => {
    const file = 'checkpoints/step-0000002.safetensors';
    const weights = (gzip: boolean) =>
      decodeSafetensors(bytes(`idx-run-${gzip}`, file), { name: file }).tensors;
    expect(weights(true)).toEqual(weights(false));
  });

  test('several discriminator steps for each generator step', async () => {
    const out = join(folder, 'd-steps');
    await runWell([
      'train',
      '--data',
      images,
      '--out',
      out,
      ...tiny,
      '--steps',
      '2',
      '--d-steps',
      '2',
    ]);
    expect(existsSync(join(out, 'samples', 'step-0000002.png'))).toBe(true);
    const name = 'step-0000002.safetensors';
    const { metadata } = decodeSafetensors(bytes('d-steps', 'checkpoints', name), { name });
    // Two steps of two batches of eight: thirty-two images, of which an epoch has twenty-four.
    expect(JSON.parse(metadata['loader']!)).toMatchObject({ epoch: 1, cursor: 8 });
  });

  test('a time limit ends the run well, saved, and holds for that call alone', async () => {
    const out = join(folder, 'timed');
    const { code, stdout, stderr } = await runCli([
      ...['train', '--data', images, '--out', out, ...tiny],
      ...['--steps', '100000', '--time-limit', '0.03'],
    ]);
    // There are steps left: a script that queues the run again sees it.
    expect({ code, stderr }).toEqual({ code: 75, stderr: '' });
    const step = Number(/time is up after step (\d+), saved/.exec(stdout)?.[1]);
    expect(step).toBeGreaterThan(0);
    const saved = `step-${String(step).padStart(7, '0')}`;
    expect(namesIn(join(out, 'checkpoints'))).toContain(`${saved}.safetensors`);
    expect(namesIn(join(out, 'samples'))).toContain(`${saved}.png`);
    const more = ['--resume', '--steps', `${step + 300}`];
    expect((await runWell(['train', '--out', out, ...more])).stdout).toContain('finished');
    expect(bytes('timed', 'config.yaml').toString()).not.toContain('time-limit');
  });
});
