import type { Dispatch, Storage } from './storage.ts';
import { sizeClass } from './pool.ts';
import type { Home } from './row.ts';

/** First and last launch that touches a storage. */
export interface Life {
  readonly storage: Storage;
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

export interface MemoryPlan {
  /** Which slot each virtual storage lives in. */
  readonly slotOf: ReadonlyMap<Storage, number>;
  /** Bytes of each slot. */
  readonly slots: readonly number[];
  /** Sum of the slots: what the program will hold. */
  readonly plannedBytes: number;
  /** What it would hold with a buffer a tensor. */
  readonly unplannedBytes: number;
  /** The most bytes alive at one launch: no plan can do with less. */
  readonly liveBytes: number;
  readonly lives: readonly Life[];
  /** Storages that live inside another one, and where. */
  readonly homes: ReadonlyMap<Storage, Home>;
}

interface PlanOptions {
  readonly virtual: ReadonlySet<Storage>;
  readonly pinned: ReadonlySet<Storage>;
  readonly homes?: ReadonlyMap<Storage, Home>;
}

/**
 * Shares buffers between tensors whose lives do not meet. Slots are whole buffers, never parts of one: one buffer may
 * not be read and written in the same launch, and Dawn puts a barrier between launches that share a buffer.
 * Best fit in order of birth; a pinned storage (an output) lives to the end. Storages that were asked to lie side by side
 * live and die as one.
 */
export function planMemory(dispatches: readonly Dispatch[], options: PlanOptions): MemoryPlan {
  const lives = livesOf(dispatches, options);
  const slots: number[] = [];
  const free: number[] = [];
  const slotOf = new Map<Storage, number>();
  const byDeath = [...lives].sort((a, b) => a.last - b.last);
  let dead = 0;
  for (const life of lives) {
    for (
      let next = byDeath[dead];
      next !== undefined && next.last < life.first;
      next = byDeath[++dead]
    ) {
      const slot = slotOf.get(next.storage);
      if (slot !== undefined) free.push(slot);
    }
    const bytes = sizeClass(life.bytes);
    const slot = takeBest(free, slots, bytes) ?? slots.push(0) - 1;
    slots[slot] = Math.max(slots[slot] ?? 0, bytes);
    slotOf.set(life.storage, slot);
  }
  return {
    slotOf,
    slots,
    lives,
    homes: options.homes ?? new Map<Storage, Home>(),
    plannedBytes: sum(slots),
    unplannedBytes: sum(lives.map((l) => sizeClass(l.bytes))),
    liveBytes: mostAlive(lives, dispatches.length),
  };
}

function livesOf(dispatches: readonly Dispatch[], { virtual, pinned, homes }: PlanOptions): Life[] {
  const home = (storage: Storage) => homes?.get(storage)?.row ?? storage;
  const kept = new Set([...pinned].map(home));
  // A row is as long as what came to lie in it.
  const ends = new Map<Storage, number>();
  for (const [{ bytes }, { row, offset }] of homes ?? []) {
    ends.set(row, Math.max(ends.get(row) ?? row.bytes, offset + bytes));
  }
  const first = new Map<Storage, number>();
  const last = new Map<Storage, number>();
  dispatches.forEach((dispatch, i) => {
    for (const storage of dispatch.storages.map(home)) {
      if (!virtual.has(storage)) continue;
      if (!first.has(storage)) first.set(storage, i);
      last.set(storage, kept.has(storage) ? dispatches.length : i);
    }
  });
  return [...first]
    .map(([storage, born]) => ({
      storage,
      bytes: ends.get(storage) ?? storage.bytes,
      first: born,
      last: last.get(storage) ?? born,
    }))
    .sort((a, b) => a.first - b.first);
}

/** The free slot that fits most closely; else the largest, which grows (cheaper than one more buffer). */
function takeBest(free: number[], slots: readonly number[], bytes: number): number | undefined {
  let best = -1;
  let bestScore = Infinity;
  free.forEach((slot, i) => {
    const size = slots[slot] ?? 0;
    const score = size >= bytes ? size - bytes : 2 * (bytes - size);
    if (score < bestScore) {
      best = i;
      bestScore = score;
    }
  });
  const slot = best < 0 ? undefined : free[best];
  const size = slot === undefined ? 0 : (slots[slot] ?? 0);
  // A slot many times too large is better left for a tensor of its size.
  if (slot === undefined || size > 4 * bytes + 65536) return undefined;
  free.splice(best, 1);
  return slot;
}

function mostAlive(lives: readonly Life[], length: number): number {
  const change = new Float64Array(length + 2);
  for (const { bytes: own, first, last } of lives) {
    const bytes = sizeClass(own);
    change[first] = (change[first] ?? 0) + bytes;
    change[last + 1] = (change[last + 1] ?? 0) - bytes;
  }
  let now = 0;
  let most = 0;
  for (const c of change) {
    now += c;
    most = Math.max(most, now);
  }
  return most;
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
