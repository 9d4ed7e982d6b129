import { UserError } from '../util/errors.ts';
import type { Gpu } from './device.ts';
import { planMemory } from './plan.ts';
import type { MemoryPlan } from './plan.ts';
import type { Block } from './pool.ts';
import { Program } from './program.ts';
import type { Dispatch, Storage } from './storage.ts';

/** What a captured step launched, before any memory or pipeline of it exists. */
export class Capture {
  readonly dispatches: Dispatch[] = [];
  readonly virtual = new Set<Storage>();
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

  finish(outputs: readonly Storage[]): void {
    this.#memory = planMemory(this.dispatches, {
      virtual: this.virtual,
      pinned: new Set(outputs),
    });
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
      const entries = this.dispatches.map((dispatch) => {
        const pipeline = gpu.pipelines.get(dispatch.spec);
        const bindGroup = gpu.recorder.bindGroup(dispatch, pipeline);
        return { dispatch, pipeline: pipeline.pipeline, bindGroup };
      });
      this.#built = true;
      return new Program(gpu, { entries, memory, blocks });
    } catch (error) {
      for (const storage of memory.slotOf.keys()) storage.block = undefined;
      for (const block of blocks) gpu.pool.release(block);
      throw error;
    }
  }
}
