import type { AnyLadder } from '../../src/kernels/ladders.ts';
import { normGradsLadder, normStatsLadder } from '../../src/kernels/norm-sums.ts';
import type { NormSizes } from '../../src/kernels/norm-sums.ts';
import { UserError } from '../../src/util/errors.ts';
import { num, precisionIn, precisionLabel, storedAxis } from './family.ts';
import type { CaseSizes, Family } from './family.ts';

function dims(sizes: CaseSizes): NormSizes {
  const [N, C, L] = [num(sizes, 'n'), num(sizes, 'c'), num(sizes, 'size') ** 2];
  if (N * L === 1) throw new UserError('norm: one value a channel; statistics need two or more');
  return { N, C, L, ...precisionIn(sizes) };
}

const shape = (c: number, size: number) => ({ n: 64, c, size });

export const normFamily: Family = {
  name: 'norm',
  help: 'statistics of batch norm and the sums of its gradients, every rung side by side',
  axes: [
    { name: 'n', help: 'images' },
    { name: 'c', help: 'channels' },
    { name: 'size', help: 'side of the feature maps' },
    storedAxis,
  ],
  passes: [
    { name: 'statistics', ladder: (): AnyLadder => normStatsLadder, dims },
    { name: 'gradients', ladder: (): AnyLadder => normGradsLadder, dims },
  ],
  // The feature maps of the generator of sagan-64, and on a GPU the largest of sagan-128.
  usualCases: (software) => [
    ...[shape(512, 4), shape(256, 8), shape(128, 16), shape(64, 32)],
    ...(software ? [] : [shape(64, 64)]),
  ],
  label: (sizes) =>
    `${sizes['n']} × ${sizes['c']}, ${sizes['size']}×${sizes['size']}${precisionLabel(sizes)}`,
};
