// bench/peers without any peer: what is refused as wrong, what counts as a peer's best, and what a child may do to its parent.
import { describe, expect, test } from 'vitest';
import { allCases, chooseCases, inputsOf } from '../../bench/peers/cases.ts';
import type { PeerCase } from '../../bench/peers/cases.ts';
import { PeerFailure, PeerProcess } from '../../bench/peers/child.ts';
import { readGolden } from '../../bench/peers/golden.ts';
import { settingsFor } from '../../bench/peers/peers.ts';
import type { Peer } from '../../bench/peers/peers.ts';
import { othersShare, parseStat } from '../../bench/peers/load.ts';
import { hashOf, judge } from '../../bench/peers/reference.ts';
import { compare, markdown } from '../../bench/peers/report.ts';
import type { Measurement, PeersResult } from '../../bench/peers/report.ts';
import { barChart } from '../../bench/peers/chart.ts';
import type { Task } from '../../bench/peers/worker.ts';
import type { AdapterSummary } from '../../src/gpu/adapter.ts';

const caseOf = (name: string, batch?: number): PeerCase =>
  chooseCases([name], { sizes: [4], batch })[0]!;
const matmul = caseOf('matmul-4');

describe('judge', () => {
  const truth = new Map([['y', Float32Array.of(1, -8, 0)]]);
  const found = (...values: number[]) => new Map([['y', Float32Array.from(values)]]);

  test('lets rounding pass, and reports it as a share of the largest value', () => {
    const verdict = judge(matmul, found(1.0004, -8, 0), truth, 'f32');
    expect(verdict).toMatchObject({ right: true, reason: '' });
    expect(verdict.error).toBeCloseTo(0.0004 / 8, 6);
  });

  test.each([
    ['an element that is off', found(1.002, -8, 0), 'y[0] is 1.002, expected 1'],
    ['NaN', found(1, -8, NaN), 'y[2] is NaN, expected 0'],
    ['another length', found(1, -8), 'y has 2 values, not 3'],
    ['no output', new Map<string, Float32Array>(), 'y is missing'],
  ])('refuses %s', (_what, values, reason) => {
    expect(judge(matmul, values, truth, 'f32')).toMatchObject({ right: false, reason });
  });

  test('asks less of half precision, and of losses after four steps', () => {
    expect(judge(matmul, found(1.1, -8, 0), truth, 'f16').right).toBe(true);
    const gan = caseOf('gan-step');
    const losses = (a: number) => new Map([['lossD', Float32Array.of(a)]]);
    expect(judge(gan, losses(0.000005), losses(0), 'f32').right).toBe(true);
    expect(judge(gan, losses(0.0001), losses(0), 'f32').right).toBe(false);
  });

  test('measures a gradient that is 0 but for rounding by its neighbours', () => {
    const attention = caseOf('attention-16');
    const gradients = (bias: number) =>
      new Map([
        ['d.x', Float32Array.of(10)],
        ['d.key_conv.bias', Float32Array.of(bias)],
      ]);
    expect(judge(attention, gradients(5e-5), gradients(0), 'f32').right).toBe(true);
    expect(judge(attention, gradients(5e-3), gradients(0), 'f32').right).toBe(false);
  });
});

describe('cases', () => {
  test('the golden losses are those of the inputs as they are made now', () => {
    const golden = Object.entries(readGolden());
    const keys = golden.map(([key]) => key);
    expect(keys).toEqual(expect.arrayContaining(['gan-step:16', 'sagan-32:16', 'sagan-64:64']));
    for (const [key, losses] of golden) {
      const [name = '', batch] = key.split(':');
      const c = caseOf(name, Number(batch));
      expect(losses?.hash, key).toBe(hashOf(c, inputsOf(c)));
    }
  });

  test('names are unique, choose by their beginning, and are suggested', () => {
    const names = allCases().map((c) => c.name);
    expect(new Set(names).size).toBe(names.length);
    expect(chooseCases(['conv4s2']).map((c) => c.name)).toEqual(['conv4s2']);
    expect(chooseCases(['conv']).map((c) => c.name)).toEqual([
      ...['conv3-fwd', 'conv3', 'conv4s2-fwd', 'conv4s2', 'convT4s2-fwd', 'convT4s2'],
    ]);
    expect(() => chooseCases(['sofmax'])).toThrow(
      '--cases sofmax is unknown; did you mean softmax? There are',
    );
  });
});

test("a preset's step has its own batch on a GPU, and a small one on a software driver", () => {
  const batchOf = (options: object) => {
    const { work } = chooseCases(['sagan-64'], options)[0]!;
    return work.op === 'gan' ? work.spec.batch : 0;
  };
  expect(batchOf({})).toBe(64);
  expect(batchOf({ software: true })).toBe(4);
  expect(batchOf({ software: true, batch: 2 })).toBe(2);
  expect(chooseCases(undefined, { software: true }).map((c) => c.name)).not.toContain('sagan-64');
  const onGpu = chooseCases(undefined).map((c) => c.name);
  expect(onGpu).toContain('sagan-64');
  expect(onGpu).not.toContain('sagan-128');
});

test('the list of layers that the peers build has as many weights as the preset', () => {
  const parameters = (net: 'g' | 'd') =>
    caseOf('sagan-256', 1)
      .inputs.filter(([name]) => name.startsWith(`${net}.`) && !name.endsWith('_u'))
      .reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0);
  // What test/model/sagan.test.ts counts in src/models.
  expect([parameters('g'), parameters('d')]).toEqual([30_048_228, 27_961_442]);
});

