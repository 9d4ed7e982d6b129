import { UserError } from '../util/errors.ts';
import type { Gpu } from './device.ts';
import { planMemory } from './plan.ts';
import type { MemoryPlan } from './plan.ts';
import type { Block } from './pool.ts';
import { Program } from './program.ts';
import { partOf, placeRow } from './row.ts';
import type { Home } from './row.ts';
import type { Dispatch, Storage } from './storage.ts';

/** What a captured step launched, before any memory or pipeline of it exists. */
export class Capture {
  readonly dispatches: Dispatch[] = [];
  readonly virtual = new Set<Storage>();
  /** Where storages that lie side by side are. */
  readonly homes = new Map<Storage, Home>();
  readonly #gpu: Gpu;
  #memory: MemoryPlan | undefined;
  #built = false;

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  /** Bytes that the program would hold, planned and unplanned. */
  get memory(): MemoryPlan {
    if (this.#memory === undefined) throw new Error('the capture has not finished');
    return this.#memory;
  }

  /**
   * Lays the parts of `span` side by side, if they are this step's own, each is named once, none lies elsewhere already,
   * and no launch reads one and writes another: of one buffer that is not allowed.
   */
  together(span: Storage): boolean {
    const { parts } = span;
    if (!parts.every((part) => this.virtual.has(part))) return false;
    const homes = parts.map((part) => this.homes.get(part));
    if (homes.some((home) => home !== undefined)) return this.#view(span, homes);
    const mine = new Set(parts);
    if (mine.size < parts.length || this.dispatches.some((d) => conflicts(d, (s) => mine.has(s)))) {
      return false;
    }
    this.virtual.add(span);
    for (const { storage, offset } of placeRow(parts))
      this.homes.set(storage, { row: span, offset });
    return true;
  }

  /** A span over neighbours that have been laid side by side before. */
  #view(span: Storage, homes: readonly (Home | undefined)[]): boolean {
    const [first] = homes;
    if (first === undefined) return false;
    const places = placeRow(span.parts);
    const neighbours = homes.every(
      (home, i) => home?.row === first.row && home.offset - first.offset === places[i]?.offset,
    );
    if (neighbours) this.homes.set(span, first);
    return neighbours;
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
