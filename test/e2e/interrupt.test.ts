import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { readMetrics } from '../../src/train/run-folder.ts';
import { type CliProcess, runWell, startCli, tempFolder } from '../support/cli.ts';
import { namesIn } from '../support/files.ts';
import { writeImages } from '../support/images.ts';

const folder = tempFolder();
const images = join(folder, 'images');
const tiny = ['--preset', 'sagan-32-tiny', '--width', '8', '--batch', '8'];
const rarely = ['--sample-every', '100000', '--checkpoint-every', '100000'];
const train = (out: string) => ['train', '--data', images, '--out', out, ...tiny, ...rarely];
const endless = (out: string) => [...train(out), '--log-every', '1', '--steps', '100000'];
/** Runs Node code before the command, in its process. */
const preload = (code: string) => ({
  env: { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(code)}` },
});
/** The command draws as on a terminal. */
const drawing = 'process.stdout.isTTY = true;';
const terminal = preload(drawing);
/** A checkpoint takes long to write. */
const slowCheckpoints = `
  import fs from 'node:fs/promises';
  import { syncBuiltinESMExports } from 'node:module';
  const { open } = fs;
  fs.open = async (path, ...more) => {
    if (path.includes('.safetensors')) await new Promise((resolve) => setTimeout(resolve, 20_000));
    return open(path, ...more);
  };
  syncBuiltinESMExports();`;
const hides = '\x1b[?25l';
const shows = '\x1b[?25h';

const running = (process: CliProcess, run: string) =>
  process.until('the second step', () => readMetrics(run).length >= 2);

function expectSaved(run: string, stdout: string): void {
  const step = /stopped after step (\d+), saved/.exec(stdout)?.[1];
  expect(step, stdout).toBeDefined();
  const name = `step-${step?.padStart(7, '0')}.safetensors`;
  expect(namesIn(join(run, 'checkpoints'))).toEqual([name]);
}

beforeAll(() => writeImages(images, 12));

describe('a signal', () => {
  test('that comes twice within 2 ms is one: npm passes on the ^C that the terminal sends too', async () => {
    const run = join(folder, 'double');
    const process = startCli(endless(run));
    await running(process, run);
    process.kill('SIGINT');
    await sleep(2);
    process.kill('SIGINT');
    const { code, stdout, stderr } = await process.result;
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
    expectSaved(run, stdout);
  });

  test('of a terminal that closes saves as ^C does', async () => {
    const run = join(folder, 'hangup');
    const process = startCli(endless(run));
    await running(process, run);
    process.kill('SIGHUP');
    const { code, stdout } = await process.result;
    expect(code).toBe(130);
    expectSaved(run, stdout);
  });

  test('again a second later quits at once, cursor and line wrap given back, the folder free', async () => {
    const run = join(folder, 'quit');
    const process = startCli(endless(run), preload(slowCheckpoints + drawing));
    await running(process, run);
    process.kill('SIGINT');
    await process.until('the first ^C', () => process.output().stdout.includes('stopping:'));
    await sleep(1100);
    process.kill('SIGINT');
    const { code, stdout } = await process.result;
    expect(code).toBe(130);
    expect(stdout).not.toContain('saved');
    expect(stdout).toContain(hides);
    expect(stdout.lastIndexOf(shows)).toBeGreaterThan(stdout.lastIndexOf(hides));
    expect(namesIn(join(run, 'checkpoints'))).toEqual([]);
    expect(existsSync(join(run, 'lock'))).toBe(false);
  });

  test('before the first step quits at once: there is nothing to save', async () => {
    const run = join(folder, 'early');
    const process = startCli(endless(run));
    await process.until('the device', () => process.output().stdout.includes('adapter'));
    process.kill('SIGINT');
    const { code, stdout } = await process.result;
    expect(code).toBe(130);
    expect(stdout).not.toContain('saved');
    await runWell([...train(join(folder, 'after')), '--steps', '1']);
  });
});

test.each([
  ['a log', {}],
  ['a bar', terminal],
])('training goes on when the reader of %s goes away', async (what, options) => {
  const run = join(folder, what);
  const often = ['--log-every', '1', '--sample-every', '5', '--steps', '40'];
  const process = startCli([...train(run), ...often], options);
  await running(process, run);
  process.stopReading();
  expect((await process.result).code).toBe(0);
  expect(namesIn(join(run, 'checkpoints'))).toEqual(['step-0000040.safetensors']);
});
