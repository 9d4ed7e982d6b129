import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { FusedActivation } from './activation.ts';
import { kernel, linearGrid } from './kernel.ts';
import { stridedCopy } from './layout.ts';
import { batchNormApply, normDx } from './norm.ts';
import { normGradsLadder } from './norm-sums.ts';
import type { NormSizes } from './norm-sums.ts';
import { climb } from './rung.ts';

export const rowsJoin = kernel({
  file: 'norm/rows_join.wgsl',
  tensors: ['gain', 'dgain', 'dbias', 'means'],
  dims: ['N', 'C', 'share'],
  grid: ({ C }, tile) => linearGrid(C, tile('WG')),
  flops: ({ N, C }) => 4 * N * C,
  bytes: ({ N, C }) => 20 * N * C,
});

interface Shared extends NormSizes {
  readonly x: Storage;
  /** [C], of the whole batch. */
  readonly mean: Storage;
  readonly invStd: Storage;
  /** [N, C] */
  readonly gain: Storage;
  readonly bias: Storage;
  readonly activation?: FusedActivation | undefined;
}

/**
 * The batch as one image of N·C channels, for the kernels of a batch norm: each row of L has a gain and bias of its own, and
 * the statistics are repeated for every image.
 */
function asOneImage(gpu: Gpu, { x, mean, invStd, gain, bias, activation, ...sizes }: Shared) {
  const { N, C, L, stored } = sizes;
  const repeated = (statistic: Storage, label: string) => {
    const out = gpu.alloc(4 * N * C, label);
    const strides = { inStrides: [0, 1], outStrides: [C, 1] };
    stridedCopy(gpu, { x: statistic, out, shape: [N, C], ...strides });
    return out;
  };
  return {
    ...{ x, gamma: gain, beta: bias, activation },
    ...{ mean: repeated(mean, 'means by image'), invStd: repeated(invStd, 'invStd by image') },
    ...{ N: 1, C: N * C, L, stored },
  };
}

/** out = act((x − mean)·invStd·gain + bias): statistics by channel, gain and bias by image and channel. */
export function conditionalNormApply(gpu: Gpu, { out, ...args }: Shared & { out: Storage }): void {
  batchNormApply(gpu, { ...asOneImage(gpu, args), out });
}

/** Gradients of conditionalNormApply where mean and invStd are those of x. */
export function conditionalNormBackward(
  gpu: Gpu,
  args: Shared & {
    readonly dy: Storage;
    /** Left out: not computed. */
    readonly dx?: Storage | undefined;
    /** [N, C] */
    readonly dgain: Storage;
    readonly dbias: Storage;
  },
): void {
  const { dy, dx, dgain, dbias, ...shared } = args;
  const { N, C, L, gain } = shared;
  const image = { ...asOneImage(gpu, shared), dy };
  const means = gpu.alloc(8 * N * C, 'batchNorm gradient means');
  climb(gpu, normGradsLadder, { ...image, dgamma: dgain, dbeta: dbias, means });
  if (dx === undefined) return;
  const dims = { N, C, share: 1 / (N * L) };
  const joint = gpu.alloc(8 * N * C, 'batchNorm joint gradient means');
  rowsJoin.run(gpu, { tensors: { gain, dgain, dbias, means: joint }, dims });
  normDx(gpu, { ...image, dx, means: joint, joint: true });
}
