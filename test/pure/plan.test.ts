import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { planMemory } from '../../src/gpu/plan.ts';
import type { MemoryPlan } from '../../src/gpu/plan.ts';
import { sizeClass } from '../../src/gpu/pool.ts';
import { Storage } from '../../src/gpu/storage.ts';
import type { Dispatch } from '../../src/gpu/storage.ts';
import { cutRows, rowEnd, rowOffsets } from '../../src/gpu/row.ts';

const spec = {
  ...{ key: 'k', name: 'k', code: '', entry: 'main', constants: {}, tensors: [] },
  ...{ access: [], immediates: [] },
};
const where = { scope: '', phase: 'forward', layer: '' } as const;

function launch(...storages: Storage[]): Dispatch {
  const immediates = new Uint32Array();
  return { spec, storages, immediates, grid: [1, 1, 1], flops: 0, traffic: 0, dims: {}, where };
}

function storage(id: number, bytes: number): Storage {
  return new Storage(id, bytes, `s${id}`, undefined);
}

/** A step: storages by their sizes, and for each launch the indices that it touches; some are real, some pinned. */
const steps = fc
  .array(fc.integer({ min: 1, max: 1 << 20 }), { minLength: 1, maxLength: 24 })
  .chain((sizes) => {
    const index = fc.nat({ max: sizes.length - 1 });
    return fc.record({
      sizes: fc.constant(sizes),
      launches: fc.array(fc.uniqueArray(index, { minLength: 1, maxLength: 4 }), { maxLength: 40 }),
      real: fc.uniqueArray(index, { maxLength: 3 }),
      pinned: fc.uniqueArray(index, { maxLength: 3 }),
    });
  });

interface Step {
  readonly sizes: readonly number[];
  readonly launches: readonly (readonly number[])[];
  readonly real: readonly number[];
  readonly pinned: readonly number[];
}

function planOf({ sizes, launches, real, pinned }: Step) {
  const all = sizes.map((bytes, i) => storage(i, bytes));
  const virtual = new Set(all.filter((_s, i) => !real.includes(i)));
  const dispatches = launches.map((touched) => launch(...touched.map((i) => all[i]!)));
  const kept = new Set(pinned.map((i) => all[i]!));
  const plan = planMemory(dispatches, { virtual, pinned: kept });
  return { plan, all, virtual, dispatches, kept };
}

/** Every pair of lives that share a slot. */
function pairsInOneSlot(plan: MemoryPlan) {
  return plan.lives.flatMap((a, i) =>
    plan.lives
      .slice(i + 1)
      .filter((b) => plan.slotOf.get(a.storage) === plan.slotOf.get(b.storage))
      .map((b) => [a, b] as const),
  );
}

