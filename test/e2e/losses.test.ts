import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { readMetrics } from '../../src/train/run-folder.ts';
import { runWell, tempFolder } from '../support/cli.ts';
import { writeImages } from '../support/images.ts';

test('a loss, smoothed labels and a gradient penalty by their flags', async () => {
  const folder = tempFolder();
  const [images, run] = [join(folder, 'images'), join(folder, 'run')];
  await writeImages(images, 8);
  const net = ['--preset', 'sagan-32-tiny', '--image-size', '8', '--width', '8', '--batch', '2'];
  const loss = ['--loss', 'bce', '--label-smoothing', '0.1', '--d-steps', '2'];
  const penalty = ['--regularizer', 'gp', '--regularizer-weight', '5'];
  const length = ['--steps', '3', '--log-every', '1', '--lr-d', '0.0002'];
  const call = ['train', '--data', images, '--out', run, ...net, ...loss, ...penalty, ...length];
  await runWell(call);
  expect(parse(readFileSync(join(run, 'config.yaml'), 'utf8'))).toMatchObject({
    ...{ loss: 'bce', 'label-smoothing': 0.1, 'd-steps': 2, 'lr-d': 0.0002 },
    ...{ regularizer: 'gp', 'regularizer-weight': 5 },
  });
  const lines = readMetrics(run);
  expect(lines.map(({ step }) => step)).toEqual([1, 2, 3]);
  for (const { penalty, lossD, lossG } of lines) {
    expect(penalty).toBeGreaterThan(0);
    expect([lossD, lossG].every(Number.isFinite)).toBe(true);
  }
});
