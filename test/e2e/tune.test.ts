import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { askedByStep } from '../../bench/tune.ts';
import { readTuned, tunedPath, writeTuned } from '../../src/cli/tuned.ts';
import { openGpu } from '../../src/gpu/device.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { cacheDir } from '../../src/gpu/platform.ts';
import { ladderNamed } from '../../src/kernels/ladders.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { runCli, runWell, tempFolder } from '../support/cli.ts';
import { writeImages } from '../support/images.ts';

const folder = tempFolder();
const run = join(folder, 'run');
const images = join(folder, 'images');
const net = ['--preset', 'sagan-32-tiny', '--width', '4', '--batch', '2'];
const config = resolveConfig({ data: 'none', preset: 'sagan-32-tiny', width: 4, batch: 2 });
const train = ['train', '--data', images, '--out', run, ...net];

let gpu: Gpu;

beforeAll(async () => {
  await writeImages(images, 8);
  // A cache of its own, with the machine's drivers.
  const cache = join(folder, 'cache');
  mkdirSync(cache);
  mkdirSync(join(cache, 'wgsagan'));
  symlinkSync(join(cacheDir(), 'drivers'), join(cache, 'wgsagan', 'drivers'));
  vi.stubEnv('XDG_CACHE_HOME', cache);
  gpu = await openGpu();
});
afterAll(() => {
  gpu.close();
  vi.unstubAllEnvs();
});

/** A cache with one operation of the training step run by another rung than the usual one. */
async function tuneOne(): Promise<void> {
  for (const [key, { ladder: name, sizes, choice }] of askedByStep(gpu, config)) {
    const ladder = ladderNamed(name);
    const other = ladder.rungs.find((rung) => rung.name !== choice.rung && rung.fits(gpu, sizes));
    const [tile] = other?.tiles(gpu, sizes) ?? [];
    if (other === undefined || tile === undefined) continue;
    const chosen = { rung: other.name, tile: { ...tile }, ms: 1, usualMs: 2 };
    await writeTuned(gpu.adapter, new Map([[key, chosen]]));
    return;
  }
  throw new Error('no operation of the step has a second kernel');
}

describe('training', () => {
  test('says that it runs what was tuned', async () => {
    await tuneOne();
    const { stdout } = await runWell([...train, '--steps', '2']);
    expect(stdout).toMatch(/^kernels {3}1 of \d+ operations as tuned on this adapter$/m);
  });

  test('resumed without the cache says that its bits may differ', async () => {
    const resume = ['train', '--out', run, '--resume', '--steps'];
    const same = await runWell([...resume, '3']);
    expect(same.stdout).not.toContain('not those');
    rmSync(tunedPath(gpu.adapter));
    const { stdout } = await runWell([...resume, '4']);
    expect(stdout).not.toContain('as tuned');
    expect(stdout).toMatch(
      /^kernels {3}not those that the run was trained with so far: its bits may differ from here on$/m,
    );
  });

  test('goes on without a broken cache, and says so in one line', async () => {
    await tuneOne();
    const path = tunedPath(gpu.adapter);
    writeFileSync(path, readFileSync(path, 'utf8').slice(0, 50));
    const result = await runCli(['train', '--out', run, '--resume', '--steps', '5']);
    expect(result.code).toBe(0);
    expect(result.stderr).toMatch(
      /^\S+\.json cannot be read \(.*\): what was tuned is not used; .*\n$/,
    );
    const { stdout } = await runCli(['doctor']);
    expect(stdout).toMatch(/^tuning {5}\S.*: \S+\.json cannot be read /m);
  });
});

test('tune measures, keeps what it found, goes on where it ended, and doctor tells of it', async () => {
  rmSync(tunedPath(gpu.adapter), { force: true });
  const none = await runWell(['doctor']);
  expect(none.stdout).toMatch(/^tuning {5}\S.*: none yet; `wgsagan tune` measures/m);

  const tune = ['tune', '--preset', 'sagan-32-tiny', '--batch', '1', '--limit', '1'];
  const { stdout } = await runWell(tune);
  const [, all] =
    /^tuning {4}sagan-32-tiny, batch 1, on \S.*: \d+ of (\d+) operations$/m.exec(stdout) ?? [];
  expect(Number(all)).toBeGreaterThan(5);
  expect(stdout).toMatch(
    /^ {2}\d+ of \d+ measured, \d+ of them faster by another kernel or tile$/m,
  );
  const { state, choices } = readTuned(gpu.adapter);
  expect(state).toBe('good');
  expect(choices.size).toBeGreaterThan(0);

  const again = await runWell(tune);
  const left = Number(all) - choices.size;
  expect(again.stdout).toContain(`: ${left} of ${all} operations\n`);
  expect(readTuned(gpu.adapter).choices.size).toBeGreaterThan(choices.size);
  const doctor = await runWell(['doctor', '--json']);
  expect(JSON.parse(doctor.stdout)).toMatchObject({
    tuning: [expect.objectContaining({ state: 'good', operations: expect.any(Number) })],
  });
});
