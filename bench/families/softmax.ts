import type { AnyLadder } from '../../src/kernels/ladders.ts';
import { softmaxBackwardLadder, softmaxForwardLadder } from '../../src/kernels/softmax.ts';
import type { SoftmaxDims } from '../../src/kernels/softmax.ts';
import { num, precisionIn, precisionLabel, storedAxis } from './family.ts';
import type { CaseSizes, Family } from './family.ts';

const softmaxDims = (sizes: CaseSizes): SoftmaxDims => ({
  rows: num(sizes, 'rows'),
  cols: num(sizes, 'cols'),
  ...precisionIn(sizes),
});

export const softmaxFamily: Family = {
  name: 'softmax',
  help: 'softmax of every row, and its gradient, every rung side by side',
  axes: [{ name: 'rows', help: 'rows' }, { name: 'cols', help: 'numbers in a row' }, storedAxis],
  passes: [
    { name: 'forward', ladder: (): AnyLadder => softmaxForwardLadder, dims: softmaxDims },
    { name: 'backward', ladder: (): AnyLadder => softmaxBackwardLadder, dims: softmaxDims },
  ],
  usualCases: (software) => [
    { rows: 4096, cols: 256 },
    { rows: 1024, cols: 1024 },
    ...(software ? [] : [{ rows: 16384, cols: 4096 }]),
  ],
  label: (sizes) => `${sizes['rows']} rows of ${sizes['cols']}${precisionLabel(sizes)}`,
};
