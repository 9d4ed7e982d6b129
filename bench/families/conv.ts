import type { ConvDims } from '../../src/kernels/conv.ts';
import { ladderNamed } from '../../src/kernels/ladders.ts';
import type { Precision } from '../../src/kernels/precision.ts';
import { UserError } from '../../src/util/errors.ts';
import { num, precisionAxis, precisionIn, precisionLabel } from './family.ts';
import type { CaseSizes, Family } from './family.ts';

function dims(sizes: CaseSizes): ConvDims & Precision {
  const [size, window] = [num(sizes, 'size'), num(sizes, 'window')];
  const [stride, pad] = [num(sizes, 'stride'), num(sizes, 'pad')];
  const out = Math.floor((size + 2 * pad - window) / stride) + 1;
  if (out < 1) {
    const padded = size + 2 * pad;
    throw new UserError(`conv: window ${window} is larger than the padded image, ${padded}`);
  }
  return {
    ...{ N: num(sizes, 'n'), C: num(sizes, 'c'), H: size, W: size, K: num(sizes, 'k') },
    ...{ R: window, S: window, OH: out, OW: out },
    ...{ strideH: stride, strideW: stride, padH: pad, padW: pad },
    ...precisionIn(sizes),
  };
}

const same = { n: 16, c: 64, k: 128, size: 32, window: 3 };
const halving = { n: 16, c: 64, k: 128, size: 32, window: 4, stride: 2 };
const pointwise = { n: 16, c: 64, k: 64, size: 32, window: 1 };

export const convFamily: Family = {
  name: 'conv',
  help: 'conv2d, its data gradient (which is convTranspose2d) and its weight gradient, every rung side by side',
  axes: [
    { name: 'n', help: 'images' },
    { name: 'c', help: 'channels in' },
    { name: 'k', help: 'channels out' },
    { name: 'size', help: 'side of the images' },
    { name: 'window', help: 'side of the window' },
    { name: 'stride', help: 'stride', usual: () => 1 },
    {
      name: 'pad',
      help: 'zeros round the images',
      least: 0,
      usual: (sizes) => Math.floor((num(sizes, 'window') - 1) / 2),
    },
    precisionAxis,
  ],
  passes: [
    { name: 'forward', ladder: () => ladderNamed('conv-forward'), dims },
    { name: 'data-grad', ladder: () => ladderNamed('conv-data-grad'), dims },
    { name: 'weight-grad', ladder: () => ladderNamed('conv-weight-grad'), dims },
  ],
  usualCases: (software) => [
    ...[same, halving, pointwise],
    ...(software
      ? []
      : [
          { ...halving, n: 64, c: 128, k: 256 },
          { ...halving, n: 64, c: 256, k: 512, size: 16 },
        ]),
  ],
  label(sizes) {
    const { n, c, k, size, window, stride } = sizes;
    const step = stride === 1 ? '' : ` stride ${stride}`;
    return `${n} × ${c}→${k}, ${size}×${size}, window ${window}×${window}${step}${precisionLabel(sizes)}`;
  },
};
