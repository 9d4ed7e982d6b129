// `wgsagan profile` and `wgsagan explain` as a user types them: what they print and write, and their mistakes.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Explanation } from '../../src/train/inspect/explain.ts';
import type { StepProfile } from '../../src/train/inspect/profile.ts';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';

const folder = tempFolder();
const at = (name: string) => join(folder, name);
const tiny = ['--preset', 'sagan-32-tiny', '--width', '8', '--batch', '2'];

/** A slow machine may be told how far it is on stderr. */
async function runProfile(args: readonly string[]) {
  const result = await runCli(['profile', ...tiny, ...args]);
  expect(result.code, result.stderr).toBe(0);
  return result.stdout;
}

describe('profile', () => {
  test('prints the step, its kernels and the measured peaks, and writes all that is asked for', async () => {
    const files = ['--json', at('p.json'), '--svg', at('roof.svg'), '--trace', at('trace.json')];
    const stdout = await runProfile(['--steps', '2', ...files]);
    for (const line of [
      /^adapter {3}\S.* \((software|integrated|discrete)\), driver .*off: .*timestamp_quantization/m,
      /^peaks {5}[\d.]+ GFLOP\/s of f32 multiply-adds, .*[\d.]+ GB\/s of copies, measured now$/m,
      /^step {6}sagan-32-tiny, batch 2: \d+ launches, [\d.]+ GFLOP, [\d.]+ ms in one pass = /m,
      /^encoding {2}[\d.]+ µs a launch, [\d.]+ ms a step$/m,
      /^memory {4}\d+ MiB planned \(\d+ MiB unplanned\) \+ \d+ MiB resident$/m,
      /^ +share +ms +GFLOP\/s +GB\/s +% of peak +roof +calls +kernel/m,
      /^ *[\d.]+ % +[\d.]+ .* (compute|memory) +\d+ +conv\/\S+/m,
    ]) {
      expect(stdout).toMatch(line);
    }
    const profile = JSON.parse(readFileSync(at('p.json'), 'utf8')) as StepProfile;
    expect(stdout).toContain(`${profile.launches.length} launches`);
    expect(profile).toMatchObject({ preset: 'sagan-32-tiny', batch: 2, replays: 2 });
    expect(profile.launches[0]).toMatchObject({ index: 0, layer: expect.any(String) });
    const trace = JSON.parse(readFileSync(at('trace.json'), 'utf8')) as { traceEvents: unknown[] };
    expect(trace.traceEvents.length).toBeGreaterThan(profile.launches.length);
    expect(readFileSync(at('roof.svg'), 'utf8')).toMatch(/^<svg .*<\/svg>\n$/s);
  });

  test('prints a row for every launch, where that is asked for', async () => {
    const stdout = await runProfile(['--steps', '1', '--by', 'launch']);
    expect(stdout).toMatch(/^ +\d+ .* D forward +images +pointwise\/images /m);
    const launches = Number(/(\d+) launches/.exec(stdout)?.[1]);
    expect(stdout.match(/^ *\d+ +[\d.]+ % /gm)).toHaveLength(launches);
  });
});

