import type { Gpu } from './device.ts';
import type { Storage } from './storage.ts';

interface Slot {
  readonly buffer: GPUBuffer;
  busy: Promise<void> | undefined;
}

/**
 * Small results (losses) leave a running program through a ring of host-visible buffers and arrive some steps later,
 * so that no step waits for the one before. The ring's depth bounds how far the host runs ahead.
 */
export class ReadbackRing {
  readonly #gpu: Gpu;
  readonly #watched: readonly Storage[];
  readonly #floats: readonly number[];
  readonly #slots: Slot[];
  readonly #onValues: (values: Float32Array) => void;
  #next = 0;
  #recorded: Slot | undefined;

  /** `onValues` receives the first f32 of each watched storage, or the first `floats` of each, in run order. */
  constructor(
    gpu: Gpu,
    watched: readonly Storage[],
    options: {
      depth?: number;
      floats?: readonly number[];
      onValues: (values: Float32Array) => void;
    },
  ) {
    this.#gpu = gpu;
    this.#watched = watched;
    this.#onValues = options.onValues;
    this.#floats = options.floats ?? watched.map(() => 1);
    const bytes = 4 * this.#floats.reduce((sum, n) => sum + n, 0);
    this.#slots = Array.from({ length: options.depth ?? 3 }, () => ({
      buffer: gpu.device.createBuffer({
        label: 'readback ring',
        size: Math.max(4, bytes),
        usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
      }),
      busy: undefined,
    }));
  }

  /** Resolves when the next run has a free slot. */
  async ready(): Promise<void> {
    const slot = this.#slots[this.#next];
    if (slot?.busy !== undefined) await this.#gpu.wait(slot.busy);
  }

  record(encoder: GPUCommandEncoder): void {
    const slot = this.#slots[this.#next];
    if (slot === undefined || slot.busy !== undefined) {
      throw new Error('readback ring is full: await ready() before each run');
    }
    let at = 0;
    this.#watched.forEach((storage, i) => {
      const bytes = 4 * (this.#floats[i] ?? 1);
      const block = storage.block;
      if (block === undefined) throw new Error(`${storage.label} has no bytes to read back`);
      encoder.copyBufferToBuffer(block.buffer, block.offset, slot.buffer, at, bytes);
      at += bytes;
    });
    this.#recorded = slot;
    this.#next = (this.#next + 1) % this.#slots.length;
  }

  /** Called right after the submit. */
  arm(): void {
    const slot = this.#recorded;
    if (slot === undefined) return;
    this.#recorded = undefined;
    const busy = slot.buffer.mapAsync(GPUMapMode.READ).then(() => {
      const values = new Float32Array(slot.buffer.getMappedRange().slice(0));
      slot.buffer.unmap();
      this.#onValues(values);
      slot.busy = undefined;
    });
    // A failure (a lost device, onValues throwing) stays in the slot and surfaces at the next ready() or drain().
    busy.catch(() => undefined);
    slot.busy = busy;
  }

  /** Resolves when every value has arrived. */
  async drain(): Promise<void> {
    for (let i = 0; i < this.#slots.length; i++) {
      const slot = this.#slots[(this.#next + i) % this.#slots.length];
      if (slot?.busy !== undefined) await this.#gpu.wait(slot.busy);
    }
  }

  destroy(): void {
    for (const slot of this.#slots) slot.buffer.destroy();
  }
}
