import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PNG } from 'pngjs';
import { zipSync } from 'fflate';
import { expect, test } from 'vitest';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { freshCache } from '../support/cache.ts';
import { namesIn } from '../support/files.ts';
import { writeImages } from '../support/images.ts';

const folder = tempFolder();
const at = (name: string) => join(folder, name);

test('data inspect says what a zip holds, and draws a sheet', async () => {
  const files = await writeImages(at('photos'), 12);
  const members = files.map((file) => [`photos/${file}`, readFileSync(join(at('photos'), file))]);
  const bad = Buffer.from('no picture');
  const zip = zipSync({
    ...Object.fromEntries(members),
    'photos/bad.png': bad,
    'photos/ä\u001b[2J.png': bad,
  });
  writeFileSync(at('photos.zip'), zip);
  const { stdout } = await runWell(
    ['data', 'inspect', 'photos.zip', '--out', 'sheet.png', '--json', 'report.json'],
    { cwd: folder },
  );
  expect(stdout).toContain('images      14 files, 0.0 MiB\n');
  expect(stdout).toContain('formats     jpeg 4, webp 4, png 4\n');
  expect(stdout).toContain('            bad.png: unsupported image format\n');
  expect(stdout).toContain('            ä?[2J.png: unsupported image format\n');
  expect(stdout).toContain('classes     3, of 3 to 6 images; --balanced shows all as often\n');
  const report = JSON.parse(readFileSync(at('report.json'), 'utf8'));
  expect(report).toMatchObject({
    kind: 'zip',
    files: 14,
    usable: 12,
    classes: { a: 6, b: 3, '.': 3 },
  });
  const sheet = PNG.sync.read(readFileSync(at('sheet.png')));
  expect([sheet.width, sheet.height]).toEqual([160 + 2 + 16 * 66, 2 + 3 * 66]);
});

test('a run on a zip keeps no name outside its folder, decodes once, and goes on balanced', async () => {
  const env = freshCache(folder);
  const train = ['train', '--adapter', 'software', '--preset', 'sagan-32-tiny', '--batch', '4'];
  const rest = ['--data', 'photos.zip', '--balanced', '--resize', 'crop', '--log-every', '2'];
  const first = await runWell([...train, ...rest, '--steps', '4', '--out', 'run'], {
    cwd: folder,
    env,
  });
  expect(first.stdout).toMatch(/^waited {6}\d+\.\d % of the time for images$/m);
  const config = readFileSync(at('run/config.yaml'), 'utf8');
  expect(config).toContain('resize: crop\n');
  const lines = readFileSync(at('run/metrics.jsonl'), 'utf8').trim().split('\n');
  for (const line of lines) {
    const { wait } = JSON.parse(line) as { wait: number };
    expect(wait).toBeGreaterThanOrEqual(0);
    expect(wait).toBeLessThanOrEqual(1);
  }
  const [set = ''] = namesIn(at('cache/wgsagan/pixels'));
  const [shard = ''] = namesIn(at(`cache/wgsagan/pixels/${set}`));
  expect([set, shard]).toEqual([
    expect.stringMatching(/^[0-9a-f]{40}$/),
    expect.stringMatching(/\.shard$/),
  ]);
  expect(readFileSync(at(`cache/wgsagan/pixels/${set}/${shard}`)).includes('image-')).toBe(false);
  const refused = await runCli(
    ['train', '--resume', '--no-balanced', '--steps', '6', '--out', 'run'],
    { cwd: folder, env },
  );
  expect(complaintOf(refused)).toMatch(/^--balanced is off now and was on when the run was saved/);
  await runWell(['train', '--resume', '--steps', '6', '--adapter', 'software', '--out', 'run'], {
    cwd: folder,
    env,
  });
  expect(namesIn(at(`cache/wgsagan/pixels/${set}`))).toEqual([shard]);
});
