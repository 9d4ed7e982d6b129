import type { Immediate } from './wgsl.ts';

/** A shader as it will be compiled: constants rewritten, bindings known. Made once, compiled on first need. */
export interface PipelineSpec {
  /** File, entry and constants: names the exact code in a profile. */
  readonly key: string;
  readonly name: string;
  readonly code: string;
  readonly entry: string;
  /** The constants that were rewritten. */
  readonly constants: Readonly<Record<string, number | string>>;
  /** Names of the bindings. */
  readonly tensors: readonly string[];
  readonly access: readonly ('read' | 'read_write')[];
  readonly immediates: readonly Immediate[];
}

export interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Compiled pipelines by key. A failed compile is forgotten, and its message shows the lines of the source. */
export class PipelineCache {
  readonly #device: GPUDevice;
  readonly #ready = new Map<string, Pipeline>();
  #created = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Pipelines created since the device was opened. */
  get created(): number {
    return this.#created;
  }

  /** Compiles at once (eager mode). A compile error reaches the device's uncaptured-error handler. */
  get(spec: PipelineSpec): Pipeline {
    const hit = this.#ready.get(spec.key);
    if (hit !== undefined) return hit;
    const { layout, descriptor } = this.#describe(spec);
    const made = { pipeline: this.#device.createComputePipeline(descriptor), layout };
    this.#created += 1;
    this.#ready.set(spec.key, made);
    return made;
  }

  /** Compiles what is missing, side by side; rejects with the first failure and the source around it. */
  async prepare(specs: Iterable<PipelineSpec>): Promise<void> {
    const missing = new Map<string, PipelineSpec>();
    for (const spec of specs) if (!this.#ready.has(spec.key)) missing.set(spec.key, spec);
    await Promise.all(
      [...missing.values()].map(async (spec) => {
        // The module's own error would count as uncaptured; the pipeline's rejection tells the same.
        this.#device.pushErrorScope('validation');
        const { layout, module, descriptor } = this.#describe(spec);
        this.#device.popErrorScope().catch(() => undefined);
        try {
          const pipeline = await this.#device.createComputePipelineAsync(descriptor);
          this.#created += 1;
          this.#ready.set(spec.key, { pipeline, layout });
        } catch (error) {
          throw new Error(await explainFailure(spec, module, error));
        }
      }),
    );
  }

  #describe(spec: PipelineSpec) {
    const device = this.#device;
    const module = device.createShaderModule({ label: spec.key, code: spec.code });
    const layout = device.createBindGroupLayout({
      label: spec.key,
      entries: spec.access.map((access, binding) => ({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: access === 'read' ? 'read-only-storage' : 'storage' },
      })),
    });
    const descriptor: GPUComputePipelineDescriptor = {
      label: spec.key,
      layout: device.createPipelineLayout({
        bindGroupLayouts: [layout],
        immediateSize: spec.immediates.length * 4,
      }),
      compute: { module, entryPoint: spec.entry },
    };
    return { module, layout, descriptor };
  }
}

async function explainFailure(spec: PipelineSpec, module: GPUShaderModule, error: unknown) {
  const info = await module.getCompilationInfo();
  const source = spec.code.split('\n');
  const lines = info.messages
    .filter((m) => m.type === 'error')
    .map((m) => `  ${m.lineNum}:${m.linePos} ${m.message}\n    ${source[m.lineNum - 1] ?? ''}`);
  return [`kernel ${spec.key} does not compile`, ...lines, String(error)].join('\n');
}
