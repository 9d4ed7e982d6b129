import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { resultSchema } from '../../bench/results.ts';
import { runPeersOf } from '../../src/cli/peers.ts';
import { complaintOf, runCli, runWell, tempFolder } from '../support/cli.ts';

const folder = tempFolder();
const at = (...path: string[]) => join(folder, ...path);
const quick = ['--rounds', '3', '--seconds', '1'];

test('bench measures every rung, keeps the result, and report puts it into a README', async () => {
  const saved = at('results');
  const { stdout } = await runWell([
    ...['bench', 'matmul', '--sizes', '24x20x16', '--trans', 'nn,tn', ...quick],
    ...['--save', saved],
  ]);
  expect(stdout).toMatch(/^bench matmul\n.*\n {2}robustness on; toggles on: /);
  expect(stdout).toMatch(/^24×20×16 {3,}forward {2}matmul\/1_naive /m);
  expect(stdout).toMatch(/^24×20×16 tn /m);
  expect(stdout.match(/matmul\/\w+ ✓ /g)).toHaveLength(2);
  const [file = ''] = readdirSync(saved);
  expect(file).toMatch(/^matmul-.+\.json$/);
  const result = resultSchema.parse(JSON.parse(readFileSync(join(saved, file), 'utf8')));
  expect(result.cases).toHaveLength(2);

  const readme = at('README.md');
  const markers = '<!-- bench:matmul -->\n\n<!-- /bench:matmul -->\n';
  writeFileSync(readme, markers);
  const report = ['bench', 'report', '--readme', readme, '--results', saved];
  expect(complaintOf(await runCli([...report, '--check']))).toMatch(
    /README\.md is not what .* says: run/,
  );
  expect(readFileSync(readme, 'utf8')).toBe(markers);
  await runWell(report);
  expect(readFileSync(readme, 'utf8')).toMatch(/\| 24×20×16 +\| forward \| matmul\/\w+ +\| /);
  await runWell([...report, '--check']);
});

test('bench takes its cases from a file, and writes the format of the file that it is to write', async () => {
  const cases = at('cases.yaml');
  writeFileSync(cases, '- { rows: 8, cols: 12 }\n');
  const common = ['bench', 'spectral', '--cases', cases, ...quick];
  for (const [name, begin] of [
    ['a.svg', '<svg '],
    ['a.json', '{\n  "kind": "ladder"'],
  ] as const) {
    const { stdout } = await runWell([...common, '--out', at(name), '--no-robustness']);
    expect(stdout).toBe('');
    expect(readFileSync(at(name), 'utf8').startsWith(begin)).toBe(true);
  }
  expect(JSON.parse(readFileSync(at('a.json'), 'utf8'))).toMatchObject({
    environment: {
      robustness: 'off',
      toggles: { enabled: expect.arrayContaining(['disable_robustness']) },
    },
  });
});

test('bench step measures a step of a preset', async () => {
  const { stdout } = await runWell([
    'bench',
    'step',
    '--preset',
    'sagan-32-tiny',
    '--batch',
    '2',
    '--rounds',
    '3',
    '--format',
    'csv',
  ]);
  expect(stdout).toMatch(/^preset,precision,batch,ms,.*\nsagan-32-tiny,f32,2,[\d.]+,/);
});

test('bench overhead holds a step with attention to one without', async () => {
  const { stdout } = await runWell([
    ...['bench', 'overhead', '--preset', 'sagan-32-tiny:2', '--kind', 'plain,linear'],
    ...['--rounds', '3', '--format', 'csv'],
  ]);
  const rows = stdout.trimEnd().split('\n').slice(1);
  expect(rows.map((row) => row.split(',').slice(0, 5).join())).toEqual([
    'sagan-32-tiny,none,8×8,f32,2',
    'sagan-32-tiny,plain,8×8,f32,2',
    'sagan-32-tiny,linear,8×8,f32,2',
  ]);
  const [none, plain] = rows.map((row) => Number(row.split(',').at(-2)));
  expect(plain).toBeGreaterThan(none ?? NaN);
});

