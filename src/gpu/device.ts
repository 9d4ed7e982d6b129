import { UserError } from '../util/errors.ts';
import { chooseAdapter } from './adapter.ts';
import type { AdapterChoice, AdapterSummary } from './adapter.ts';
import { Capture } from './capture.ts';
import type { CaptureOptions } from './capture.ts';
import { Choices } from './choices.ts';
import type { Choice } from './choices.ts';
import { Loans } from './loans.ts';
import { PipelineCache } from './pipelines.ts';
import { hostMemoryBytes, resetPollThrottle } from './platform.ts';
import { BufferPool, guardBytes, guardWord } from './pool.ts';
import { Recorder } from './recorder.ts';
import { cutRows, offsetsInBuffer, partOf, rowEnd, rowOffsets, spanOf } from './row.ts';
import { Storage } from './storage.ts';
import type { Dispatch, Where } from './storage.ts';

export interface GpuOptions extends AdapterChoice {
  /** Most bytes of GPU buffers. Default: what the device can be expected to hold. */
  readonly memoryBytes?: number;
  /** Tests only: guard bands round every buffer, every block poisoned when it is handed out. */
  readonly guard?: boolean;
  /** Rungs and tiles that were measured to be fastest, by ladder and sizes; or what knows them for an adapter. */
  readonly tuned?: TunedChoices | ((adapter: AdapterSummary) => TunedChoices);
}

export type TunedChoices = ReadonlyMap<string, Choice>;

export type HostArray = Float32Array | Uint32Array | Uint16Array | Uint8Array;

/** Opens the adapter that `options` choose and makes a device with every feature and limit the engine can use. */
export async function openGpu(options: GpuOptions = {}): Promise<Gpu> {
  const { adapter, summary } = await chooseAdapter(options);
  const features = summary.features.filter((f) => usefulFeatures.has(f));
  const requiredLimits: Record<string, number> = {};
  for (const name of usefulLimits) {
    const value = summary.limits[name];
    if (value !== undefined) requiredLimits[name] = value;
  }
  const device = await adapter.requestDevice({
    label: 'wgsagan',
    requiredFeatures: features as GPUFeatureName[],
    requiredLimits,
  });
  return new Gpu(device, summary, options);
}

const usefulFeatures = new Set([
  'timestamp-query',
  'shader-f16',
  'subgroups',
  'subgroup-size-control',
  'chromium-experimental-subgroup-matrix',
]);

const usefulLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
];

/**
 * One open device: memory, pipelines, eager execution and capture. Opened by the CLI, a bench or a test and handed
 * down. Errors of the device (validation, out of memory, loss) are fatal: they surface at the next wait or read.
 */
export class Gpu {
  readonly device: GPUDevice;
  readonly adapter: AdapterSummary;
  readonly features: ReadonlySet<string>;
  readonly limits: Readonly<Record<string, number>>;
  readonly pool: BufferPool;
  readonly pipelines: PipelineCache;
  readonly recorder: Recorder;
  readonly choices: Choices;
  readonly loans = new Loans();
  readonly #guard: boolean;
  readonly #waiters = new Set<(error: Error) => void>();
  #failure: Error | undefined;
  #closing = false;
  #nextId = 1;
  #capture: Capture | undefined;
  #keepAlive = 0;
  #where: Where = { scope: '', phase: 'forward', layer: '' };
  readonly #scopes: Set<Storage>[] = [];

  constructor(device: GPUDevice, adapter: AdapterSummary, options: GpuOptions) {
    this.device = device;
    this.adapter = adapter;
    this.features = new Set(device.features);
    this.limits = adapter.limits;
    const { tuned } = options;
    this.choices = new Choices(typeof tuned === 'function' ? tuned(adapter) : tuned);
    this.#guard = options.guard ?? false;
    const budgetBytes = options.memoryBytes ?? defaultBudget(adapter);
    this.pool = new BufferPool(device, {
      budgetBytes,
      guard: this.#guard,
      submitPending: () => {
        this.flush();
      },
    });
    this.pipelines = new PipelineCache(device);
    this.recorder = new Recorder(device, this.pipelines, this.loans);
    device.onuncapturederror = (event) => {
      event.preventDefault();
      this.#fail(new Error(textOf(event.error)));
    };
    void device.lost.then((info) => {
      if (!this.#closing) {
        this.#fail(new Error(`the GPU device was lost (${info.reason}): ${info.message}`));
      }
    });
  }

  /** True while a step is being captured: nothing runs, buffers are promises. */
  get capturing(): boolean {
    return this.#capture !== undefined;
  }

  /** What the launches of now belong to. */
  get where(): Where {
    return this.#where;
  }

