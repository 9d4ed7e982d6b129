// What ends a run from within: a number that is none, a lost device, memory that is not there; and a scheduler's SIGTERM.
import { cpSync, existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { decodeSafetensors } from '../../src/io/safetensors.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { complaintOf, runCli, runWell, startCli, tempFolder } from '../support/cli.ts';
import { namesIn } from '../support/files.ts';
import { writeImages } from '../support/images.ts';

const folder = tempFolder();
const images = join(folder, 'images');
const net = ['--preset', 'sagan-32-tiny', '--image-size', '8', '--width', '4', '--batch', '2'];
const often = ['--log-every', '1', '--every', '2'];
const train = (out: string) => ['train', '--data', images, '--out', out, ...net, ...often];
const resume = (out: string) => ['train', '--out', out, '--resume'];
const begun = join(folder, 'begun');
const checkpointAt = (run: string, step: number) =>
  join(run, 'checkpoints', `step-${String(step).padStart(7, '0')}.safetensors`);
const readAt = (run: string, step: number) =>
  decodeSafetensors(readFileSync(checkpointAt(run, step)), { name: run });
const copyOf = (name: string) => {
  const run = join(folder, name);
  cpSync(begun, run, { recursive: true });
  return run;
};

beforeAll(async () => {
  await writeImages(images, 12);
  await runWell([...train(begun), '--steps', '4']);
});

describe('--on-nan rollback', () => {
  const wild = ['--lr-g', '1e34', '--lr-d', '1e38', '--on-nan', 'rollback'];

  test('goes on from the last checkpoint to the bits of a run resumed there by lower rates', async () => {
    const run = copyOf('rolled-back');
    const more = ['--steps', '8', '--rollback-factor', '1e-42'];
    const { stdout } = await runWell([...resume(run), ...wild, ...more]);
    expect(stdout).toMatch(
      /^rollback +step \d+ gave lossD \S+, .*; rolled back to \S+step-0000004\.safetensors, on with --lr-g \S+ --lr-d \S+ \(1 of at most 3\)$/m,
    );
    const rates = { 'lr-g': 1e34 * 1e-42, 'lr-d': 1e38 * 1e-42 };
    expect(parse(readFileSync(join(run, 'config.yaml'), 'utf8'))).toMatchObject(rates);
    // Whoever resumes it takes its rates, and how often it was rolled back, from here.
    expect(readAt(run, 8).metadata['rollbacks']).toBe('1');
    expect(parse(readAt(run, 8).metadata['config'] ?? '')).toMatchObject(rates);
    expect(readMetrics(run).map((line) => line['rollbacks'])).toEqual([
      ...[undefined, undefined, undefined, undefined],
      ...[1, 1, 1, 1],
    ]);

    const lower = copyOf('lowered');
    const by = ['--lr-g', `${rates['lr-g']}`, '--lr-d', `${rates['lr-d']}`];
    await runWell([...resume(lower), ...by, '--steps', '8']);
    expect(readAt(run, 8).tensors).toEqual(readAt(lower, 8).tensors);
  });

  test('stops where it has been rolled back as often as it may, the lowered rates kept', async () => {
    const run = copyOf('spent');
    const { code, stdout, stderr } = await runCli([
      ...[...resume(run), ...wild],
      ...['--steps', '8', '--rollbacks', '1'],
    ]);
    expect(code).toBe(1);
    expect(stdout.match(/^rollback /gm)).toHaveLength(1);
    expect(stderr).toMatch(/^wgsagan: step \d+ gave .*step-0000004\.safetensors is whole: go on /);
    expect(namesIn(join(run, 'checkpoints')).at(-1)).toBe('step-0000004.safetensors');
    expect(parse(readAt(run, 4).metadata['config'] ?? '')).toMatchObject({ 'lr-d': 5e37 });
    expect(readAt(run, 4).tensors).toEqual(readAt(begun, 4).tensors);
  });
});

/** Runs code in the command's process, each time that it has submitted `n` lots of work; `device` is the run's. */
function atSubmit(n: number, code: string) {
  const webgpu = pathToFileURL(createRequire(import.meta.url).resolve('webgpu')).href;
  const text = `
    import { globals } from '${webgpu}';
    const { requestDevice } = globals.GPUAdapter.prototype;
    let [device, submits] = [undefined, 0];
    globals.GPUAdapter.prototype.requestDevice = async function (...args) {
      return (device = await requestDevice.apply(this, args));
    };
    const { submit } = globals.GPUQueue.prototype;
    globals.GPUQueue.prototype.submit = function (...args) {
      submit.apply(this, args);
      submits += 1;
      if (submits === ${n}) { ${code} }
    };`;
  return { env: { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(text)}` } };
}

describe('the device', () => {
  test.each([
    ['is lost', 'device.destroy();', /the GPU device was lost \(\w+\): /],
    [
      'is out of memory',
      "device.onuncapturederror({ preventDefault() {}, error: new globals.GPUOutOfMemoryError('no room') });",
      /the GPU is out of memory: no room; try a smaller --batch; /,
    ],
  ])('%s: one line, exit code 1, the last checkpoint whole', async (what, code, message) => {
    const run = copyOf(what.replaceAll(' ', '-'));
    const result = await runCli([...resume(run), '--steps', '100000'], atSubmit(300, code));
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/^wgsagan: [^\n]+\n$/);
    expect(result.stderr).toMatch(message);
    const [, saved = ''] =
      /; (\S+) is whole: go on from it by --resume\n$/.exec(result.stderr) ?? [];
    const step = Number(/step-(\d+)/.exec(saved)?.[1]);
    expect(namesIn(join(run, 'checkpoints')).at(-1)).toBe(saved.split('/').at(-1));
    expect(step).toBeGreaterThanOrEqual(4);
    const file = readAt(run, step);
    expect(file.metadata['step']).toBe(`${step}`);
  });
});

describe('options of a run that is left alone', () => {
  test('--keep says how many checkpoints stay, --every how often there is one', async () => {
    const run = join(folder, 'kept');
    await runWell([...train(run), '--steps', '5', '--every', '1', '--keep', '2']);
    expect(namesIn(join(run, 'checkpoints'))).toEqual([
      'step-0000004.safetensors',
      'step-0000005.safetensors',
    ]);
    const both = [...train(join(folder, 'both')), '--checkpoint-every', '3'];
    expect(complaintOf(await runCli(both))).toBe(
      '--every 2 and --checkpoint-every 3 are one option; give one of them',
    );
  });

  test('SIGTERM before the first step: nothing to save, and the run is to be queued again', async () => {
    const run = join(folder, 'early');
    const process = startCli([...train(run), '--steps', '100000']);
    await process.until('the device', () => process.output().stdout.includes('adapter'));
    process.kill('SIGTERM');
    const { code, stderr } = await process.result;
    expect({ code, stderr }).toEqual({ code: 75, stderr: '' });
    expect(existsSync(join(run, 'lock'))).toBe(false);
  });
});
