import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { ConvDims } from './conv-kernels.ts';
import { planGather } from './conv-plan.ts';
import type { ConvKind, GatherPlan } from './conv-plan.ts';

/** The tables of a plan on a device. */
export interface DevicePlan extends GatherPlan {
  readonly tables: { readonly taps: Storage; readonly columns: Storage; readonly spans: Storage };
}

/** Tables kept for convolutions that may come again: at most so many plans, and so many bytes besides the newest one. */
export const mostPlans = 64;
const mostBytes = 2 ** 24;

interface Kept {
  readonly plan: DevicePlan;
  readonly bytes: number;
  /** A capture has met it, so that a program may read its tables for as long as the program lives. */
  captured: boolean;
}

const storagesOf = ({ tables }: DevicePlan) => [tables.taps, tables.columns, tables.spans];

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

  plan(kind: ConvKind, dims: ConvDims): DevicePlan {
    const { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW } = dims;
    const key = [kind, N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW].join();
    const kept = this.#kept.get(key) ?? this.#make(kind, dims);
    kept.captured ||= this.#gpu.capturing;
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    this.#dropOld();
    return kept.plan;
  }

  #make(kind: ConvKind, dims: ConvDims): Kept {
    const gpu = this.#gpu;
    const plan = planGather(kind, dims);
    const upload = (name: string, data: Uint32Array) => {
      const storage = gpu.alloc(Math.max(8, data.byteLength), `${name} of a ${kind} convolution`);
      gpu.write(storage, data);
      return storage;
    };
    const tables = gpu.persistent(() => ({
      taps: upload('taps', plan.taps),
      columns: upload('columns', plan.columns),
      spans: upload('spans', plan.spans),
    }));
    const made = { ...plan, tables };
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

/** The plan of a convolution with its tables on the device, for a launch right now: a later plan may drop them. */
export function devicePlan(gpu: Gpu, kind: ConvKind, dims: ConvDims): DevicePlan {
  const cache = caches.get(gpu) ?? new PlanCache(gpu);
  caches.set(gpu, cache);
  return cache.plan(kind, dims);
}
