import type { Gpu } from '../src/gpu/device.ts';
import type { Program } from '../src/gpu/program.ts';
import type { Storage } from '../src/gpu/storage.ts';
import { fill } from '../src/kernels/pointwise.ts';

/** More than the last cache: 50 MiB on an H100, 32 MiB for the cores of a CPU; within what the smallest device binds. */
const flushBytes = (gpu: Gpu) => (gpu.adapter.kind === 'software' ? 2 ** 26 : 2 ** 27);

/** Overwrites a large buffer, so that what ran before has left nothing in a cache. */
export class Flusher {
  readonly #gpu: Gpu;
  readonly #storage: Storage;
  readonly #program: Program;

  private constructor(gpu: Gpu, storage: Storage, program: Program) {
    this.#gpu = gpu;
    this.#storage = storage;
    this.#program = program;
  }

  static async open(gpu: Gpu): Promise<Flusher> {
    const bytes = flushBytes(gpu);
    const storage = gpu.alloc(bytes, 'cache flush');
    const capture = gpu.capture(() => {
      fill(gpu, { out: storage, n: bytes / 4, value: 0 });
      return [];
    });
    return new Flusher(gpu, storage, await capture.build());
  }

  get entries(): Program['entries'] {
    return this.#program.entries;
  }

  close(): void {
    this.#program.destroy();
    this.#gpu.release(this.#storage);
  }
}
