import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { namesIn, snapshot } from '../support/files.ts';
import { writeIdx, writeImages } from '../support/images.ts';

const folder = tempFolder();
const at = (...path: string[]) => join(folder, ...path);
const images = at('images');
const out = at('out');
const net = ['--preset', 'sagan-32-tiny', '--width', '8', '--batch', '4'];

beforeAll(async () => {
  const files = await writeImages(images, 12);
  await writeImages(at('broken'), 12);
  const cut = at(
    'broken',
    files.find((file) => file.endsWith('.jpg'))!,
  );
  const bytes = readFileSync(cut);
  writeFileSync(cut, bytes.subarray(0, bytes.length / 2));
  mkdirSync(at('texts', 'deep'), { recursive: true });
  writeFileSync(at('texts', 'deep', 'notes.txt'), 'no picture');
  mkdirSync(at('empty'));
  writeIdx(at('idx'), { magic: 0x0d03 });
  writeFileSync(at('file'), 'already here');
  const configs = {
    'unknown-key': 'preset: sagan-32-tiny\nbacth: 8\n',
    'unknown-preset': 'preset: sagan-23\n',
    'bad-value': 'batch: many\n',
    'not-yaml': 'batch: [8\n  steps: }{\n',
    list: '- batch\n- 8\n',
  };
  for (const [name, text] of Object.entries(configs)) writeFileSync(at(`${name}.yaml`), text);
});

const train = ['train', '--data', images, '--out', out, ...net];
const config = (name: string) => [...train, '--config', at(`${name}.yaml`)];

