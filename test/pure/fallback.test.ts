// Which checkpoint a run goes on from, what it keeps of a long one, and what a signal asks for.
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { codeOfRun, onInterrupt } from '../../src/cli/signals.ts';
import { writeSafetensors } from '../../src/io/safetensors.ts';
import { checkpointFolder, readCheckpoint } from '../../src/train/checkpoint.ts';
import { configToYaml, resolveConfig } from '../../src/train/config.ts';
import { readNewestWhole, setAsideAfter } from '../../src/train/fallback.ts';
import { History } from '../../src/train/history.ts';
import { UserError } from '../../src/util/errors.ts';
import { HostRng } from '../../src/util/philox.ts';
import { flatnessOf } from '../soak/flat.ts';

let run = '';
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), 'wgsagan-fallback-'));
  mkdirSync(checkpointFolder(run));
});
afterEach(() => {
  rmSync(run, { recursive: true });
});

const config = configToYaml(resolveConfig({ data: 'faces', preset: 'sagan-32-tiny' }));
const loader = JSON.stringify({ epoch: 0, cursor: 0, seed: 0, batch: 2, size: 12 });
const nameOf = (step: number) => `step-000000${step}.safetensors`;
const pathOf = (step: number) => join(checkpointFolder(run), nameOf(step));
const write = (step: number, more: Record<string, string> = {}, checksum = true) =>
  writeSafetensors(
    pathOf(step),
    new Map(),
    { format: '1', step: `${step}`, loader, config, ...more },
    { checksum },
  );
const damage = (step: number) => {
  const bytes = readFileSync(pathOf(step));
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(pathOf(step), bytes);
};

describe('the checkpoint to go on from', () => {
  test('is the newest that is whole; the others are named, and set aside later', async () => {
    for (const step of [1, 2, 3]) await write(step);
    damage(3);
    damage(2);
    const { checkpoint, refused } = await readNewestWhole(run, readCheckpoint);
    expect(checkpoint.progress.step).toBe(1);
    expect(refused).toHaveLength(2);
    expect(refused[0]).toContain(`checkpoint ${pathOf(3)} is damaged`);
    expect(readdirSync(checkpointFolder(run))).toEqual([1, 2, 3].map(nameOf));
    await setAsideAfter(run, checkpoint.path);
    expect(readdirSync(checkpointFolder(run))).toEqual([
      ...[`damaged-${nameOf(2)}`, `damaged-${nameOf(3)}`, nameOf(1)],
    ]);
  });

  test('is not an older one where the newest is whole, and not understood', async () => {
    await write(1);
    await write(2, { config: 'unheard-of: 3\n' });
    await expect(readNewestWhole(run, readCheckpoint)).rejects.toThrow(/unknown key unheard-of/);
  });

  test('may be of before there were checksums and the options of today', async () => {
    const older = config.replace(/^(keep|on-nan|rollback.*): .*\n/gm, '');
    expect(older).not.toBe(config);
    await write(4, { config: older }, false);
    const { checkpoint } = await readNewestWhole(run, readCheckpoint);
    expect(checkpoint.config).toMatchObject({ keep: 3, onNan: 'stop', rollbacks: 3 });
  });

  test.each([
    ['step', '1e999', /was not written by wgsagan/],
    ['step', '-1', /was not written by wgsagan/],
    ['rollbacks', '0.5', /is damaged: 0\.5 is no state of a run/],
  ])('is refused where its %s is %s', async (key, value, message) => {
    await write(1, { [key]: value });
    await expect(readCheckpoint(pathOf(1))).rejects.toThrow(UserError);
    await expect(readCheckpoint(pathOf(1))).rejects.toThrow(message);
  });
});

test('a chart keeps a bounded part of a long history, first and newest among it', () => {
  const lines = Array.from({ length: 12_345 }, (_u, i) => ({ step: i, a: 2 * i }));
  const kept = new History(['a'], lines).points('a');
  expect(kept.length).toBeGreaterThan(1000);
  expect(kept.length).toBeLessThanOrEqual(2001);
  expect([kept[0], kept.at(-1)]).toEqual([
    [0, 0],
    [12_344, 24_688],
  ]);
  expect(kept.every(([step, a], i) => a === 2 * step && step > (kept[i - 1]?.[0] ?? -1))).toBe(
    true,
  );
  // Taken up again half way it keeps the same.
  const parts = new History(['a'], lines.slice(0, 5000));
  for (const line of lines.slice(5000)) parts.add(line);
  expect(parts.points('a')).toEqual(kept);
  const few = [{ step: 3, b: 1 }, { step: 1 }, { step: 2, b: 4 }];
  expect(new History(['a', 'b'], few).points('b')).toEqual([
    [3, 1],
    [1, NaN],
    [2, 4],
  ]);
  // At every length the newest is among them.
  const growing = new History(['a'], []);
  for (const line of lines) {
    growing.add(line);
    if (line.step % 997 < 3 || (line.step > 1995 && line.step < 2005)) {
      expect(growing.points('a').at(-1)).toEqual([line.step, line.a]);
    }
  }
});

