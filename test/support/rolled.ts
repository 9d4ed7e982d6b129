// Loops that a driver does not unroll: a CPU driver takes seconds to compile what it makes of the rungs for GPUs otherwise.
import { Gpu } from '../../src/gpu/device.ts';
import type { PipelineSpec } from '../../src/gpu/pipelines.ts';
import type { Dispatch } from '../../src/gpu/storage.ts';
import { immediatesOf } from '../../src/gpu/wgsl.ts';

/** The same kernel with no loop of a known length: each bound has the top bit of a size added, which is 0. */
export function rollLoops(code: string): string {
  const [size] = immediatesOf(code);
  if (size?.type !== 'u32') throw new Error('a kernel whose first immediate is a size is rolled');
  return code.replace(/(for \(var \w+ = 0u; \w+ < [^;]+);/g, `$1 + (p.${size.name} >> 31u);`);
}

const rolled = new Map<string, PipelineSpec>();

/** The same device, on which the kernels that `which` matches by name run with their loops rolled. */
export class RolledGpu extends Gpu {
  readonly #which: RegExp;

  constructor({ device, adapter }: Gpu, which: RegExp) {
    super(device, adapter, { guard: true });
    this.#which = which;
  }

  override launch(dispatch: Dispatch): void {
    const { spec } = dispatch;
    if (!this.#which.test(spec.name)) {
      super.launch(dispatch);
      return;
    }
    const hit = rolled.get(spec.key) ?? { ...spec, code: rollLoops(spec.code) };
    rolled.set(spec.key, hit);
    super.launch({ ...dispatch, spec: hit });
  }
}