/** Each mistake, what is typed, and what the one line must say. */
const mistakes: Record<string, readonly [readonly string[], RegExp]> = {
  'no such folder': [
    [...train, '--data', at('nowhere')],
    /^no such folder or file: .*nowhere; --data takes/,
  ],
  'a file for a folder': [
    [...train, '--data', at('file')],
    /file is a file of no kind that is read here; --data/,
  ],
  'a folder with no images': [
    [...train, '--data', at('texts')],
    /^no images in .*texts: looked for \.png .*found 1 other files \(1 \.txt\)$/,
  ],
  'an empty folder': [
    [...train, '--data', at('empty')],
    /^no images in .*empty: .*found no files$/,
  ],
  'an unknown avatar style': [
    [...train, '--data', 'avatars:thumb'],
    /^unknown avatar style "thumb"; there are .*thumbs/,
  ],
  'a truncated image with --strict': [
    [...train, '--data', at('broken'), '--strict'],
    /^1 of 12 images in .*broken cannot be decoded: .*image-1\.jpg \(.+\); remove them, or leave out --strict$/,
  ],
  'the wrong IDX magic': [
    [...train, '--data', at('idx')],
    /train-images-idx3-ubyte has the wrong magic number: found 0x00000d03 .*, expected 0x00000803/,
  ],
  'an unknown preset': [
    [...train, '--preset', 'sagan-23'],
    /^--preset sagan-23 is unknown; did you mean sagan-32\? There are sagan-32-tiny, /,
  ],
  'an image size that is no power of two': [
    [...train, '--image-size', '48'],
    /^--image-size 48 is impossible: it must be a power of two from 8 to 512$/,
  ],
  'an image size that is too small': [[...train, '--image-size', '4'], /^--image-size 4 is imposs/],
  'an image size that is too large': [
    [...train, '--image-size', '1024'],
    /^--image-size 1024 is i/,
  ],
  'attention where there is no such feature size': [
    [...train, '--attention-g', '12'],
    /^--attention-g 12 is no feature size of a 32-pixel image; there are 4, 8, 16$/,
  ],
  'two channels': [[...train, '--channels', '2'], /^--channels is 2: expected 1 or 3$/],
  'a batch of nothing': [[...train, '--batch', '0'], /^--batch is 0: expected 1 or more$/],
  'half a step': [[...train, '--steps', '1.5'], /^--steps is 1\.5: expected a whole number$/],
  'a negative rate': [[...train, '--lr-g', '-1'], /^--lr-g is -1: expected more than 0$/],
  'a decay of one': [[...train, '--beta1', '1'], /^--beta1 is 1: expected less than 1$/],
  'a word for a number': [
    [...train, '--batch', 'eight'],
    /--batch <number>.*"eight" is not a number/,
  ],
  'an unknown loss': [
    [...train, '--loss', 'hing'],
    /^--loss hing is unknown; did you mean hinge\?/,
  ],
  'an unknown flag': [
    [...train, '--bacth', '8'],
    /^unknown option '--bacth' \(Did you mean --batch\?\)$/,
  ],
  'an unknown command': [['trian'], /^unknown command 'trian' \(Did you mean train\?\)$/],
  'a value too many': [[...train, 'more'], /^too many arguments for 'train'/],
  'an unknown config key': [
    config('unknown-key'),
    /unknown-key\.yaml: unknown key bacth; did you mean batch\?$/,
  ],
  'an unknown preset in a config': [
    ['train', '--data', images, '--out', out, '--config', at('unknown-preset.yaml')],
    /unknown-preset\.yaml: preset sagan-23 is unknown; did you mean sagan-32\?/,
  ],
  'a wrong value in a config': [
    ['train', '--data', images, '--out', out, '--config', at('bad-value.yaml')],
    /bad-value\.yaml: batch is "many": expected a number$/,
  ],
  'a config that is not YAML': [config('not-yaml'), /^config .*not-yaml\.yaml is not YAML: /],
  'a config that is a list': [config('list'), /list\.yaml must be a map of options/],
  'a config that is not there': [
    config('absent'),
    /^cannot read config .*absent\.yaml: no such file/,
  ],
  'no --data': [
    ['train', '--out', out, ...net],
    /^--data is missing: name a folder or zip of images/,
  ],
  'no --out': [
    ['train', '--data', images, ...net],
    /^--out is missing: name a folder for the run$/,
  ],
  'an output below a file': [
    [...train, '--out', at('file', 'run')],
    /^--out .*run: .*file is a file, not a folder; choose another --out$/,
  ],
  'an output that is a file': [
    [...train, '--out', at('file')],
    /^--out .*file is a file, not a folder; choose another --out$/,
  ],
  'an output among the images of --data': [
    [...train, '--out', at('images', 'a', 'run')],
    /^--out .*run lies in the data folder .*images: its sample grids would become training images/,
  ],
  'an empty --out': [
    [...train, '--out', ''],
    /^option '--out <dir>' argument '' is invalid\. It is/,
  ],
  'an empty --data': [[...train, '--data', ''], /^--data is "": expected some text$/],
  'an empty --config': [[...train, '--config', ''], /^option '--config <file>' .* It is empty\.$/],
  'an empty --out of the demo': [['demo', '--out', ''], /^option '--out <dir>' .* It is empty\.$/],
  'a rate that is not finite': [
    [...train, '--lr-g', 'Infinity'],
    /^--lr-g is Infinity: expected a finite number$/,
  ],
  'a step of too many launches': [
    [...train, '--d-steps', '300'],
    /^--d-steps is 300: expected 100 or less$/,
  ],
  'an unknown adapter': [
    [...train, '--adapter', 'nonsense'],
    /^no adapter matches --adapter nonsense; there is: .+ \((software|integrated|discrete)\)/,
  ],
  'sampling from no run': [
    ['sample', '--run', at('nowhere'), '--out', at('grid.png')],
    /^there is no run folder .*nowhere/,
  ],
  'sampling from a folder without checkpoints': [
    ['sample', '--run', at('empty'), '--out', at('grid.png')],
    /empty holds no checkpoint; train it first/,
  ],
  'sampling no images': [
    ['sample', '--run', at('empty'), '--out', at('grid.png'), '--n', '0'],
    /--n <count>.*"0" is not a whole number from 1/,
  ],
  'sampling into no PNG': [
    ['sample', '--run', at('empty'), '--out', at('keep.txt')],
    /^--out .*keep\.txt does not end in \.png: the grid is written as PNG$/,
  ],
  'sampling to an empty --out': [
    ['sample', '--run', at('empty'), '--out', ''],
    /--out.*It is empty/,
  ],
  'sampling from an empty --run': [['sample', '--run', ''], /^option '--run <dir>' .*It is empty/],
  'sampling unknown weights': [
    ['sample', '--run', at('empty'), '--out', at('grid.png'), '--weights', 'best'],
    /^--weights best is unknown; there are ema and last$/,
  ],
  'sampling without --run': [['sample'], /^required option '--run <dir>' not specified$/],
};