test('a series is flat unless its slope gains more than the bound', () => {
  const noisy = (slope: number) =>
    Array.from({ length: 40 }, (_u, i) => [i, 100 + slope * i + (i % 7 === 3 ? 60 : 0)] as const);
  expect(flatnessOf(noisy(0), 0.01)).toMatchObject({ drift: 0, verdict: 'flat' });
  expect(flatnessOf(noisy(-1), 0.01).verdict).toBe('flat');
  const grows = flatnessOf(noisy(1), 0.05);
  expect(grows.verdict).toBe('not flat');
  expect(grows.drift).toBeCloseTo(39 / grows.middle, 1);
  // One handle that is not closed, of what may not grow.
  const jumps = noisy(0).map(([x], i) => [x, i < 9 ? 40 : 41] as const);
  expect(flatnessOf(jumps, 0)).toMatchObject({ drift: 0, verdict: 'not flat' });
  expect(() => flatnessOf([[0, 1]], 0)).toThrow(RangeError);
  const still = Array.from({ length: 9 }, (_u, i) => [i, 118] as const);
  expect(flatnessOf(still, 0, 'interval')).toMatchObject({ interval: [0, 0], verdict: 'flat' });
});

describe('a series through noise that comes in stretches', () => {
  /** 39 points that gain `drift`; each noise goes over into the next by half. */
  const series = (drift: number, noise: number, seed: number) => {
    const random = new HostRng(seed);
    let now = 0;
    return Array.from({ length: 39 }, (_u, i) => {
      now = 0.5 * now + Math.sqrt(0.75) * random.normal();
      return [1000 + 500 * i, 20 * (1 + drift * (i / 38) + noise * now)] as const;
    });
  };
  /** How often each verdict is given over 24 such series, for a bound of 5 %. */
  const verdicts = (drift: number, noise: number) => {
    const given = { flat: 0, 'not flat': 0, drowned: 0 };
    for (let seed = 0; seed < 24; seed++) {
      given[flatnessOf(series(drift, noise, seed), 0.05, 'interval').verdict] += 1;
    }
    return given;
  };

  test('is not flat where it drifts by twice the bound, however large the noise', () => {
    const told = verdicts(0.1, 0.015);
    expect(told.flat).toBe(0);
    expect(told['not flat']).toBeGreaterThan(18);
    expect(verdicts(0.1, 0.03).flat).toBe(0);
    expect(verdicts(0.1, 0.1).flat).toBeLessThanOrEqual(1);
  });

  test('is flat where it does not drift and the noise lets that be seen', () => {
    const told = verdicts(0, 0.015);
    expect(told.flat).toBeGreaterThan(20);
    expect(told['not flat']).toBe(0);
    expect(verdicts(0, 0.1).drowned).toBeGreaterThan(12);
  });

  test('that drifts by just the bound is seldom called flat', () => {
    expect(verdicts(0.05, 0.03).flat).toBeLessThanOrEqual(4);
  });
});

describe('a signal', () => {
  test('again is none where it is SIGTERM; ^C after it quits', () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    const seen: string[] = [];
    const release = onInterrupt(
      (signal) => seen.push(`first ${signal}`),
      (signal) => seen.push(`again ${signal}`),
    );
    try {
      for (const signal of ['SIGTERM', 'SIGTERM', 'SIGINT'] as const) {
        process.emit(signal, signal);
        vi.advanceTimersByTime(2000);
      }
    } finally {
      release();
      vi.useRealTimers();
    }
    expect(seen).toEqual(['first SIGTERM', 'again SIGINT']);
  });

  test('and how a run ended are its exit code', () => {
    expect(codeOfRun('finished', 'SIGTERM')).toBe(0);
    expect(codeOfRun('time', undefined)).toBe(75);
    expect(codeOfRun('stopped', 'SIGTERM')).toBe(75);
    expect(codeOfRun('stopped', 'SIGINT')).toBe(130);
    expect(codeOfRun('stopped', 'SIGHUP')).toBe(130);
  });
});
