// Loops that a driver does not unroll. A CPU driver takes seconds to compile what the rungs for GPUs make of theirs.
import { Gpu } from '../../src/gpu/device.ts';
import type { PipelineSpec } from '../../src/gpu/pipelines.ts';
import type { Dispatch } from '../../src/gpu/storage.ts';
import { immediatesOf } from '../../src/gpu/wgsl.ts';

/** The same kernel with no loop of a known length: the top bit of a size, which is 0, is added to the bound of each. */
export function rollLoops(code: string): string {
  const [size] = immediatesOf(code);
  if (size?.type !== 'u32') throw new Error('a kernel whose first immediate is a size is rolled');
  return code.replace(/(for \(var \w+ = \d+u; \w+ < [^;]+);/g, `$1 + (p.${size.name} >> 31u);`);
}

const rolled = new Map<string, PipelineSpec>();

/** The same device, but kernels that `which` picks run with their loops rolled. */
export class RolledGpu extends Gpu {
  readonly #which: (spec: PipelineSpec) => boolean;

  constructor({ device, adapter }: Gpu, which: (spec: PipelineSpec) => boolean) {
    super(device, adapter, { guard: true });
    this.#which = which;
  }

  override launch(dispatch: Dispatch): void {
    const { spec } = dispatch;
    if (!this.#which(spec)) {
      super.launch(dispatch);
      return;
    }
    const hit = rolled.get(spec.key) ?? { ...spec, code: rollLoops(spec.code) };
    rolled.set(spec.key, hit);
    super.launch({ ...dispatch, spec: hit });
  }
}
