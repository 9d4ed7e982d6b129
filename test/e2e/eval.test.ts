// Evaluation from the command line: while training, and of the checkpoints that it leaves.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Evaluation } from '../../src/train/eval/evaluate.ts';
import { readEvaluations } from '../../src/train/eval/lines.ts';
import { freshCache } from '../support/cache.ts';
import { complaintOf, runCli, startCli, tempFolder } from '../support/cli.ts';

const folder = tempFolder();
const at = (...path: string[]) => join(folder, ...path);
const env = freshCache(folder);
const net = ['--preset', 'sagan-32-tiny', '--image-size', '8', '--width', '4', '--batch', '4'];
const every = ['--sample-every', '100', '--checkpoint-every', '100', '--ema-start', '1'];
const call = (out: string, more: readonly string[]) => [
  ...['train', '--data', at('data'), '--out', at(out), ...net, ...every, ...more],
];
const checkpoint = (out: string, name: string) =>
  readFileSync(at(out, 'checkpoints', `${name}.safetensors`));

async function well(args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await runCli(args, { env });
  expect(code, stderr).toBe(0);
  return stdout;
}

beforeAll(async () => {
  mkdirSync(at('data'));
  for (let i = 0; i < 12; i++) {
    const background = { r: 20 * i, g: 255 - 20 * i, b: 90 };
    const plain = sharp({ create: { width: 8, height: 8, channels: 3, background } });
    await plain.png().toFile(at('data', `${i}.png`));
  }
  const evaluated = ['--steps', '6', '--eval-every', '2', '--eval-samples', '20'];
  const stdout = await well(call('run', evaluated));
  expect(stdout.match(/^eval +step [246]: FD [\d.]+, KID /gm)).toHaveLength(3);
});

test('a run is measured at its intervals, the best checkpoint is kept, and no bit of it is another', async () => {
  const lines = readEvaluations(at('run'));
  expect(lines.map(({ step }) => step)).toEqual([2, 4, 6]);
  for (const line of lines) {
    expect(line).toMatchObject({ extractor: 'classifier-own (quarter turns)', n: 20, real: 12 });
    expect(line.weights).toMatch(/^[0-9a-f]{64}$/);
    expect(line).not.toHaveProperty('fid');
  }
  const best = lines.reduce((a, b) => (b.fd! < a.fd! ? b : a));
  expect(checkpoint('run', 'best').equals(checkpoint('run', `step-000000${best.step}`))).toBe(true);

  await well(call('plain', ['--steps', '6']));
  // Their configs differ, which are in the head of the file, and so the checksum at its end: the tensors are what lies between.
  const tensors = (out: string) => {
    const bytes = checkpoint(out, 'step-0000006');
    return bytes.subarray(8 + Number(bytes.readBigUInt64LE()), -32);
  };
  expect(tensors('run').equals(tensors('plain'))).toBe(true);
});

test('a checkpoint has the numbers that it had while training, and a line is added', async () => {
  const json = at('result.json');
  const flags = ['--run', at('run'), '--n', '20', '--json', json];
  const stdout = await well(['eval', ...flags, '--checkpoint', 'best']);
  const found = JSON.parse(readFileSync(json, 'utf8')) as Evaluation;
  const lines = readEvaluations(at('run'));
  expect(lines).toHaveLength(4);
  expect(lines.at(-1)).toEqual(found);
  const then = lines.find(({ step }) => step === found.step);
  expect({ ...found, seconds: 0 }).toEqual({ ...then, seconds: 0 });
  expect(stdout).toContain('20 made, 12 real, resize none');
  expect(stdout).toMatch(/^FD +[\d.]+ +less$/m);
  const kept = readdirSync(at('cache', 'wgsagan', 'eval')).map((name) => name.split('-')[0]);
  expect(kept.sort()).toEqual(['classifier', 'features']);
});

test('a run that goes on keeps the best so far, and adds to what was measured', async () => {
  await well(['train', '--out', at('run'), '--resume', '--steps', '8']);
  const lines = readEvaluations(at('run'));
  expect(lines.filter(({ step }) => step > 6).map(({ step }) => step)).toEqual([8]);
  const best = lines.reduce((a, b) => (b.fd! < a.fd! ? b : a));
  const bytes = checkpoint('run', 'best');
  const head = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE())).toString()) as {
    __metadata__: { step: string };
  };
  expect(Number(head.__metadata__.step)).toBe(best.step);
});