describe('mistakes', () => {
  const mistakes: Record<string, readonly [readonly string[], RegExp]> = {
    'an unknown bench': [
      ['bench', 'matmull'],
      /^unknown command 'matmull'.*[Dd]id you mean matmul\?/,
    ],
    'too many sizes': [
      ['bench', 'matmul', '--sizes', '1x2x3x4x5'],
      /^--sizes 1x2x3x4x5: matmul takes/,
    ],
    'a size of nothing': [
      ['bench', 'softmax', '--sizes', '8x'],
      /^cols \(nothing\) is no whole number/,
    ],
    'a case that is not whole': [
      ['bench', 'conv', '--n', '2'],
      /^a case of conv lacks --c, --k, --size, --window$/,
    ],
    'a channel of one value': [
      ['bench', 'norm', '--sizes', '1x4x1'],
      /^norm: one value a channel; statistics need two or more$/,
    ],
    'an unknown word': [
      ['bench', 'matmul', '--trans', 'xy'],
      /^trans xy is unknown; it is nn or nt/,
    ],
    'an unknown pass': [
      ['bench', 'matmul', '--sizes', '4', '--pass', 'upward'],
      /^--pass upward is unknown; matmul has forward$/,
    ],
    'an unknown format': [
      ['bench', 'matmul', '--format', 'xml'],
      /^--format xml is unknown; there are table, md/,
    ],
    'no such file': [['bench', 'matmul', '--cases', at('no.yaml')], /no\.yaml/],
    'rounds of nothing': [
      ['bench', 'matmul', '--rounds', '0'],
      /--rounds.*"0" is not a whole number from 1/,
    ],
    'an unknown preset': [
      ['bench', 'step', '--preset', 'sagan-23'],
      /^--preset sagan-23 is unknown; did you mean/,
    ],
    'a batch that is none': [
      ['bench', 'step', '--preset', 'sagan-32:half'],
      /^--preset sagan-32:half: half is no batch, a whole number from 1$/,
    ],
    'an unknown kind of attention': [
      ['bench', 'overhead', '--kind', 'plane'],
      /^--kind plane is unknown; did you mean plain/,
    ],
    'a README that is not there': [
      ['bench', 'report', '--readme', at('NO.md')],
      /^there is no .*NO\.md$/,
    ],
    'an unknown preset to tune': [
      ['tune', '--preset', 'sagan-23'],
      /^--preset sagan-23 is unknown; did you mean/,
    ],
    'a limit below nothing': [['tune', '--limit', '-1'], /--limit.*"-1" is not a number above 0/],
    'an adapter that is not there': [
      ['tune', '--adapter', 'nonsense'],
      /^no adapter matches --adapter nonsense/,
    ],
  };
  test.each(Object.entries(mistakes))('%s', async (_what, [args, message]) => {
    expect(complaintOf(await runCli(args))).toMatch(message);
  });
});

test('a marker without results names the command that makes them', async () => {
  const readme = at('EMPTY.md');
  writeFileSync(readme, '<!-- bench:attention -->\n<!-- /bench:attention -->\n');
  const args = ['bench', 'report', '--readme', readme, '--results', at('nothing')];
  expect(complaintOf(await runCli(args))).toBe(
    '<!-- bench:attention --> has no results: make them by `npx wgsagan bench attention --save`',
  );
});

test('the peers are asked for where they are not', async () => {
  const none = new URL(`file://${at('none')}/`);
  await expect(runPeersOf({}, none)).rejects.toThrow(
    'bench peers is not part of the installed package',
  );
  writeFileSync(at('run.ts'), '');
  const bare = new URL(`file://${folder}/`);
  await expect(runPeersOf({}, bare)).rejects.toThrow(
    /^the peers are not installed: run `npm install --prefix /,
  );
});
