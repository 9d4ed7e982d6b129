import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { kernel } from './kernel.ts';

const record = { file: 'reduce/hinge.wgsl', dims: ['N', 'M'] } as const;

export const hingeLossKernel = kernel({
  ...record,
  entry: 'loss',
  tensors: ['real', 'fake', 'out'],
  grid: () => [1, 1, 1],
  flops: ({ N, M }) => 3 * (N + M),
  bytes: ({ N, M }) => 4 * (N + M),
  needs: { workgroupBytes: 512 },
});
export const hingeGradKernel = kernel({
  ...record,
  entry: 'grad',
  tensors: ['real', 'fake', 'dy', 'dReal', 'dFake'],
  grid: ({ N, M }, tile) => [ceilDiv(Math.max(N, M), tile('WG')), 1, 1],
  flops: ({ N, M }) => 3 * (N + M),
  bytes: ({ N, M }) => 8 * (N + M),
});

/** Scores of N real and M made images. */
export interface HingeArgs {
  readonly real: Storage;
  readonly fake: Storage;
  readonly N: number;
  readonly M: number;
}

/** out [1] = mean(max(1 − real, 0)) + mean(max(1 + fake, 0)). */
export function hingeLoss(gpu: Gpu, args: HingeArgs & { readonly out: Storage }): void {
  const { real, fake, out, N, M } = args;
  hingeLossKernel.run(gpu, { tensors: { real, fake, out }, dims: { N, M } });
}

/** The gradients of `hingeLoss` by both, from dy [1]. */
export function hingeBackward(
  gpu: Gpu,
  args: HingeArgs & { readonly dy: Storage; readonly dReal: Storage; readonly dFake: Storage },
): void {
  const { real, fake, dy, dReal, dFake, N, M } = args;
  hingeGradKernel.run(gpu, { tensors: { real, fake, dy, dReal, dFake }, dims: { N, M } });
}