  /** Marks the launches of `body`; a mark inside another wins. Profiles and `explain` group by it, nothing else reads it. */
  within<T>(where: Partial<Where>, body: () => T): T {
    const before = this.#where;
    this.#where = { ...before, ...where };
    try {
      return body();
    } finally {
      this.#where = before;
    }
  }

  /** A buffer for a tensor of `bytes`; virtual while capturing, released with the scope it was made in otherwise. */
  alloc(bytes: number, label: string): Storage {
    const limit = this.limits['maxStorageBufferBindingSize'] ?? 2 ** 27;
    if (bytes > limit) {
      throw new UserError(
        `${label} needs ${bytes} bytes in one buffer, and this device binds at most ${limit}; try a smaller --batch`,
      );
    }
    const capture = this.#keepAlive === 0 ? this.#capture : undefined;
    const block = capture === undefined ? this.pool.acquire(bytes, label) : undefined;
    const storage = new Storage(this.#nextId++, bytes, label, block);
    if (capture === undefined) this.loans.note(() => this.release(storage));
    if (capture !== undefined) capture.virtual.add(storage);
    else if (this.#keepAlive === 0) this.#scopes.at(-1)?.add(storage);
    return storage;
  }

  /** Buffers made inside `make` outlive scopes and captures: parameters, optimiser state, constants. */
  persistent<T>(make: () => T): T {
    this.#keepAlive += 1;
    try {
      return make();
    } finally {
      this.#keepAlive -= 1;
    }
  }

  /** Gives a storage's bytes back to the pool; its tensor must not be used again. */
  release(storage: Storage): void {
    if (storage.block === undefined) return;
    this.pool.release(storage.block);
    storage.block = undefined;
  }

  /**
   * Moves storages that outlive steps side by side into one buffer, or a few where one would pass the device's limit, so
   * that one launch can go over all of them. Before anything that names their places is captured.
   */
  join(storages: readonly Storage[], label: string): void {
    this.flush();
    const limit = this.limits['maxStorageBufferBindingSize'] ?? 2 ** 27;
    for (const row of cutRows(storages, limit)) {
      const offsets = rowOffsets(row);
      const whole = this.pool.acquire(rowEnd(row, offsets), label);
      this.loans.note(() => this.pool.release(whole));
      const encoder = this.device.createCommandEncoder();
      const placed = row.map((storage, i) => {
        const block = storage.block;
        if (block === undefined) throw new Error(`${storage.label} has no bytes to move`);
        const place = partOf(whole, offsets[i] ?? 0, storage.bytes);
        const bytes = Math.ceil(storage.bytes / 4) * 4;
        encoder.copyBufferToBuffer(block.buffer, block.offset, place.buffer, place.offset, bytes);
        return { storage, block, place };
      });
      this.device.queue.submit([encoder.finish()]);
      for (const { storage, block, place } of placed) {
        this.pool.release(block);
        storage.block = place;
      }
    }
  }

  /** Offsets in bytes from the first of storages that lie in one buffer behind it; undefined if they do not. */
  offsets(storages: readonly Storage[]): number[] | undefined {
    return offsetsInBuffer(storages);
  }

  /**
   * One storage over all of `storages`, if they lie in one buffer at `offsets` (in bytes from the first; side by side if
   * left out), or if a captured step can still be told to lay them so; undefined otherwise. What is written to it is
   * written to them.
   */
  together(
    storages: readonly Storage[],
    offsets: readonly number[] = rowOffsets(storages),
  ): Storage | undefined {
    const [first] = storages;
    if (first === undefined || storages.length === 1) return first;
    const bytes = rowEnd(storages, offsets);
    if (bytes > (this.limits['maxStorageBufferBindingSize'] ?? 2 ** 27)) return undefined;
    const label = `${first.label} and ${storages.length - 1} more`;
    const span = new Storage(this.#nextId, bytes, label, undefined, storages);
    span.block = spanOf(storages, offsets);
    if (span.block === undefined && this.#capture?.together(span, offsets) !== true) {
      return undefined;
    }
    this.#nextId += 1;
    return span;
  }

  /**
   * Eager mode: releases every buffer made inside `body` when it ends, but for those in `keep(result)`, which pass to
   * the scope around.
   */
  scope<T>(body: () => T, keep: (result: T) => readonly Storage[] = () => []): T {
    const mine = new Set<Storage>();
    this.#scopes.push(mine);
    try {
      const result = body();
      for (const storage of keep(result)) {
        if (mine.delete(storage)) this.#scopes.at(-2)?.add(storage);
      }
      return result;
    } finally {
      this.#scopes.pop();
      for (const storage of mine) this.release(storage);
    }
  }

  launch(dispatch: Dispatch): void {
    const { spec, storages } = dispatch;
    storages.forEach((storage, i) => {
      if (spec.access[i] === 'read_write') storage.touch();
    });
    if (this.#capture !== undefined) this.#capture.dispatches.push(dispatch);
    else this.recorder.launch(dispatch);
  }

  /** Uploads host data, in order with the launches so far. */
  write(storage: Storage, data: HostArray): void {
    if (data.byteLength > storage.bytes) {
      throw new Error(`${storage.label}: ${data.byteLength} bytes do not fit in ${storage.bytes}`);
    }
    const block = storage.block;
    if (block === undefined) throw new Error(`${storage.label} has no bytes to write to`);
    this.flush();
    storage.touch();
    let bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (bytes.length % 4 !== 0) {
      const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
      padded.set(bytes);
      bytes = padded;
    }
    this.device.queue.writeBuffer(block.buffer, block.offset, bytes);
  }

  /** The bytes of a storage, after everything launched so far. */
  async read(storage: Storage): Promise<ArrayBuffer> {
    if (this.capturing) throw new Error('a value cannot be read while a step is being captured');
    const bytes = Math.ceil(storage.bytes / 4) * 4;
    const host = this.device.createBuffer({
      label: `read ${storage.label}`,
      size: Math.max(4, bytes),
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    try {
      if (bytes > 0) this.recorder.copy(storage, host, bytes);
      this.flush();
      await this.wait(host.mapAsync(GPUMapMode.READ));
      return host.getMappedRange().slice(0, storage.bytes);
    } finally {
      host.destroy();
    }
  }

  /** Submits what has been launched eagerly. */
  flush(): void {
    this.recorder.flush();
  }

  /** Resolves when the GPU has done everything submitted; rejects with the device's first error. */
  async sync(): Promise<void> {
    this.flush();
    await this.wait(this.device.queue.onSubmittedWorkDone());
  }

  /** Waits for a promise of the device, or for the device to fail. */
  async wait<T>(promise: Promise<T>): Promise<T> {
    // Where the device has failed, nobody looks at the promise itself any more, and it may reject later.
    promise.catch(() => undefined);
    if (this.#failure !== undefined) throw this.#failure;
    resetPollThrottle();
    // Not Promise.race with one promise of failure: that promise would keep every race for as long as the device lives.
    let fail: (error: Error) => void = () => undefined;
    try {
      return await new Promise<T>((resolve, reject) => {
        this.#waiters.add((fail = reject));
        promise.then(resolve, reject);
      });
    } finally {
      this.#waiters.delete(fail);
    }
  }

  /** The first failure is the device's for good: what waits is told now, what comes later at once. */
  #fail(error: Error): void {
    this.#failure ??= error;
    for (const reject of this.#waiters) reject(this.#failure);
  }

  /**
   * Runs `step` with nothing executed and every new buffer virtual, and returns what it launched together with its
   * memory plan. `build()` on the result makes the program. `step` returns the storages that must outlive a run.
   */
  capture(step: () => readonly Storage[], options: CaptureOptions = {}): Capture {
    if (this.#capture !== undefined) throw new Error('captures do not nest');
    this.flush();
    const capture = new Capture(this, options);
    this.#capture = capture;
    try {
      capture.finish(step());
    } finally {
      this.#capture = undefined;
    }
    return capture;
  }

  /** Tests only: names the blocks whose guard bands were written to. */
  async brokenGuards(): Promise<string[]> {
    if (!this.#guard) throw new Error('the device was opened without guards');
    await this.sync();
    const broken: string[] = [];
    for (const block of this.pool.blocks()) {
      const bytes = block.capacity + 2 * guardBytes;
      const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
      const host = this.device.createBuffer({ size: bytes, usage });
      const encoder = this.device.createCommandEncoder();
      encoder.copyBufferToBuffer(block.buffer, 0, host, 0, bytes);
      this.device.queue.submit([encoder.finish()]);
      await this.wait(host.mapAsync(GPUMapMode.READ));
      const words = new Uint32Array(host.getMappedRange());
      const bands = [words.subarray(0, guardBytes / 4), words.subarray(-guardBytes / 4)];
      if (bands.some((band) => band.some((w) => w !== guardWord))) broken.push(block.buffer.label);
      host.destroy();
    }
    return broken;
  }

  /** Destroys every buffer and the device. */
  close(): void {
    if (this.#closing) return;
    this.#closing = true;
    this.pool.destroy();
    this.device.destroy();
  }
}

/** What the device says, with the remedy where there is one. */
function textOf({ constructor, message }: GPUError): string {
  return constructor.name === 'GPUOutOfMemoryError'
    ? `the GPU is out of memory: ${message}; try a smaller --batch`
    : `GPU ${constructor.name}: ${message}`;
}

/** Software drivers take host memory and are killed without a word when it ends; a GPU is trusted to say no. */
function defaultBudget(adapter: AdapterSummary): number {
  return adapter.kind === 'software' ? hostMemoryBytes().available * 0.8 : Number.MAX_SAFE_INTEGER;
}
