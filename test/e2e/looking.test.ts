// What a trained generator is looked at with: `attention`, and `sample` in its other ways.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { chunksOf } from '../../src/io/apng.ts';
import { decodePng } from '../../src/io/png.ts';
import { complaintOf, runCli, runWell, startCli, tempFolder } from '../support/cli.ts';
import { namesIn } from '../support/files.ts';
import { writeImages } from '../support/images.ts';

const folder = tempFolder();
const at = (...path: string[]) => join(folder, ...path);
const run = at('run');
const size = 16;
const sample = (...more: string[]) => ['sample', '--run', run, ...more];
const bytes = (...path: string[]) => readFileSync(at(...path));

beforeAll(async () => {
  await writeImages(at('images'), 12);
  const net = ['--preset', 'sagan-32-tiny', '--width', '4', '--image-size', `${size}`];
  const attention = ['--attention-g', '4,8', '--attention-d', '8', '--batch', '4'];
  const call = ['train', '--data', at('images'), '--out', run, ...net, ...attention];
  await runWell([...call, '--steps', '6', '--sample-every', '3', '--checkpoint-every', '3']);
});

describe('attention', () => {
  test('draws a row a block and a column a point, and says where each looks most', async () => {
    const out = at('overlay.png');
    const points = ['--at', '0,0', '--at', '15,7'];
    const { stdout } = await runWell([
      'attention',
      '--run',
      run,
      '--image',
      '3',
      ...points,
      '--out',
      out,
    ]);
    expect(stdout).toMatch(/overlay\.png: image 3 of seed 0 at step 6 \(ema weights\)$/m);
    expect(stdout).toMatch(/^ +1 +main\.3 +0 +-?0\.\d{4} +0,0 red +\d+,\d+ +\d+ of 16$/m);
    expect(stdout).toMatch(/^ +2 +main\.7 +0 +-?0\.\d{4} +15,7 green +\d+,\d+ +\d+ of 64$/m);
    expect(decodePng(readFileSync(out))).toMatchObject({ width: 8 + 3 * 264, height: 8 + 2 * 264 });
  });

  test('training wrote what the averaged generator looked at, at each sampling', () => {
    expect(namesIn(at('run', 'attention'))).toEqual(['step-0000003.json', 'step-0000006.json']);
  });

  test('refuses a block that there is not, with those that there are', async () => {
    const out = at('none.png');
    const call = ['attention', '--run', run, '--layer', 'main.4', '--out', out];
    expect(complaintOf(await runCli(call))).toMatch(
      /^--layer main\.4 is unknown; did you mean main\.[37]\? There are main\.3, main\.7$/,
    );
    expect(existsSync(out)).toBe(false);
  });
});

describe('sample', () => {
  test('interrupted it leaves whole files, and goes on from there', async () => {
    const into = at('interrupted');
    const call = sample('--n', '4000', '--each', into);
    const process = startCli(call);
    await process.until('images are there', () => existsSync(into) && namesIn(into).length > 20);
    process.kill('SIGINT');
    const { code, stdout, stderr } = await process.result;
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
    expect(stdout).toMatch(/^stopped: \d+ of 4000 are left; the same command goes on in /m);
    const names = namesIn(into).filter((name) => name.endsWith('.png'));
    expect(names.length).toBeLessThan(4000);
    for (const name of names) expect(decodePng(bytes('interrupted', name)).width).toBe(size);
    const { stdout: more } = await runWell(sample('--n', `${names.length + 2}`, '--each', into));
    expect(more).toContain(`${names.length} were there`);
  });

  test('goes from seed to seed in an animation', async () => {
    const moving = at('way.apng');
    await runWell(sample('--seeds', '4,9', '--interpolate', '5', '--out', moving));
    const frames = chunksOf(readFileSync(moving)).filter(({ type }) => type === 'fcTL');
    expect(frames).toHaveLength(10);
  });
});
