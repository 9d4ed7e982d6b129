import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { readMetrics } from '../../src/train/run-folder.ts';
import {
  type CliProcess,
  complaintOf,
  runCli,
  runWell,
  startCli,
  tempFolder,
} from '../support/cli.ts';
import { namesIn, snapshot } from '../support/files.ts';
import { writeImages } from '../support/images.ts';

const folder = tempFolder();
const images = join(folder, 'images');
const net = ['--preset', 'sagan-32-tiny', '--width', '8', '--batch', '8', '--log-every', '1'];
const train = (out: string) => ['train', '--data', images, '--out', out, ...net];
const resume = (out: string) => ['train', '--out', out, '--resume'];
const checkpoint = 'checkpoints/step-0000004.safetensors';
const whole = join(folder, 'whole');

const running = (process: CliProcess, run: string) =>
  process.until('the second step', () => readMetrics(run).length >= 2);

beforeAll(async () => {
  await writeImages(images, 12);
  await runWell([...train(whole), '--steps', '4']);
});

describe('a run that was killed before its first checkpoint', () => {
  test('is begun again by --resume, from its config, to the same bits', async () => {
    const run = join(folder, 'killed');
    const killed = startCli([...train(run), '--steps', '100000']);
    await running(killed, run);
    killed.kill('SIGKILL');
    await killed.result;
    expect(namesIn(join(run, 'checkpoints'))).toEqual([]);
    const { stdout } = await runWell([...resume(run), '--steps', '4']);
    expect(stdout).toMatch(
      /^resumed +at step 0, from config\.yaml: .*killed has no checkpoint yet$/m,
    );
    expect(readMetrics(run).map((line) => line.step)).toEqual([1, 2, 3, 4]);
    expect(readFileSync(join(run, checkpoint))).toEqual(readFileSync(join(whole, checkpoint)));
  });

  test('or while its folder was made, leaves a folder that can be used', async () => {
    const run = join(folder, 'unmade');
    for (const name of ['samples', 'checkpoints']) mkdirSync(join(run, name), { recursive: true });
    writeFileSync(join(run, '.config.yaml.4194000-0.tmp'), 'data: x');
    // The number of no process.
    const dead = { pid: 2 ** 22 + 1, host: os.hostname(), started: null };
    writeFileSync(join(run, 'lock'), JSON.stringify(dead));
    await runWell([...train(run), '--steps', '4']);
    expect(namesIn(run)).toEqual(namesIn(whole));
    expect(readFileSync(join(run, checkpoint))).toEqual(readFileSync(join(whole, checkpoint)));
  });

  test('is not one with something in its folders', async () => {
    const run = join(folder, 'used');
    mkdirSync(join(run, 'samples'), { recursive: true });
    writeFileSync(join(run, 'samples', 'mine.png'), 'mine');
    const before = snapshot(run);
    expect(complaintOf(await runCli(train(run)))).toMatch(/is not empty and holds no run/);
    expect(snapshot(run)).toEqual(before);
  });
});

describe('two processes and one run', () => {
  test('the second is refused while the first lives, and takes over when it is dead', async () => {
    const run = join(folder, 'shared');
    const first = startCli([...train(run), '--steps', '100000', '--checkpoint-every', '2']);
    await running(first, run);
    const use = new RegExp(`shared is in use by process ${first.pid}; wait for it, or stop it$`);
    expect(complaintOf(await runCli(resume(run)))).toMatch(use);
    expect(complaintOf(await runCli(train(run)))).toMatch(use);
    first.kill('SIGKILL');
    await first.result;
    expect(namesIn(run)).toContain('lock');
    const steps = `${(readMetrics(run).at(-1)?.step ?? 0) + 10}`;
    await runWell([...resume(run), '--steps', steps]);
    expect(namesIn(run)).not.toContain('lock');
  });

  test('started at once on a new folder: one trains', async () => {
    const run = join(folder, 'race');
    const both = await Promise.all([1, 2].map(() => runCli([...train(run), '--steps', '40'])));
    expect(both.map((result) => result.code).sort()).toEqual([0, 2]);
    const loser = both.find((result) => result.code === 2);
    expect(complaintOf(loser!)).toMatch(/is in use by process \d+;|holds another run/);
    expect(readMetrics(run)).toHaveLength(40);
  });

  test('a lock of another machine is refused with the way out, one whose number was given anew is not', async () => {
    const run = join(folder, 'elsewhere');
    cpSync(whole, run, { recursive: true });
    const lock = join(run, 'lock');
    const write = (holder: object) => {
      writeFileSync(lock, JSON.stringify(holder));
    };
    write({ pid: 7, host: 'another', started: null });
    const call = [...resume(run), '--steps', '5'];
    expect(complaintOf(await runCli(call))).toMatch(
      /in use by process 7 on another; if it no longer runs there, remove .*lock$/,
    );
    expect(existsSync(lock)).toBe(true);
    // This process lives, but started at another time.
    write({ pid: process.pid, host: os.hostname(), started: 'another boot/1' });
    await runWell(call);
    expect(existsSync(lock)).toBe(false);
  });
});

describe('from another folder', () => {
  test('a run on a relative --data is resumed, by the command as it was printed', async () => {
    const run = 'my run é';
    const call = ['train', '--data', 'images', '--out', run, ...net, '--steps', '2', '--flip'];
    const { stdout } = await runWell(call, { cwd: folder });
    expect(stdout).toContain("npx wgsagan train --out 'my run é' --resume --steps 4\n");
    expect(stdout).toContain("npx wgsagan sample --run 'my run é' --n 64");
    const path = join(folder, run, 'config.yaml');
    expect(parse(readFileSync(path, 'utf8'))).toMatchObject({ data: images, flip: true });
    const below = join(folder, 'below');
    mkdirSync(below);
    const more = [...resume(join('..', run)), '--steps', '3', '--no-flip'];
    await runWell(more, { cwd: below });
    expect(parse(readFileSync(path, 'utf8'))).toMatchObject({ data: images, flip: false });
  });

  test('a switch of a file is turned off by a flag', async () => {
    const file = join(folder, 'switches.yaml');
    writeFileSync(file, 'flip: true\nstrict: true\n');
    const run = join(folder, 'switches');
    const off = ['--no-flip', '--no-strict', '--steps', '1'];
    await runWell([...train(run), '--config', file, ...off]);
    expect(parse(readFileSync(join(run, 'config.yaml'), 'utf8'))).toMatchObject({
      flip: false,
      strict: false,
    });
    rmSync(run, { recursive: true });
  });
});
