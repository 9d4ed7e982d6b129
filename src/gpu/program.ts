import type { Gpu } from './device.ts';
import type { MemoryPlan } from './plan.ts';
import type { Block } from './pool.ts';
import { encode } from './recorder.ts';
import type { Encodable } from './recorder.ts';
import type { ReadbackRing } from './readback.ts';
import type { Dispatch } from './storage.ts';
import { timePasses } from './timing.ts';

/** Time of one launch, alone in its pass. */
export interface LaunchTime {
  readonly dispatch: Dispatch;
  readonly ms: number;
}

/**
 * A captured step: a flat list of launches over planned memory. `run` is one pass and one submit; it allocates
 * nothing, creates nothing and waits for nothing.
 */
export class Program {
  readonly entries: readonly Encodable[];
  readonly memory: MemoryPlan;
  readonly #gpu: Gpu;
  #blocks: readonly Block[];
  #destroyed = false;

  constructor(
    gpu: Gpu,
    parts: { entries: readonly Encodable[]; memory: MemoryPlan; blocks: readonly Block[] },
  ) {
    this.#gpu = gpu;
    this.entries = parts.entries;
    this.memory = parts.memory;
    this.#blocks = parts.blocks;
  }

  /** Floating-point operations of one run. */
  get flops(): number {
    return this.entries.reduce((n, e) => n + e.dispatch.flops, 0);
  }

  /** Runs the step once; with a ring, copies what it watches out in the same submit. Throws once destroyed. */
  run(ring?: ReadbackRing): void {
    this.#mustLive();
    const gpu = this.#gpu;
    gpu.flush();
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    encode(pass, this.entries);
    pass.end();
    ring?.record(encoder);
    gpu.device.queue.submit([encoder.finish()]);
    ring?.arm();
  }

  /** Runs the step once with a pass a launch, and returns each launch's time (ms) on the clock of `clockOf(gpu)`. */
  async profile(): Promise<LaunchTime[]> {
    this.#mustLive();
    const times = await timePasses(
      this.#gpu,
      this.entries.map((entry) => [entry]),
    );
    return this.entries.map(({ dispatch }, i) => ({ dispatch, ms: times[i] ?? NaN }));
  }

  /** Runs the whole step `repeat` times and returns the time of each (ms) on the clock of `clockOf(gpu)`. */
  async times(repeat: number): Promise<number[]> {
    this.#mustLive();
    return timePasses(
      this.#gpu,
      Array.from({ length: repeat }, () => this.entries),
    );
  }

  /** Gives the planned memory back to the pool; the program's outputs have no bytes from then on. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    for (const block of this.#blocks) this.#gpu.pool.release(block);
    this.#blocks = [];
    const { slotOf, homes } = this.memory;
    for (const storage of [...slotOf.keys(), ...homes.keys()]) storage.block = undefined;
  }

  /** Its bind groups name memory that is somebody else's after destroy(). */
  #mustLive(): void {
    if (this.#destroyed) throw new Error('the program was destroyed');
  }
}
