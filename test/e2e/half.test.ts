// Training in f16 from the command line: what it says and keeps, that it goes on to the same bits, and what refuses it.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { readManifest } from '../../src/gpu/platform.ts';
import { decodeSafetensors } from '../../src/io/safetensors.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { readGrid, writeImages } from '../support/images.ts';

const folder = tempFolder();
const images = join(folder, 'images');
const net = ['--preset', 'sagan-32-tiny', '--width', '8', '--batch', '8', '--seed', '3'];
const every = ['--log-every', '1', '--checkpoint-every', '6', '--sample-every', '12'];
const trainInto = (out: string, precision: string) => [
  ...['train', '--data', images, '--out', out, '--precision', precision, ...net, ...every],
];
const checkpoint = (run: string, step: number) =>
  readFileSync(join(run, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`));

describe('train --precision f16', () => {
  const whole = join(folder, 'whole');
  beforeAll(async () => {
    await writeImages(images, 24);
    await runWell([...trainInto(whole, 'f16'), '--steps', '24']);
  });

  test('logs finite losses and the loss scales, which fall until no gradient overflows', () => {
    const lines = readMetrics(whole);
    expect(lines).toHaveLength(24);
    for (const line of lines) {
      expect(Object.values(line).every(Number.isFinite), JSON.stringify(line)).toBe(true);
      expect(Math.log2(line.lossScaleD!) % 1).toBe(0);
      expect(Math.log2(line.lossScaleG!) % 1).toBe(0);
      expect(line.lossScaleD).toBeGreaterThanOrEqual(1);
      expect(line.lossScaleD).toBeLessThanOrEqual(2 ** 16);
    }
  });

  test('keeps weights, moments and averages in f32, and makes pictures', () => {
    const { tensors } = decodeSafetensors(checkpoint(whole, 24), { name: 'checkpoint' });
    for (const [name, { data }] of tensors) expect(data, name).toBeInstanceOf(Float32Array);
    const scale = tensors.get('scaler_d.state')!.data[0];
    expect(scale).toBe(readMetrics(whole).at(-1)!.lossScaleD);
    const { tiles } = readGrid(join(whole, 'samples', 'step-0000024.png'), 32);
    for (const tile of tiles) expect(tile.std).toBeGreaterThan(1);
  });

  test('learns what a run of f32 learns, which can go on in f16 and leave it again', async () => {
    const run = join(folder, 'single');
    await runWell([...trainInto(run, 'f32'), '--steps', '24']);
    // How far real and made images are apart in the last steps: the same nets, data and noise, but for rounding.
    const gap = (out: string) =>
      readMetrics(out)
        .slice(18, 24)
        .reduce((sum, line) => sum + (line.dReal! - line.dFake!) / 6, 0);
    expect(gap(whole)).toBeGreaterThan(0.5 * gap(run));
    expect(gap(whole)).toBeLessThan(2 * gap(run));
    await runWell(['train', '--out', run, '--resume', '--precision', 'f16', '--steps', '27']);
    await runWell(['train', '--out', run, '--resume', '--precision', 'f32', '--steps', '30']);
    expect(readMetrics(run).map((line) => 'lossScaleG' in line)).toEqual(
      Array.from({ length: 30 }, (_u, i) => i >= 24 && i < 27),
    );
  });

  test('goes on from a checkpoint to the same bits', async () => {
    const run = join(folder, 'parts');
    await runWell([...trainInto(run, 'f16'), '--steps', '6']);
    await runWell(['train', '--out', run, '--resume', '--steps', '24']);
    expect(checkpoint(run, 24)).toEqual(checkpoint(whole, 24));
  });

  test('is refused in one line for a word that is none', async () => {
    const result = await runCli(trainInto(join(folder, 'none'), 'f61'));
    expect(complaintOf(result)).toContain('--precision f61 is unknown');
  });

  test.skipIf(!readManifest('swiftshader'))('is refused where the adapter has no f16', async () => {
    const call = [...trainInto(join(folder, 'none'), 'f16'), '--adapter', 'swiftshader'];
    expect(complaintOf(await runCli(call))).toMatch(/--precision f16 needs the feature shader-f16/);
  });
});
