// Progressive growing from the command line: one run of all stages, ended in a fade and gone on with.
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readMetrics } from '../../src/train/run-folder.ts';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { readGrid, writeImages } from '../support/images.ts';

const folder = tempFolder();
const [images, run] = [join(folder, 'images'), join(folder, 'run')];
const stages = (stdout: string) => [...stdout.matchAll(/^stage +(.+)$/gm)].map(([, text]) => text);

test('grows in one run, is sampled in the middle, and goes on there', async () => {
  await writeImages(images, 8);
  const net = ['--preset', 'progressive-32', '--image-size', '8', '--width', '4', '--batch', '4'];
  const call = ['train', '--data', images, '--out', run, ...net, '--attention-at', '4'];
  const first = await runWell([...call, '--stage-steps', '2', '--steps', '3']);
  const fade = '8×8, fading in over 2 steps';
  expect(stages(first.stdout)).toEqual(['4×4, for 2 of the 6 steps to 8×8', fade]);

  const grid = join(folder, 'grid.png');
  await runWell(['sample', '--run', run, '--n', '4', '--out', grid]);
  expect(readGrid(grid, 8).tiles).toHaveLength(4);
  const other = await runCli(['train', '--out', run, '--resume', '--stage-steps', '3']);
  expect(complaintOf(other)).toContain('another architecture: --stage-steps was 2, now 3');

  const { stdout } = await runWell(['train', '--out', run, '--resume', '--steps', '6']);
  expect(stages(stdout)).toEqual([fade, '8×8, to the end']);
  expect(stdout).not.toMatch(/^kernels +not those/m);
  const lines = readMetrics(run);
  expect(lines.at(-1)?.step).toBe(6);
  expect(lines.every((line) => Object.values(line).every(Number.isFinite))).toBe(true);
});
