import type { MatmulDims } from '../../src/kernels/matmul.ts';
import { ladderNamed } from '../../src/kernels/ladders.ts';
import { num, precisionAxis, precisionIn, precisionLabel } from './family.ts';
import type { Family } from './family.ts';

const cube = (n: number) => ({ m: n, n, k: n });

export const matmulFamily: Family = {
  name: 'matmul',
  help: 'out[batch, m, n] = op(A)·op(B), every rung side by side',
  axes: [
    { name: 'm', help: 'rows' },
    { name: 'n', help: 'columns', usual: (sizes) => num(sizes, 'm') },
    { name: 'k', help: 'inner size', usual: (sizes) => num(sizes, 'm') },
    { name: 'batch', help: 'matrices', usual: () => 1 },
    {
      name: 'trans',
      help: 'n as it lies or t transposed, of A and of B',
      words: ['nn', 'nt', 'tn', 'tt'],
      usual: () => 'nn',
    },
    precisionAxis,
  ],
  passes: [
    {
      name: 'forward',
      ladder: () => ladderNamed('matmul'),
      dims(sizes): MatmulDims {
        const [M, N, K] = [num(sizes, 'm'), num(sizes, 'n'), num(sizes, 'k')];
        const batch = num(sizes, 'batch');
        const trans = String(sizes['trans']);
        const strides = batch > 1 ? { strideA: M * K, strideB: K * N } : { strideA: 0, strideB: 0 };
        const transA = trans.startsWith('t');
        const transB = trans.endsWith('t');
        return { M, N, K, batch, ...strides, transA, transB, ...precisionIn(sizes) };
      },
    },
  ],
  usualCases: (software) => [
    ...[256, 512, 1024].map(cube),
    ...(software ? [] : [2048, 4096].map(cube)),
    { m: 256, n: 256, k: 64, batch: 16 },
  ],
  label(sizes) {
    const batch = num(sizes, 'batch') > 1 ? `${sizes['batch']} × ` : '';
    const trans = sizes['trans'] === 'nn' ? '' : ` ${sizes['trans']}`;
    return `${batch}${sizes['m']}×${sizes['n']}×${sizes['k']}${trans}${precisionLabel(sizes)}`;
  },
};
