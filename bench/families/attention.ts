import type { AttentionDims } from '../../src/kernels/attention-common.ts';
import { ladderNamed } from '../../src/kernels/ladders.ts';
import { num, precisionAxis, precisionIn, precisionLabel } from './family.ts';
import type { CaseSizes, Family } from './family.ts';

function dims(sizes: CaseSizes): AttentionDims {
  const layout = sizes['layout'] === 'sequence' ? 'sequence' : 'channel';
  return {
    ...{ B: num(sizes, 'batch'), Nq: num(sizes, 'positions'), Nk: num(sizes, 'keys') },
    // SAGAN does not scale its scores.
    ...{ DK: num(sizes, 'dk'), DV: num(sizes, 'dv'), scale: 1, layout },
    ...precisionIn(sizes),
  };
}

const shape = (positions: number, dk: number, dv: number) => ({ batch: 16, positions, dk, dv });

export const attentionFamily: Family = {
  name: 'attention',
  help: 'softmax(QKᵀ)·V and its gradient, every rung side by side',
  axes: [
    { name: 'batch', help: 'images' },
    { name: 'positions', help: 'queries of an image: 1024 for a feature map of 32×32' },
    { name: 'dk', help: 'width of queries and keys' },
    { name: 'dv', help: 'width of values' },
    { name: 'keys', help: 'keys of an image', usual: (sizes) => num(sizes, 'positions') },
    {
      name: 'layout',
      help: 'channel [B, D, N] as a 1×1 convolution writes it, or sequence [B, N, D]',
      words: ['channel', 'sequence'],
      usual: () => 'channel',
    },
    precisionAxis,
  ],
  passes: [
    { name: 'forward', ladder: () => ladderNamed('attention-forward'), dims },
    { name: 'backward', ladder: () => ladderNamed('attention-backward'), dims },
  ],
  usualCases: (software) =>
    software
      ? [64, 256, 1024].map((n) => shape(n, 8, 64))
      : [
          ...[64, 256, 1024, 4096, 16384].map((n) => shape(n, 8, 64)),
          ...[shape(4096, 8, 32), shape(4096, 16, 128), shape(4096, 32, 256)],
          shape(4096, 64, 512),
        ],
  label(sizes) {
    const keys = sizes['keys'] === sizes['positions'] ? '' : `→${sizes['keys']}`;
    const layout = sizes['layout'] === 'channel' ? '' : ' sequence';
    return `B${sizes['batch']} N${sizes['positions']}${keys} DK${sizes['dk']} DV${sizes['dv']}${layout}${precisionLabel(sizes)}`;
  },
};