test('an evaluation that did not come to its end is made when the run goes on', async () => {
  const path = at('run', 'eval.jsonl');
  const before = readEvaluations(at('run'));
  expect(before.at(-1)!.step).toBe(8);
  // As a run leaves it that is killed between its checkpoint and the end of its evaluation.
  writeFileSync(path, readFileSync(path, 'utf8').replace(/.*\n$/, ''));
  await well(['train', '--out', at('run'), '--resume', '--steps', '10']);
  const after = readEvaluations(at('run'));
  expect(after.map(({ step }) => step)).toEqual([...before.map(({ step }) => step), 10]);
  expect({ ...after.at(-2), seconds: 0 }).toEqual({ ...before.at(-1), seconds: 0 });
});

/** In the process of the command, opening a file so (flags and path) takes long. */
const slow = (opening: string) => {
  const code = `
    import fs from 'node:fs/promises';
    import { syncBuiltinESMExports } from 'node:module';
    const { open } = fs;
    fs.open = async (path, flags, ...more) => {
      const late = (flags + ' ' + path).includes(${JSON.stringify(opening)});
      if (late) await new Promise((resolve) => setTimeout(resolve, 5_000));
      return open(path, flags, ...more);
    };
    syncBuiltinESMExports();`;
  return { ...env, NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(code)}` };
};

describe('the evaluation of the last step', { timeout: 120_000 }, () => {
  const two = ['--steps', '2', '--eval-every', '2', '--eval-samples', '20'];
  const resume = (out: string) => ['train', '--out', at(out), '--resume'];
  const last = (out: string) => at(out, 'checkpoints', 'step-0000002.safetensors');
  const best = (out: string) => at(out, 'checkpoints', 'best.safetensors');

  /** `--resume` makes it, changes no bit of the training, and is refused from then on. */
  async function expectMadeUp(out: string): Promise<void> {
    const trained = () => [last(out), at(out, 'metrics.jsonl')].map((path) => readFileSync(path));
    const before = trained();
    expect(readEvaluations(at(out))).toEqual([]);
    const stdout = await well(resume(out));
    expect(stdout).toMatch(/^eval +step 2: FD [\d.]+, KID .*\n(.*\n)*finished 2 steps$/m);
    const lines = readEvaluations(at(out)).map((line) => ({ ...line, seconds: 0 }));
    expect(lines).toEqual([{ ...readEvaluations(at('run'))[0], seconds: 0 }]);
    expect(readFileSync(best(out)).equals(readFileSync(last(out)))).toBe(true);
    expect(readFileSync(at(out, 'report.html'), 'utf8')).toContain('"fd/');
    expect(trained()).toEqual(before);
    expect(complaintOf(await runCli(resume(out), { env }))).toBe(
      `${at(out)} has 2 steps already; give more by --steps to go on`,
    );
  }

  test.each([
    ['as it began', 'killed-early', `r ${last('killed-early')}`, last('killed-early')],
    [
      'before its line was written',
      'killed-late',
      `wx ${at('killed-late', '.eval.jsonl')}`,
      best('killed-late'),
    ],
  ])('is made by --resume where the run was killed %s', async (_when, out, opening, sign) => {
    const process = startCli(call(out, two), { env: slow(opening) });
    await process.until(sign, () => existsSync(sign));
    process.kill('SIGKILL');
    await process.result;
    await expectMadeUp(out);
  });

  test('is left to --resume by a run that is told to stop, as often as it is told', async () => {
    const out = 'stopped';
    const options = { env: slow(`r ${last(out)}`) };
    const first = startCli(call(out, two), options);
    await first.until('the checkpoint', () => existsSync(last(out)));
    first.kill('SIGTERM');
    const { code, stdout } = await first.result;
    expect([code, stdout]).toEqual([75, expect.stringContaining('stopped after step 2, saved')]);
    const second = startCli(resume(out), options);
    await second.until('the data', () => second.output().stdout.includes('data  '));
    second.kill('SIGTERM');
    expect((await second.result).code).toBe(75);
    await expectMadeUp(out);
  });
});

test('what cannot be measured is said in one line, and nothing is written', async () => {
  const said = async (...args: string[]) => complaintOf(await runCli(args, { env }));
  const flags = ['eval', '--run', at('run')];
  const before = readFileSync(at('run', 'eval.jsonl'), 'utf8');
  expect(await said(...flags, '--metrics', 'fd,kdi')).toContain(
    'kdi is unknown; did you mean kid?',
  );
  expect(await said(...flags, '--n', '5')).toBe('5 images are too few to measure; at least 6');
  writeFileSync(at('no.safetensors'), 'no');
  expect(await said(...flags, '--classifier', at('no.safetensors'))).toContain('no.safetensors');
  expect(readFileSync(at('run', 'eval.jsonl'), 'utf8')).toBe(before);
});
