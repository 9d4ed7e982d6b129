import { UserError } from '../util/errors.ts';
import type { Gpu } from './device.ts';
import { planMemory } from './plan.ts';
import type { MemoryPlan } from './plan.ts';
import type { Block } from './pool.ts';
import { Program } from './program.ts';
import { partOf } from './row.ts';
import type { Home } from './row.ts';
import type { Dispatch, Storage } from './storage.ts';

export interface CaptureOptions {
  /** Lay tensors side by side where one launch can then go over several. Default true; false shows what that saves. */
  readonly rows?: boolean;
}

/** What a captured step launched, before any memory or pipeline of it exists. */
export class Capture {
  readonly dispatches: Dispatch[] = [];
  readonly virtual = new Set<Storage>();
  /** Where storages that lie side by side are. */
  readonly homes = new Map<Storage, Home>();
  readonly #gpu: Gpu;
  #memory: MemoryPlan | undefined;
  #built = false;

  readonly #rows: boolean;

  constructor(gpu: Gpu, { rows = true }: CaptureOptions = {}) {
    this.#gpu = gpu;
    this.#rows = rows;
  }

  /** Bytes that the program would hold, planned and unplanned. */
  get memory(): MemoryPlan {
    if (this.#memory === undefined) throw new Error('the capture has not finished');
    return this.#memory;
  }

  /**
   * Lays the parts of `span` at `offsets` of one buffer, beside what lies there already, if they are this step's own, none
   * is in anybody's way, and no launch reads one and writes another: of one buffer that is not allowed.
   */
  together(span: Storage, offsets: readonly number[]): boolean {
    if (!this.#rows) return false;
    const { parts } = span;
    const found = parts.map((part) => this.homes.get(part));
    const anchor = Math.max(
      0,
      found.findIndex((home) => home !== undefined),
    );
    const { row, offset } = found[anchor] ?? { row: span, offset: 0 };
    const shift = offset - (found[anchor] === undefined ? 0 : (offsets[anchor] ?? 0));
    const wanted = offsets.map((o) => ({ row, offset: o + shift }));
    const fits = parts.every((part, i) => {
      const [has, home] = [found[i], wanted[i]];
      if (home === undefined || !this.virtual.has(part)) return false;
      if (has !== undefined) return has.row === row && has.offset === home.offset;
      return home.offset >= 0 && this.#isFree(home, part.bytes);
    });
    const mine = new Set([...parts, ...this.#livingIn(row).map(([storage]) => storage)]);
    const distinct = new Set(parts).size === parts.length;
    if (!fits || !distinct || this.dispatches.some((d) => conflicts(d, (s) => mine.has(s)))) {
      return false;
    }
    parts.forEach((part, i) => {
      const home = wanted[i];
      if (home !== undefined) this.homes.set(part, home);
    });
    if (row === span) this.virtual.add(span);
    else this.homes.set(span, { row, offset: shift });
    return true;
  }

  #livingIn(row: Storage): [Storage, Home][] {
    return [...this.homes].filter(([, home]) => home.row === row);
  }

  /** True if no tensor lies there; spans over tensors do not count. */
  #isFree({ row, offset }: Home, bytes: number): boolean {
    return this.#livingIn(row).every(
      ([{ parts, bytes: theirs }, home]) =>
        parts.length > 0 || home.offset + theirs <= offset || offset + bytes <= home.offset,
    );
  }

  finish(outputs: readonly Storage[]): void {
    const { virtual, homes } = this;
    for (const row of new Set([...homes.values()].map((home) => home.row))) {
      const clash = this.dispatches.find((d) =>
        conflicts(d, (s) => (homes.get(s)?.row ?? s) === row),
      );
      if (clash === undefined) continue;
      throw new Error(`${clash.spec.name} reads and writes ${row.label}, which lie in one buffer`);
    }
    this.#memory = planMemory(this.dispatches, { virtual, homes, pinned: new Set(outputs) });
  }

  /** True when the planned buffers fit beside what the device already holds. */
  get fits(): boolean {
    const { pool } = this.#gpu;
    return this.memory.plannedBytes + pool.stats().liveBytes <= pool.budgetBytes;
  }

  /**
   * Takes the planned memory, compiles every pipeline and makes every bind group. Throws a `UserError` before it
   * takes anything if the plan passes the memory budget. A capture makes one program: its outputs have one place.
   */
  async build(): Promise<Program> {
    const gpu = this.#gpu;
    const memory = this.memory;
    if (this.#built) throw new Error('the capture has its program already');
    if (!this.fits) {
      const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
      throw new UserError(
        `out of memory: the step needs ${gib(memory.plannedBytes)} beside ${gib(gpu.pool.stats().liveBytes)} of weights and state, and the budget is ${gib(gpu.pool.budgetBytes)}; try a smaller --batch`,
      );
    }
    await gpu.pipelines.prepare(this.dispatches.map((d) => d.spec));
    gpu.pool.trim();
    const blocks: Block[] = [];
    try {
      memory.slots.forEach((bytes, i) => blocks.push(gpu.pool.acquire(bytes, `slot ${i}`)));
      for (const [storage, slot] of memory.slotOf) storage.block = blocks[slot];
      for (const [storage, { row, offset }] of memory.homes) {
        if (row.block !== undefined) storage.block = partOf(row.block, offset, storage.bytes);
      }
      const entries = this.dispatches.map((dispatch) => {
        const pipeline = gpu.pipelines.get(dispatch.spec);
        const bindGroup = gpu.recorder.bindGroup(dispatch, pipeline);
        return { dispatch, pipeline: pipeline.pipeline, bindGroup };
      });
      this.#built = true;
      return new Program(gpu, { entries, memory, blocks });
    } catch (error) {
      for (const storage of [...memory.slotOf.keys(), ...memory.homes.keys()]) {
        storage.block = undefined;
      }
      for (const block of blocks) gpu.pool.release(block);
      throw error;
    }
  }
}

/** True if a launch reads one of a row's storages and writes another. */
function conflicts({ spec, storages }: Dispatch, inRow: (storage: Storage) => boolean): boolean {
  const ways = storages.flatMap((s, i) => (inRow(s) ? [spec.access[i]] : []));
  return ways.includes('read') && ways.includes('read_write');
}
