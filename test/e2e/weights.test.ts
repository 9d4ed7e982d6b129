// PyTorch's weights to a run, samples, and out again, as a user does it; and the mistakes on the way.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';
import { snapshot } from '../support/files.ts';

const folder = tempFolder();
const at = (...path: string[]) => join(folder, ...path);
const weights = fileURLToPath(new URL('../golden/sagan_weights.safetensors', import.meta.url));
/** The nets of golden_weights.py. */
const net = [
  ...['--preset', 'sagan-32-tiny', '--image-size', '16', '--width', '4'],
  ...['--latent-size', '6', '--attention-at', '4', '--batch', '4'],
];
const run = at('run');

test('weights come in, make images and go out', async () => {
  const both = [weights, '--discriminator', weights];
  const { stdout } = await runWell(['import', ...both, '--out', run, ...net]);
  expect(stdout).toMatch(/^.*run: a run of sagan-32-tiny at step 0$/m);
  expect(stdout).toMatch(
    /^generator +33 tensors of .* under netG\., 28 others left aside; its av/m,
  );
  expect(stdout).toMatch(/^discriminator +25 tensors of .* under netD\., /m);
  expect(stdout).toMatch(/^optimisers +fresh/m);
  await runWell(['sample', '--run', run, '--n', '4', '--out', at('grid.png')]);
  expect(existsSync(at('grid.png'))).toBe(true);
  const out = at('g.onnx');
  const written = await runWell(['export', '--run', run, '--format', 'onnx', '--out', out]);
  expect(written.stdout).toMatch(/g\.onnx: average of sagan-32-tiny after step 0, \d+ nodes$/m);
  expect(readFileSync(out).length).toBeGreaterThan(10_000);
});

/** Each mistake, what is typed, and what the one line must say. */
const mistakes: Record<string, readonly [() => readonly string[], RegExp]> = {
  'an unknown format': [
    () => ['export', '--run', run, '--format', 'onx', '--out', at('x.onnx')],
    /^--format onx is unknown; did you mean onnx\? There are safetensors, onnx$/,
  ],
  'a file that is there already': [
    () => ['export', '--run', run, '--format', 'onnx', '--out', at('g.onnx')],
    /^--out .*g\.onnx is there already; choose another name$/,
  ],
  'weights of another architecture': [
    () => ['import', weights, '--out', at('other'), ...net, '--width', '8'],
    /^weight file .* under netG\., for sagan-32-tiny, is of another architecture: main\.0\.weight_orig is \[6, 8, 4, 4\], needed \[6, 16, 4, 4\]; .* and \d+ more$/,
  ],
};

describe('a mistake gets one clear line, exit code 2, and nothing is written', () => {
  test.each(Object.entries(mistakes))('%s', async (_name, [args, message]) => {
    const before = snapshot(folder);
    expect(complaintOf(await runCli(args()))).toMatch(message);
    expect(snapshot(folder)).toEqual(before);
  });
});