const software = { kind: 'software', name: 'llvmpipe', driver: { kind: 'lavapipe' } };
const summaryOf = (parts: object) => parts as AdapterSummary;

test('a software driver is tried with our throttle at each width, a GPU only as it comes', () => {
  expect(settingsFor(summaryOf(software), [128, 512])).toEqual([
    { name: 'as it comes', throttle: false, width: 'default' },
    { name: 'throttled, 128', throttle: true, width: 128 },
    { name: 'throttled, 512', throttle: true, width: 512 },
  ]);
  expect(settingsFor(summaryOf({ ...software, kind: 'discrete' }), [128])).toHaveLength(1);
});

describe('compare', () => {
  const peer = (id: string, kind: Peer['kind']): Peer => ({
    ...{ id, title: id, kind, precision: 'f32', settings: [] },
    ...{ command: { program: '', args: [] }, declines: () => null },
  });
  const peers = [
    peer('ours', 'ours'),
    peer('a', 'webgpu'),
    peer('b', 'webgpu'),
    peer('torch', 'torch'),
  ];
  const timed = (id: string, setting: string, ms: number): Measurement => ({
    ...{ case: 'matmul-4', peer: id, setting, state: 'timed', ms, p10: ms, p90: ms },
    ...{ samples: 1, error: 0, peakMiB: 1, others: setting === 'cpu' ? 0.2 : 0.01 },
  });
  const wrong: Measurement = {
    ...{ case: 'matmul-4', peer: 'b', setting: 'throttled, 128' },
    ...{ state: 'wrong', reason: 'y[0] is 2, expected 1' },
  };
  const measurements = [
    ...[timed('ours', 'as it comes', 5), timed('ours', 'throttled, 256', 4)],
    ...[timed('a', 'as it comes', 30), timed('a', 'throttled, 128', 10)],
    ...[timed('b', 'as it comes', 20), wrong, timed('torch', 'cpu', 1)],
  ];
  const comparison = compare([matmul], peers, measurements);

  test('takes each at its best, and each as it comes, against the fastest other', () => {
    expect(comparison[0]).toMatchObject({
      best: { peer: 'a', ratio: 10 / 4 },
      asItComes: { peer: 'b', ratio: 20 / 5 },
      torch: [{ peer: 'torch', ratio: 1 / 4 }],
    });
  });

  test('its report names what has no time, and marks a quick run', () => {
    const result: PeersResult = {
      ...{ date: '2026-01-01T00:00:00Z', versions: { node: '20' }, quick: true, rounds: 2 },
      machine: { adapter: 'x', kind: 'software', driver: 'd', cpu: 'c', cores: 2, memoryGiB: 1 },
      ...{ absent: [{ title: 'jax', reason: 'not installed' }], measurements, comparison },
    };
    const text = markdown(result);
    expect(text).toContain('- jax: not installed');
    expect(text).toContain('- b, matmul 4³: wrong: y[0] is 2, expected 1');
    expect(text).toMatch(/\| matmul 4³ +\| 2\.50× \(a\) +\| 4\.00× \(b\) +\| 0\.25× +\|/);
    expect(text).toContain('not to be quoted');
    expect(text).toContain(
      'in 1 of 6 measurements other programs had more than 8 % of the machine, up to 20 %',
    );
    expect(barChart(result)).toContain('2.5× · 10.0 ms');
  });
});

test('the share of the others is what is busy and not our own', () => {
  const before = parseStat('cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3 4');
  const after = parseStat('cpu  150 0 120 900 10 0 0 20 0 0\n');
  expect(othersShare(before, after, 500)).toBeCloseTo((900 - 500) / 2000);
  expect(othersShare(null, after, 500)).toBeNull();
});

describe('a child process', () => {
  const task = {} as Task;
  const run = (script: string) =>
    new PeerProcess({ program: process.execPath, args: ['-e', script, '--'] }, task);
  const failure = async (script: string, seconds = 20) => {
    const child = run(script);
    const error: unknown = await child.ready(seconds).catch((e: unknown) => e);
    await child.close();
    expect(error).toBeInstanceOf(PeerFailure);
    return (error as Error).message;
  };

  test('answers requests line by line', async () => {
    const child = run(`
      const fs = require('fs');
      const say = (x) => fs.writeSync(3, JSON.stringify(x) + '\\n');
      say({ ready: true, version: '1', onceMs: 2 });
      require('readline').createInterface({ input: process.stdin }).on('line', (line) =>
        say({ ms: Array(JSON.parse(line).samples).fill(3), cpuMs: 1, peakMiB: 4 }));
    `);
    expect(await child.ready(20)).toMatchObject({ version: '1', onceMs: 2 });
    expect(await child.sample({ samples: 2, times: 1 }, 20)).toMatchObject({
      ms: [3, 3],
      peakMiB: 4,
    });
    await child.close();
  });

  test('that hangs is ended at its time limit', async () => {
    expect(await failure('setInterval(() => {}, 1000)', 1)).toBe('not done after 1 s');
  });

  test('that dies is reported with the last line it printed', async () => {
    expect(
      await failure("console.error('first'); console.error('no such op'); process.exit(3)"),
    ).toBe('exit code 3: no such op');
  });

  test('that says what is wrong is quoted', async () => {
    const script = `require('fs').writeSync(3, JSON.stringify({ error: 'two\\nlines' }) + '\\n')`;
    expect(await failure(script)).toBe('two lines');
  });
});