describe('memory plan', () => {
  test('storages whose lives meet never share a slot', () => {
    fc.assert(
      fc.property(steps, (step) => {
        for (const [a, b] of pairsInOneSlot(planOf(step).plan)) {
          expect(a.last < b.first || b.last < a.first).toBe(true);
        }
      }),
    );
  });

  test('a life spans every launch that touches the storage', () => {
    fc.assert(
      fc.property(steps, (step) => {
        const { plan, virtual, dispatches } = planOf(step);
        const lives = new Map(plan.lives.map((life) => [life.storage, life]));
        dispatches.forEach(({ storages }, i) => {
          for (const s of storages.filter((x) => virtual.has(x))) {
            expect(lives.get(s)!.first).toBeLessThanOrEqual(i);
            expect(lives.get(s)!.last).toBeGreaterThanOrEqual(i);
          }
        });
      }),
    );
  });

  test('nothing takes the slot of an output after the output is written', () => {
    fc.assert(
      fc.property(steps, (step) => {
        const { plan, kept } = planOf(step);
        for (const [a, b] of pairsInOneSlot(plan)) {
          const later = a.first < b.first ? b : a;
          const earlier = later === a ? b : a;
          expect(kept.has(earlier.storage)).toBe(false);
        }
      }),
    );
  });

  test('a slot holds each of its storages whole', () => {
    fc.assert(
      fc.property(steps, (step) => {
        const { plan } = planOf(step);
        for (const [s, slot] of plan.slotOf) {
          expect(plan.slots[slot]!).toBeGreaterThanOrEqual(sizeClass(s.bytes));
        }
      }),
    );
  });

  test('planned bytes lie between the most alive at once and a buffer a tensor', () => {
    fc.assert(
      fc.property(steps, (step) => {
        const { plan, all, virtual, dispatches } = planOf(step);
        const touched = new Set(dispatches.flatMap((d) => d.storages));
        const planned = all.filter((s) => virtual.has(s) && touched.has(s));
        expect([...plan.slotOf.keys()].sort((a, b) => a.id - b.id)).toEqual(planned);
        expect(plan.plannedBytes).toBe(plan.slots.reduce((n, b) => n + b, 0));
        expect(plan.plannedBytes).toBeLessThanOrEqual(plan.unplannedBytes);
        expect(plan.plannedBytes).toBeGreaterThanOrEqual(plan.liveBytes);
        expect(plan.unplannedBytes).toBe(planned.reduce((n, s) => n + sizeClass(s.bytes), 0));
      }),
    );
  });

  test('a chain of equal tensors needs two slots, however long', () => {
    const chain = Array.from({ length: 10 }, (_u, i) => storage(i, 4096));
    const dispatches = chain.slice(1).map((to, i) => launch(chain[i]!, to));
    const plan = planMemory(dispatches, { virtual: new Set(chain), pinned: new Set() });
    expect(plan.slots).toEqual([4096, 4096]);
    expect(plan.liveBytes).toBe(8192);
    expect(plan.unplannedBytes).toBe(40960);
  });

  test('a storage read by the last launch and one that this launch writes are apart', () => {
    const [a, b, c] = [storage(0, 256), storage(1, 256), storage(2, 256)];
    const plan = planMemory([launch(a, b), launch(b, c)], {
      virtual: new Set([a, b, c]),
      pinned: new Set(),
    });
    expect(plan.slotOf.get(b)).not.toBe(plan.slotOf.get(c));
    expect(plan.slotOf.get(c)).toBe(plan.slotOf.get(a));
  });

  test('a step that launches nothing needs nothing', () => {
    const plan = planMemory([], { virtual: new Set([storage(0, 4)]), pinned: new Set() });
    expect(plan).toMatchObject({ slots: [], plannedBytes: 0, unplannedBytes: 0, liveBytes: 0 });
  });
});

describe('size classes', () => {
  test('hold the bytes, waste an eighth at most past 2 KiB, and keep the alignment of a binding', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 40 }), (bytes) => {
        const capacity = sizeClass(bytes);
        expect(capacity).toBeGreaterThanOrEqual(Math.max(bytes, 256));
        expect(capacity % 256).toBe(0);
        expect(capacity - bytes).toBeLessThanOrEqual(Math.max(256, bytes / 8));
        expect(sizeClass(capacity)).toBe(capacity);
      }),
    );
  });

  test('grow with the bytes', () => {
    const bytes = fc.integer({ min: 0, max: 2 ** 40 });
    fc.assert(
      fc.property(bytes, bytes, (a, b) => {
        expect(sizeClass(Math.max(a, b))).toBeGreaterThanOrEqual(sizeClass(Math.min(a, b)));
      }),
    );
  });
});

describe('rows', () => {
  test('begin each storage at a multiple of 512 and are cut where they would be too long', () => {
    const all = [4, 256, 300, 1].map((bytes, i) => storage(i, bytes));
    expect(rowOffsets(all)).toEqual([0, 512, 1024, 1536]);
    expect(rowEnd(all, rowOffsets(all))).toBe(2048);
    expect(cutRows(all, 2048).map((row) => row.length)).toEqual([4]);
    expect(cutRows(all, 2047).map((row) => row.length)).toEqual([3, 1]);
    expect(cutRows(all, 1).map((row) => row.length)).toEqual([1, 1, 1, 1]);
  });

  test('live and die as one', () => {
    const [row, a, b, c] = [512, 100, 200, 100].map((bytes, i) => storage(i, bytes));
    const homes = new Map([
      [a!, { row: row!, offset: 0 }],
      [b!, { row: row!, offset: 256 }],
    ]);
    const virtual = new Set([row!, a!, b!, c!]);
    const launches = [launch(a!), launch(c!), launch(b!), launch(row!)];
    const plan = planMemory(launches, { virtual, homes, pinned: new Set() });
    expect([...plan.slotOf.keys()]).toEqual([row, c]);
    expect(plan.lives.find((life) => life.storage === row)).toMatchObject({ first: 0, last: 3 });
    expect(plan.plannedBytes).toBe(512 + 256);
  });
});
