import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { ConvDims } from './conv-kernels.ts';

/** A plan whose tables are on a device. */
export interface DevicePlan<P> {
  readonly plan: P;
  /** One storage a table, by name. */
  readonly tables: Readonly<Record<string, Storage>>;
}

export type Tables = Readonly<Record<string, Uint32Array>>;

/** Tables kept for convolutions that may come again: at most so many plans, and so many bytes besides the newest one. */
export const mostPlans = 64;
const mostBytes = 2 ** 24;

interface Kept {
  readonly plan: DevicePlan<unknown>;
  readonly bytes: number;
  /** A capture has met it, so that a program may read its tables for as long as the program lives. */
  captured: boolean;
}

const storagesOf = ({ tables }: DevicePlan<unknown>) => Object.values(tables);

/**
 * The tables of the convolutions that a device ran last; a Map in order of use, oldest first. What is dropped goes back
 * to the pool at once, for later launches run later. Tables that a capture met go back when their storages are garbage:
 * captures and programs hold the storages of their launches, and nothing else does then.
 */
class PlanCache {
  readonly #gpu: Gpu;
  readonly #kept = new Map<string, Kept>();
  readonly #orphans = new FinalizationRegistry<() => void>((release) => {
    release();
  });
  #bytes = 0;

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  get<P>(key: string, make: () => { plan: P; tables: Tables }): DevicePlan<P> {
    const kept = this.#kept.get(key) ?? this.#upload(key, make());
    kept.captured ||= this.#gpu.capturing;
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    this.#dropOld();
    return kept.plan as DevicePlan<P>;
  }

  #upload(key: string, { plan, tables }: { plan: unknown; tables: Tables }): Kept {
    const gpu = this.#gpu;
    const storages: Record<string, Storage> = {};
    for (const [name, data] of Object.entries(tables)) {
      const alloc = () => gpu.alloc(Math.max(8, data.byteLength), `${name} of ${key}`);
      const storage = gpu.loans.except(() => gpu.persistent(alloc));
      gpu.write(storage, data);
      storages[name] = storage;
    }
    const made = { plan, tables: storages };
    const bytes = storagesOf(made).reduce((sum, storage) => sum + storage.bytes, 0);
    this.#bytes += bytes;
    return { plan: made, bytes, captured: false };
  }

  #dropOld(): void {
    for (const [key, { plan, bytes, captured }] of this.#kept) {
      const fits = this.#kept.size <= mostPlans && this.#bytes <= mostBytes;
      if (fits || this.#kept.size === 1) return;
      this.#kept.delete(key);
      this.#bytes -= bytes;
      for (const storage of storagesOf(plan)) {
        if (captured) this.#leaveToPrograms(storage);
        else this.#gpu.release(storage);
      }
    }
  }

  #leaveToPrograms(storage: Storage): void {
    const { pool } = this.#gpu;
    const { block } = storage;
    if (block === undefined) return;
    this.#orphans.register(storage, () => {
      pool.release(block);
    });
  }
}

const caches = new WeakMap<Gpu, PlanCache>();

/**
 * The plan of a convolution with its tables on the device, for a launch right now: a later plan may drop them. `what`
 * names the kind of plan; it is made if the device does not hold it.
 */
export function devicePlan<P>(
  gpu: Gpu,
  what: string,
  dims: ConvDims,
  make: () => { plan: P; tables: Tables },
): DevicePlan<P> {
  const cache = caches.get(gpu) ?? new PlanCache(gpu);
  caches.set(gpu, cache);
  return cache.get(`${what} ${Object.values(dims).join()}`, make);
}
