import type { Loans } from './loans.ts';
import type { Pipeline, PipelineCache } from './pipelines.ts';
import type { Dispatch, Storage } from './storage.ts';

const maxPending = 256;
const maxBindGroups = 4096;

/** Eager execution: launches are encoded at once into one open pass and submitted in batches. */
export class Recorder {
  readonly #device: GPUDevice;
  readonly #pipelines: PipelineCache;
  readonly #loans: Loans;
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #pending = 0;
  #created = 0;

  constructor(device: GPUDevice, pipelines: PipelineCache, loans: Loans) {
    this.#device = device;
    this.#pipelines = pipelines;
    this.#loans = loans;
  }

  /** Bind groups created since the device was opened. */
  get created(): number {
    return this.#created;
  }

  /** Bind groups that are kept for launches like those before. */
  get kept(): number {
    return this.#bindGroups.size;
  }

  launch(dispatch: Dispatch): void {
    const pipeline = this.#pipelines.get(dispatch.spec);
    const bindGroup = this.#cachedBindGroup(dispatch, pipeline);
    this.#encoder ??= this.#device.createCommandEncoder();
    this.#pass ??= this.#encoder.beginComputePass();
    encode(this.#pass, [{ pipeline: pipeline.pipeline, bindGroup, dispatch }]);
    this.#pending += 1;
    if (this.#pending >= maxPending) this.flush();
  }

  /** Copies in queue order with the launches so far. */
  copy(from: Storage, to: GPUBuffer, bytes: number): void {
    const block = blockOf(from);
    const encoder = this.#encoder ?? this.#device.createCommandEncoder();
    this.#pass?.end();
    this.#pass = undefined;
    this.#encoder = encoder;
    encoder.copyBufferToBuffer(block.buffer, block.offset, to, 0, bytes);
  }

  /** Submits what has been encoded. */
  flush(): void {
    this.#pass?.end();
    const encoder = this.#encoder;
    this.#pass = undefined;
    this.#encoder = undefined;
    this.#pending = 0;
    if (encoder !== undefined) this.#device.queue.submit([encoder.finish()]);
  }

  /** A new bind group for a launch; programs keep theirs. */
  bindGroup(dispatch: Dispatch, pipeline: Pipeline): GPUBindGroup {
    this.#created += 1;
    return this.#device.createBindGroup({
      label: dispatch.spec.name,
      layout: pipeline.layout,
      entries: dispatch.storages.map((storage, binding) => {
        const block = blockOf(storage);
        return {
          binding,
          resource: {
            buffer: block.buffer,
            offset: block.offset,
            size: Math.max(16, Math.ceil(storage.bytes / 16) * 16),
          },
        };
      }),
    });
  }

  #cachedBindGroup(dispatch: Dispatch, pipeline: Pipeline): GPUBindGroup {
    const place = (s: Storage) => `${blockOf(s).id}+${blockOf(s).offset}:${s.bytes}`;
    const key = `${dispatch.spec.key}|${dispatch.storages.map(place).join()}`;
    const hit = this.#bindGroups.get(key);
    if (hit !== undefined) return hit;
    if (this.#bindGroups.size >= maxBindGroups) this.#bindGroups.clear();
    const made = this.bindGroup(dispatch, pipeline);
    this.#bindGroups.set(key, made);
    // The next loan finds its blocks in another order: what names those of this one is hardly ever asked for again.
    this.#loans.note(() => this.#bindGroups.delete(key));
    return made;
  }
}

/** A launch that is ready to encode. */
export interface Encodable {
  readonly dispatch: Dispatch;
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
}

/** The four calls that a launch costs, eager or replayed. */
export function encode(pass: GPUComputePassEncoder, entries: readonly Encodable[]): void {
  for (const { dispatch, pipeline, bindGroup } of entries) {
    const { immediates, grid } = dispatch;
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup);
    if (immediates.length > 0) pass.setImmediates(0, immediates.buffer);
    pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
  }
}

function blockOf(storage: Storage) {
  if (storage.block !== undefined) return storage.block;
  throw new Error(
    `${storage.label} belongs to a captured program or was released; it has no bytes`,
  );
}
