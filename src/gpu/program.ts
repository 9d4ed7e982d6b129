import type { Gpu } from './device.ts';
import type { MemoryPlan } from './plan.ts';
import type { Block } from './pool.ts';
import { encode } from './recorder.ts';
import type { ReadbackRing } from './readback.ts';
import type { Dispatch } from './storage.ts';

/** One launch of a program, ready to encode. */
export interface ProgramEntry {
  readonly dispatch: Dispatch;
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
}

/** GPU time of one launch. */
export interface LaunchTime {
  readonly dispatch: Dispatch;
  readonly ms: number;
}

/**
 * A captured step: a flat list of launches over planned memory. `run` is one pass and one submit; it allocates
 * nothing, creates nothing and waits for nothing.
 */
export class Program {
  readonly entries: readonly ProgramEntry[];
  readonly memory: MemoryPlan;
  readonly #gpu: Gpu;
  #blocks: readonly Block[];
  #destroyed = false;

  constructor(
    gpu: Gpu,
    parts: { entries: readonly ProgramEntry[]; memory: MemoryPlan; blocks: readonly Block[] },
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
    for (const entry of this.entries) encode(pass, entry);
    pass.end();
    ring?.record(encoder);
    gpu.device.queue.submit([encoder.finish()]);
    ring?.arm();
  }

  /** Runs the step once with a pass a launch, and returns each launch's time on the GPU clock (ms). */
  async profile(): Promise<LaunchTime[]> {
    this.#mustLive();
    const gpu = this.#gpu;
    const count = this.entries.length;
    if (!gpu.features.has('timestamp-query')) throw new Error('the adapter has no timestamp-query');
    const chunk = 2048;
    const times: LaunchTime[] = [];
    for (let start = 0; start < count; start += chunk) {
      const part = this.entries.slice(start, start + chunk);
      const querySet = gpu.device.createQuerySet({ type: 'timestamp', count: part.length * 2 });
      const bytes = part.length * 16;
      const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
      const resolve = gpu.device.createBuffer({ size: bytes, usage: QUERY_RESOLVE | COPY_SRC });
      const host = gpu.device.createBuffer({ size: bytes, usage: COPY_DST | MAP_READ });
      gpu.flush();
      const encoder = gpu.device.createCommandEncoder();
      part.forEach((entry, i) => {
        const pass = encoder.beginComputePass({
          timestampWrites: {
            querySet,
            beginningOfPassWriteIndex: 2 * i,
            endOfPassWriteIndex: 2 * i + 1,
          },
        });
        encode(pass, entry);
        pass.end();
      });
      encoder.resolveQuerySet(querySet, 0, part.length * 2, resolve, 0);
      encoder.copyBufferToBuffer(resolve, 0, host, 0, bytes);
      gpu.device.queue.submit([encoder.finish()]);
      await gpu.wait(host.mapAsync(GPUMapMode.READ));
      const stamps = new BigUint64Array(host.getMappedRange().slice(0));
      part.forEach((entry, i) => {
        const ns = Number((stamps[2 * i + 1] ?? 0n) - (stamps[2 * i] ?? 0n));
        times.push({ dispatch: entry.dispatch, ms: ns / 1e6 });
      });
      host.destroy();
      resolve.destroy();
      querySet.destroy();
    }
    return times;
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
