// Kills the real command at random moments and resumes it, over and over, until it is done: then its newest checkpoint, its
// last grid and its losses must be, to the bit, those of a run that nothing interrupted. Writes test/soak/results/kill.json;
// exit code 1 where one differs.
//   npx tsx test/soak/kill.ts [--kills 60] [--seed 1] [--out FILE]
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { isTemporary, writeFileAtomic } from '../../src/io/atomic.ts';
import { listCheckpoints } from '../../src/train/checkpoint.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { HostRng } from '../../src/util/philox.ts';
import { writeImages } from '../support/images.ts';
import { setup } from '../support/installed.ts';

const { values: flags } = parseArgs({
  options: {
    kills: { type: 'string', default: '60' },
    seed: { type: 'string', default: '1' },
    out: { type: 'string', default: 'test/soak/results/kill.json' },
  },
});
const wanted = Number(flags.kills);
const steps = 120;
const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-kill-'));
let command = '';
const uninstall = setup({ provide: (_name: string, path: string) => (command = path) } as never);

interface Ended {
  readonly code: number | null;
  readonly ms: number;
  readonly stderr: string;
}

/** Runs `wgsagan train …`, killed after `ms` if it still lives then. */
async function trainFor(args: readonly string[], ms = Infinity): Promise<Ended> {
  const started = performance.now();
  const child = spawn(process.execPath, [command, 'train', ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const ended = new Promise<number | null>((resolve) => {
    child.on('close', (code) => {
      resolve(code);
    });
  });
  if (ms !== Infinity) {
    await Promise.race([ended, sleep(ms)]);
    child.kill('SIGKILL');
  }
  const code = await ended;
  return { code, ms: performance.now() - started, stderr };
}

/** What a kill left behind, in a word. */
async function momentOf(run: string, before: string): Promise<string> {
  if (!existsSync(join(run, 'config.yaml'))) return 'before there was a run';
  const inside = [run, join(run, 'checkpoints'), join(run, 'samples')].filter((f) => existsSync(f));
  if (inside.some((f) => readdirSync(f).some(isTemporary))) return 'while a file was written';
  if ((await stateOf(run)) === before) return 'before its first step was logged';
  if ((await listCheckpoints(run)).length === 0) return 'before the first checkpoint';
  return 'between writes';
}

/** Tells a run that has gone on from one that has not. */
async function stateOf(run: string): Promise<string> {
  const [newest = '', last] = [(await listCheckpoints(run)).at(-1), readMetrics(run).at(-1)?.step];
  const saved = Number(/\d+/.exec(newest)?.[0] ?? 0);
  // What was logged after the checkpoint is taken back when the run is resumed.
  return `${newest} ${Math.max(saved, last ?? 0) === saved ? 'just' : String(last)}`;
}

/** What must be the same: every byte of the last checkpoint and grid, and the losses of every step. */
function outcomeOf(run: string) {
  const name = `step-${String(steps).padStart(7, '0')}`;
  const losses = readMetrics(run).map(({ step, lossD, lossG, dReal, dFake }) => {
    return [step, lossD, lossG, dReal, dFake];
  });
  return JSON.stringify([
    readFileSync(join(run, 'checkpoints', `${name}.safetensors`), 'base64'),
    readFileSync(join(run, 'samples', `${name}.png`), 'base64'),
    losses,
  ]);
}

try {
  const images = join(folder, 'images');
  await writeImages(images, 30);
  const first = (out: string) => [
    ...['--data', images, '--out', out, '--preset', 'sagan-32-tiny', '--image-size', '8'],
    ...['--width', '2', '--batch', '2', '--flip', '--steps', `${steps}`],
    ...['--log-every', '1', '--every', '4', '--sample-every', '6', '--ema-start', '20'],
  ];
  const whole = join(folder, 'whole');
  const { code, ms, stderr } = await trainFor(first(whole));
  if (code !== 0) throw new Error(stderr);
  const right = outcomeOf(whole);
  // How long a call takes: the least that one took, as the machine does other things besides.
  let usual = ms;
  const rng = new HostRng(Number(flags.seed));
  const moments: Record<string, number> = {};
  const wrong: string[] = [];
  let [kills, runs, same] = [0, 0, 0];
  while (kills < wanted) {
    runs += 1;
    const run = join(folder, `run-${runs}`);
    for (;;) {
      const begun = existsSync(join(run, 'config.yaml'));
      const args = begun ? ['--out', run, '--resume'] : first(run);
      const before = await stateOf(run);
      const part = await trainFor(args, kills < wanted ? 1.2 * rng.uniform() * usual : Infinity);
      // Killed after its last checkpoint a run is done, and is told so.
      const done = part.stderr.includes(`has ${steps} steps already`);
      if (part.code === 0 || (part.code === 2 && done)) {
        if (!done) usual = Math.min(usual, part.ms);
        break;
      }
      if (part.code !== null) {
        wrong.push(`run ${runs} ended with code ${part.code}: ${part.stderr.trim()}`);
        break;
      }
      kills += 1;
      const moment = await momentOf(run, before);
      moments[moment] = (moments[moment] ?? 0) + 1;
      if (kills % 10 === 0) process.stderr.write(`${kills} kills, ${same} runs to the bit\n`);
    }
    if (wrong.length > 0) break;
    if (outcomeOf(run) === right) same += 1;
    else wrong.push(`run ${runs} is not the run that was never killed`);
    rmSync(run, { recursive: true });
  }
  const result = { kills, runs, same, steps, seed: Number(flags.seed), moments, wrong };
  await writeFileAtomic(flags.out, `${JSON.stringify(result, null, 1)}\n`);
  process.stdout.write(`${JSON.stringify(result)}\n`);
  process.exitCode = wrong.length === 0 && same === runs ? 0 : 1;
} finally {
  uninstall();
  rmSync(folder, { recursive: true, force: true });
}