describe('explain', () => {
  test('prints the program and its memory, and writes both', async () => {
    const files = ['--json', at('e.json'), '--svg', at('memory.svg')];
    const { stdout } = await runWell(['explain', ...tiny, ...files]);
    expect(stdout).toMatch(/^sagan-32-tiny, batch 2, on .+: \d+ launches, [\d.]+ GFLOP$/m);
    expect(stdout).toMatch(/^G optimizer: launches \d+ to \d+$/m);
    expect(stdout).toMatch(/^ +\d+ {2}conv\/\S+ {2}grid [\d×]+ {2}in discriminator\.main\.0$/m);
    expect(stdout).toMatch(/^ +→ \w+: conv2d, [\d.]+ KiB, slot \d+$/m);
    expect(stdout).toMatch(/^memory: \d+ tensors in \d+ buffers; .* alive at once$/m);
    const { entries, memory } = JSON.parse(readFileSync(at('e.json'), 'utf8')) as Explanation;
    expect(stdout).toContain(`${entries.length} launches`);
    expect(memory.plannedBytes).toBeLessThan(memory.unplannedBytes);
    expect(readFileSync(at('memory.svg'), 'utf8')).toMatch(/^<svg .*<\/svg>\n$/s);
  });

  test('prints the WGSL of a launch as it ran, by number or by kernel', async () => {
    const { entries } = JSON.parse(readFileSync(at('e.json'), 'utf8')) as Explanation;
    const first = entries.find(({ kernel }) => kernel === 'pointwise/images')!.index;
    const byName = await runWell(['explain', ...tiny, '--entry', 'pointwise/images']);
    const byNumber = await runWell(['explain', ...tiny, '--entry', String(first)]);
    expect(byName.stdout).toBe(byNumber.stdout);
    expect(byName.stdout).toMatch(/^\/\/ D forward\n\/\/ +\d+ {2}pointwise\/images {2}grid /);
    const file = readFileSync(new URL('../../kernels/pointwise/images.wgsl', import.meta.url));
    expect(byName.stdout).toContain(file.toString());
    const { index, tile } = entries.find((entry) => Object.keys(entry.tile).length > 1)!;
    const { stdout } = await runWell(['explain', ...tiny, '--entry', String(index)]);
    for (const [name, value] of Object.entries(tile)) {
      expect(stdout).toMatch(new RegExp(`^const ${name}\\b.* = ${value}[uf]?;$`, 'm'));
    }
  });
});

mkdirSync(at('folder.json'));
writeFileSync(at('keep.json'), 'already here');

/** Each mistake, what is typed, and what the one line must say. */
const mistakes: Record<string, readonly [readonly string[], RegExp]> = {
  'an unknown grouping': [
    ['profile', '--by', 'colour'],
    /'--by <what>' argument 'colour' is invalid\. Allowed choices are kernel, layer, pass, launch\.$/,
  ],
  'no replay at all': [['profile', '--steps', '0'], /"0" is not a whole number from 1\.$/],
  'an unknown preset': [['profile', '--preset', 'sagan-23'], /^--preset sagan-23 is unknown; did/],
  'a batch that is none': [['explain', '--batch', '0'], /^--batch is 0: expected 1 or more$/],
  'an option that has no part in a step': [
    ['profile', '--sample-every', '5'],
    /^unknown option '--sample-every'/,
  ],
  'a picture that is no picture': [
    ['profile', '--svg', at('keep.json')],
    /^--svg .*keep\.json does not end in \.svg: the roofline is written as SVG$/,
  ],
  'a folder for a file': [
    ['explain', '--json', at('folder.json')],
    /^--json .*folder\.json is a folder, not a file$/,
  ],
  'a folder that is not there': [
    ['profile', '--trace', at('nowhere/trace.json')],
    /^cannot write .*trace\.json: no such file or folder \(ENOENT\)$/,
  ],
  'an empty name': [['profile', '--json', ''], /It is empty\.$/],
  'a launch past the last': [
    ['explain', ...tiny, '--entry', '100000'],
    /^--entry 100000 is past the end: the step has launches 0 to \d+$/,
  ],
  'a kernel that does not run': [
    ['explain', ...tiny, '--entry', 'pointwise/image'],
    /^--entry pointwise\/image is no launch's number and no kernel of this step; did you mean pointwise\/images\?$/,
  ],
  'an adapter that is not there': [
    ['profile', '--adapter', 'nonsense'],
    /^no adapter matches --adapter nonsense; there is: /,
  ],
};

describe('a mistake is one line and exit code 2', () => {
  test.each(Object.entries(mistakes))('%s', async (_name, [args, message]) => {
    const result = await runCli(args);
    expect(complaintOf(result)).toMatch(message);
    expect(result.stdout).toBe('');
  });

  test('and nothing is written or overwritten', () => {
    expect(readFileSync(at('keep.json'), 'utf8')).toBe('already here');
    expect(existsSync(at('nowhere'))).toBe(false);
  });
});
