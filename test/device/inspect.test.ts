// A small training step profiled and explained: the sums agree, and what is said is what runs.
import { describe, expect, test } from 'vitest';
import { buildStep } from '../../src/train/inspect/step.ts';
import { explainProgram } from '../../src/train/inspect/explain.ts';
import { groupLaunches, groupings } from '../../src/train/inspect/groups.ts';
import { profileStep } from '../../src/train/inspect/profile.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { sourceOf } from '../../src/kernels/kernel.ts';
import { openTestGpu } from '../support/device.ts';

const gpu = await openTestGpu({ guard: false });
const config = resolveConfig({ data: 'none', preset: 'sagan-32-tiny', width: 8, batch: 2 });

describe('the profile of a step', async () => {
  const stages = new Map<string, number>();
  const live = gpu.pool.stats().liveBytes;
  const profile = await profileStep(gpu, config, {
    replays: 3,
    onProgress: ({ stage, done, total }) => {
      expect(done).toBeLessThan(total);
      stages.set(stage, (stages.get(stage) ?? 0) + 1);
    },
  });

  const left = gpu.pool.stats().liveBytes - live;

  test('holds every launch, timed, and the numbers of the whole', () => {
    expect(profile.launches.map((l) => l.index)).toEqual(profile.launches.map((_l, i) => i));
    expect(profile.launches.length).toBeGreaterThan(50);
    for (const { ms, layer, pass } of profile.launches) {
      expect(ms).toBeGreaterThanOrEqual(0);
      expect(ms).toBeLessThan(60_000);
      expect(layer).not.toBe('');
      expect(pass).toMatch(/^[DG] (forward|backward|optimizer)$/);
    }
    expect(profile.stepMs).toBeGreaterThan(0);
    expect(profile.encodeUs).toBeGreaterThan(0);
    expect(profile.unplannedBytes).toBeGreaterThan(profile.plannedBytes);
    expect(profile.residentBytes).toBeGreaterThan(0);
  });

  test('sums up to the same time, work and bytes however it is grouped', () => {
    const of = (key: 'ms' | 'flops' | 'bytes') => profile.launches.reduce((n, l) => n + l[key], 0);
    for (const by of groupings) {
      const groups = groupLaunches(profile.launches, by, profile.peaks);
      for (const key of ['ms', 'flops', 'bytes'] as const) {
        const sum = groups.reduce((n, g) => n + g[key], 0);
        expect(sum / of(key), `${key} by ${by}`).toBeCloseTo(1, 9);
      }
      const calls = groups.reduce((n, g) => n + g.launches.length, 0);
      expect(calls).toBe(profile.launches.length);
    }
  });

  test('told how far it was, and left only weights and state behind', () => {
    expect([...stages]).toEqual([
      ...[['capturing the step', 1] as const, ['warming up', 2] as const],
      ...[['timing the host', 3] as const, ['timing the step', 3] as const],
      ...[['timing each launch', 3] as const, ['measuring the peaks', 1] as const],
    ]);
    expect(left).toBe(profile.residentBytes);
  });
});

describe('the explanation of a step', async () => {
  const program = await buildStep(gpu, config);
  const explained = explainProgram(program, { adapter: gpu.adapter, config });

  test('names what each launch is given', () => {
    explained.entries.forEach((entry, i) => {
      const { dispatch } = program.entries[i]!;
      expect(entry.kernel).toBe(dispatch.spec.name);
      expect(entry.buffers).toHaveLength(dispatch.storages.length);
      for (const [name, value] of Object.entries(entry.immediates)) {
        const given = dispatch.dims[name]!;
        expect(value === given || value === Math.fround(given), `${entry.kernel} ${name}`).toBe(
          true,
        );
      }
      expect(Object.keys(entry.immediates)).toHaveLength(dispatch.immediates.length);
      for (const { binding } of entry.buffers)
        expect(dispatch.spec.code).toContain(`> ${binding}:`);
    });
  });

  test('shows the kernel as its file has it but for the constants', () => {
    for (const { dispatch } of program.entries) {
      const { name, code, constants } = dispatch.spec;
      const file = sourceOf(`${name.split(':')[0]}.wgsl`).split('\n');
      const changed = code.split('\n').filter((line, i) => line !== file[i]);
      for (const line of changed) expect(Object.keys(constants)).toContain(line.split(/\W+/)[1]);
    }
  });

  test('puts every planned tensor in one slot that is as large, and no two at once', () => {
    const { slots, plannedBytes } = explained.memory;
    expect(slots.reduce((n, { bytes }) => n + bytes, 0)).toBe(plannedBytes);
    const count = slots.reduce((n, { tensors }) => n + tensors.length, 0);
    expect(count).toBe(program.memory.lives.length);
    for (const { bytes, tensors } of slots) {
      let end = -1;
      for (const { first, last, bytes: own } of tensors) {
        expect(own).toBeLessThanOrEqual(bytes);
        expect(first).toBeGreaterThan(end);
        end = last;
      }
    }
  });

  test('knows which buffers outlive the step', () => {
    const weights = explained.entries.flatMap((e) => e.buffers.filter((b) => b.slot === null));
    expect(weights.map((b) => b.tensor)).toEqual(expect.arrayContaining(['weight', 'images 0']));
    expect(weights.map((b) => b.tensor)).not.toContain('conv2d');
  });
});