describe('a mistake gets one clear line, exit code 2, and nothing is written', () => {
  test.each(Object.entries(mistakes))('%s', async (_name, [args, message]) => {
    const before = snapshot(folder);
    const result = await runCli(args, { cwd: folder });
    expect(complaintOf(result)).toMatch(message);
    expect(snapshot(folder)).toEqual(before);
    expect(existsSync(out)).toBe(false);
  });

  test.runIf(process.getuid?.() !== 0)('an output folder that may not be written', async () => {
    mkdirSync(at('locked'), { mode: 0o555 });
    const args = [...train, '--out', at('locked', 'run')];
    expect(complaintOf(await runCli(args))).toMatch(/^cannot make .*run: permission denied/);
    expect(namesIn(at('locked'))).toEqual([]);
  });
});

describe('an output folder in use', () => {
  const run = at('run');

  beforeAll(async () => {
    await runWell(['train', '--data', images, '--out', run, ...net, '--steps', '2']);
  });

  test('by another run is refused, every byte of it untouched', async () => {
    const before = snapshot(run);
    expect(Object.keys(before)).toContain('config.yaml');
    const message = complaintOf(await runCli([...train, '--out', run, '--steps', '3']));
    expect(message).toMatch(/run holds another run; go on with it by --resume, or choose another/);
    expect(snapshot(run)).toEqual(before);
  });

  test('by other files is refused, every byte of them untouched', async () => {
    const before = snapshot(images);
    const message = complaintOf(await runCli([...train, '--out', images]));
    expect(message).toMatch(/images is not empty and holds no run; choose another --out$/);
    expect(snapshot(images)).toEqual(before);
  });

  test('an empty one is used', async () => {
    mkdirSync(at('fresh'));
    await runWell([...train, '--out', at('fresh'), '--steps', '1']);
    expect(namesIn(at('fresh'))).toContain('config.yaml');
  });

  test('more samples than a picture holds are refused', async () => {
    const grid = at('too-many.png');
    const args = ['sample', '--run', run, '--out', grid, '--n', '3000000'];
    expect(complaintOf(await runCli(args))).toMatch(
      /^--n 3000000 is too many for one picture: of 32×32 pixels it holds at most 65536 images; --each writes a file an image$/,
    );
    expect(existsSync(grid)).toBe(false);
  });

  test('a grid that cannot be written leaves the run alone', async () => {
    const before = snapshot(run);
    const grid = at('absent', 'grid.png');
    const message = complaintOf(await runCli(['sample', '--run', run, '--out', grid, '--n', '4']));
    expect(message).toMatch(/^cannot write .*grid\.png: no such file or folder/);
    expect(snapshot(run)).toEqual(before);
  });
});

test('a truncated image is named, counted and skipped', async () => {
  const { stdout } = await runWell([
    ...[...train, '--data', at('broken'), '--out', at('skipping')],
    ...['--steps', '1'],
  ]);
  expect(stdout).toMatch(
    /^1 of 12 images in .*broken cannot be decoded and are skipped: .*image-1\.jpg \(/m,
  );
  expect(stdout).toMatch(/^data +11 images in 3 classes from .*, 1 skipped$/m);
});

describe('a batch too large for memory', () => {
  const memory = ['--memory', '32'];

  test('is refused before the first step with the largest that fits, and that one starts', async () => {
    const large = at('large');
    const call = (batch: number) => [
      ...['train', '--data', images, '--out', large, ...net, ...memory],
      ...['--batch', `${batch}`, '--steps', '1'],
    ];
    const refused = await runCli(call(4096));
    const message = complaintOf(refused);
    expect(message).toMatch(
      /^--batch 4096 does not fit .*32 MiB.*; the largest that does is --batch \d+$/,
    );
    expect(existsSync(large)).toBe(false);
    // Before the data are decoded, which may take long.
    expect(refused.stdout).not.toContain('images');
    const most = Number(/--batch (\d+)$/.exec(message)?.[1]);
    expect(complaintOf(await runCli(call(most + 1)))).toContain(`is --batch ${most}`);
    const { stdout } = await runWell(call(most));
    expect(stdout).toContain('finished 1 steps');
  });

  test('is refused where not even one image fits', async () => {
    const none = at('none');
    const args = ['train', '--data', images, '--out', none, '--preset', 'sagan-32'];
    const message = complaintOf(await runCli([...args, ...memory]));
    expect(message).toMatch(/a smaller preset/);
    expect(existsSync(none)).toBe(false);
  });
});
