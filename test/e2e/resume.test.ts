import {
  copyFileSync,
  cpSync,
  existsSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { decodeSafetensors } from '../../src/io/safetensors.ts';
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
import { readGrid, writeImages } from '../support/images.ts';

const folder = tempFolder();
const images = join(folder, 'images');
const steps = 12;
const net = ['--preset', 'sagan-32-tiny', '--width', '8', '--batch', '8', '--flip'];
const every = ['--log-every', '1', '--checkpoint-every', '3', '--sample-every', '4'];
const trainInto = (out: string) => [
  ...['train', '--data', images, '--out', out, ...net, ...every],
  ...['--steps', `${steps}`, '--ema-start', '5'],
];
const checkpointAt = (run: string, step: number) =>
  join(run, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`);
const gridAt = (run: string, step: number) =>
  join(run, 'samples', `step-${String(step).padStart(7, '0')}.png`);

/** Losses by step, without the times. */
function losses(run: string) {
  return readMetrics(run).map(({ step, lossD, lossG, dReal, dFake }) => ({
    step,
    lossD,
    lossG,
    dReal,
    dFake,
  }));
}

/** Tensors as bit patterns, so that −0 is not 0 and NaN is NaN. */
function bitsOf(path: string) {
  const { tensors, metadata } = decodeSafetensors(readFileSync(path), { name: path });
  const bits = [...tensors].map(([name, { shape, data }]) => {
    return [name, shape, Buffer.from(data.buffer, data.byteOffset, data.byteLength)] as const;
  });
  return { bits, loader: metadata['loader'], step: metadata['step'] };
}

/** That `run` ended as `whole`, which nothing interrupted. */
function expectSameRun(run: string, whole: string): void {
  expect(bitsOf(checkpointAt(run, steps))).toEqual(bitsOf(checkpointAt(whole, steps)));
  expect(readFileSync(checkpointAt(run, steps))).toEqual(readFileSync(checkpointAt(whole, steps)));
  expect(readFileSync(gridAt(run, steps))).toEqual(readFileSync(gridAt(whole, steps)));
  expect(losses(run)).toEqual(losses(whole));
  expect(losses(run).map((line) => line.step)).toEqual(
    Array.from({ length: steps }, (_u, i) => i + 1),
  );
}

describe('resume', () => {
  const whole = join(folder, 'whole');

  beforeAll(async () => {
    await writeImages(images, 30);
    await runWell(trainInto(whole));
  });

  /** When the run is killed: each condition looks at the run folder. */
  const moments: readonly (readonly [string, (run: string) => boolean])[] = [
    ['just after the first checkpoint', (run) => existsSync(checkpointAt(run, 3))],
    [
      'while a later checkpoint is being written',
      (run) => namesIn(join(run, 'checkpoints')).some((name) => name.includes('step-0000006')),
    ],
    ['between two checkpoints', (run) => (readMetrics(run).at(-1)?.step ?? 0) >= 7],
    ['when samples are drawn', (run) => (readMetrics(run).at(-1)?.step ?? 0) >= 8],
  ];

  test.each(moments)('to the same bits when killed %s', async (what, reached) => {
    const run = join(folder, what.replaceAll(' ', '-'));
    const killed = startCli(trainInto(run));
    await killed.until(what, () => reached(run));
    killed.kill('SIGKILL');
    expect(await killed.result).toMatchObject({ code: null, signal: 'SIGKILL' });
    expect(existsSync(checkpointAt(run, steps))).toBe(false);

    const { stdout } = await runWell(['train', '--out', run, '--resume']);
    expect(stdout).toMatch(/^resumed +at step [369]$/m);
    expectSameRun(run, whole);
    // Nothing that the kill left half-written stays behind.
    const left = Object.keys(snapshot(run)).filter((file) => file.includes('.tmp'));
    expect(left).toEqual([]);
  });

  test('to the same bits from every earlier checkpoint, and again after a finished part', async () => {
    const run = join(folder, 'parts');
    await runWell([...trainInto(run), '--steps', '4']);
    await runWell(['train', '--out', run, '--resume', '--steps', '7']);
    await runWell(['train', '--out', run, '--resume', '--steps', `${steps}`]);
    expectSameRun(run, whole);
  });

  test('with a last line of metrics cut in two', async () => {
    const run = join(folder, 'cut-line');
    await runWell([...trainInto(run), '--steps', '6']);
    const path = join(run, 'metrics.jsonl');
    const text = readFileSync(path, 'utf8');
    writeFileSync(path, text + text.slice(0, 30));
    await runWell(['train', '--out', run, '--resume', '--steps', `${steps}`]);
    expectSameRun(run, whole);
  });

  test('refuses a newest checkpoint that is cut short, and goes on from the one before it', async () => {
    const run = join(folder, 'cut-checkpoint');
    cpSync(whole, run, { recursive: true });
    const newest = checkpointAt(run, steps);
    const bytes = readFileSync(newest);
    writeFileSync(newest, bytes.subarray(0, bytes.length - 1000));
    const before = snapshot(run);
    const message = complaintOf(await runCli(['train', '--out', run, '--resume']));
    expect(message).toContain(newest);
    expect(message).toContain('cut short');
    expect(message).toContain(checkpointAt(run, 9));
    const grid = join(folder, 'cut.png');
    expect(complaintOf(await runCli(['sample', '--run', run, '--out', grid]))).toContain(newest);
    expect(existsSync(grid)).toBe(false);
    expect(snapshot(run)).toEqual(before);

    rmSync(newest);
    await runWell(['train', '--out', run, '--resume']);
    expectSameRun(run, whole);
  });

  test('refuses a checkpoint of another architecture, and one of something else', async () => {
    const before = snapshot(whole);
    const resume = ['train', '--out', whole, '--resume', '--steps', '20'];
    expect(complaintOf(await runCli([...resume, '--width', '16']))).toMatch(
      /step-0000012\.safetensors is of another architecture: --width was 8, now 16/,
    );
    expect(complaintOf(await runCli([...resume, '--preset', 'sagan-64']))).toMatch(
      /another architecture: --preset was sagan-32-tiny, now sagan-64/,
    );
    expect(complaintOf(await runCli([...resume, '--batch', '4']))).toMatch(
      /batch is 4 now and was 8/,
    );
    expect(complaintOf(await runCli([...resume, '--steps', '12']))).toMatch(
      /has 12 steps already.*--steps/,
    );
    expect(snapshot(whole)).toEqual(before);

    const other = join(folder, 'other');
    cpSync(whole, other, { recursive: true });
    const golden = new URL('../golden/softmax.safetensors', import.meta.url);
    copyFileSync(golden, checkpointAt(other, steps));
    expect(complaintOf(await runCli(['train', '--out', other, '--resume']))).toMatch(
      /step-0000012\.safetensors was not written by wgsagan/,
    );
  });

  test('to the same lines of metrics, though a line was begun when the run ended', async () => {
    const log = ['--log-every', '5', '--steps'];
    const steps = (run: string) => losses(run).map((line) => line.step);
    const once = join(folder, 'lines-at-once');
    await runWell([...trainInto(once), ...log, '12']);
    // The end is no multiple of five, and has its line too.
    expect(steps(once)).toEqual([5, 10, 12]);
    const run = join(folder, 'lines-in-parts');
    await runWell([...trainInto(run), ...log, '3']);
    expect(steps(run)).toEqual([3]);
    const before = readMetrics(run)[0]!;
    await runWell(['train', '--out', run, '--resume', '--steps', '7']);
    expect(steps(run)).toEqual([5, 7]);
    expect(readMetrics(run)[0]!.seconds).toBeGreaterThan(before.seconds);
    await runWell(['train', '--out', run, '--resume', '--steps', '12']);
    expect(losses(run)).toEqual(losses(once));
    expect(readFileSync(checkpointAt(run, 12))).toEqual(readFileSync(checkpointAt(once, 12)));
    // The same sums as those of a line for every step.
    const mean = losses(whole)
      .slice(0, 5)
      .reduce((sum, line) => sum + line.lossD! / 5, 0);
    expect(losses(run)[0]!.lossD).toBeCloseTo(mean, 12);
  });

  test('refuses other images of the same number', async () => {
    const run = join(folder, 'other-images');
    const [own, others] = [join(folder, 'own'), join(folder, 'others')];
    cpSync(images, own, { recursive: true });
    await runWell([...trainInto(run), '--data', own, '--steps', '3']);
    const before = snapshot(run);
    cpSync(images, others, { recursive: true });
    renameSync(join(others, 'image-0.png'), join(others, 'image-1000.png'));
    const resume = ['train', '--out', run, '--resume', '--steps', `${steps}`];
    expect(complaintOf(await runCli([...resume, '--data', others]))).toMatch(
      /^the images in others are not those the run was trained on, though there are 30 of them as before; put them back or start a new run$/,
    );
    expect(snapshot(run)).toEqual(before);
    // The same ones, moved.
    renameSync(own, join(folder, 'moved'));
    await runWell([...resume, '--data', join(folder, 'moved')]);
    expect(bitsOf(checkpointAt(run, steps))).toEqual(bitsOf(checkpointAt(whole, steps)));
    expect(losses(run)).toEqual(losses(whole));
  });

  test('refuses to resume where there is no run', async () => {
    const nowhere = join(folder, 'nowhere');
    const result = await runCli(['train', '--out', nowhere, '--resume']);
    expect(complaintOf(result)).toMatch(/nowhere holds no checkpoint/);
    expect(existsSync(nowhere)).toBe(false);
  });
});

describe('a loss that is not finite', () => {
  const wild = ['--lr-d', '1e38', '--log-every', '1'];

  test('ends the run with the numbers and the way on, the checkpoint before it whole', async () => {
    const run = join(folder, 'wild');
    await runWell([...trainInto(run), '--steps', '3']);
    const before = readFileSync(checkpointAt(run, 3));
    const { code, stderr } = await runCli([
      'train',
      '--out',
      run,
      '--resume',
      '--steps',
      '20',
      ...wild,
    ]);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^wgsagan: step \d+ gave lossD \S+, lossG \S+, dReal \S+, dFake \S+, diversity \S+, gradNorm\/D \S+, gradNorm\/G \S+; .*step-0000003\.safetensors is whole: go on from it by --resume with lower --lr-g and --lr-d\n$/,
    );
    expect(stderr).toMatch(/NaN|Infinity/);
    expect(namesIn(join(run, 'checkpoints'))).toEqual(['step-0000003.safetensors']);
    expect(readFileSync(checkpointAt(run, 3))).toEqual(before);
    for (const line of losses(run)) expect(Object.values(line).every(Number.isFinite)).toBe(true);
    await runWell(['train', '--out', run, '--resume', '--steps', `${steps}`, '--lr-d', '4e-4']);
    expectSameRun(run, join(folder, 'whole'));
  });

  test('says so where there is no checkpoint yet', async () => {
    const run = join(folder, 'wild-at-once');
    const { code, stderr } = await runCli([...trainInto(run), ...wild]);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /wild-at-once has no checkpoint yet: begin it again by --resume with lower --lr-g and --lr-d\n$/,
    );
  });
});

describe('^C', () => {
  const endless = (out: string) => [
    ...['train', '--data', images, '--out', out, ...net, '--log-every', '1'],
    ...['--steps', '100000', '--sample-every', '100000', '--checkpoint-every', '100000'],
  ];
  const running = (process: CliProcess, run: string) =>
    process.until('the second step', () => readMetrics(run).length >= 2);

  test.each(['SIGINT', 'SIGTERM'] as const)(
    '%s finishes the step, saves it and says how to go on',
    async (signal) => {
      const run = join(folder, `stopped-${signal}`);
      const process = startCli(endless(run));
      await running(process, run);
      process.kill(signal);
      const { code, stdout, stderr } = await process.result;
      expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
      expect(stdout).toContain('stopping: finishing this step');
      const step = Number(/stopped after step (\d+), saved/.exec(stdout)?.[1]);
      expect(existsSync(checkpointAt(run, step))).toBe(true);
      expect(existsSync(gridAt(run, step))).toBe(true);
      expect(stdout).toContain(`npx wgsagan train --out ${run} --resume\n`);

      await runWell(['train', '--out', run, '--resume', '--steps', `${step + 1}`]);
      expect(losses(run).map((line) => line.step)).toEqual(
        Array.from({ length: step + 1 }, (_u, i) => i + 1),
      );
    },
  );

  test('ends the demo as it ends any run', async () => {
    const run = join(folder, 'demo');
    const demo = startCli(['demo', '--out', run]);
    await demo.until('the first metrics', () => readMetrics(run).length >= 1);
    demo.kill('SIGINT');
    const { code, stdout } = await demo.result;
    expect(code).toBe(130);
    const step = Number(/stopped after step (\d+), saved/.exec(stdout)?.[1]);
    expect(readGrid(gridAt(run, step), 32).tiles).toHaveLength(64);
  });
});
