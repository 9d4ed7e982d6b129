// What is normalised by rows: softmax, attention and the power iteration, as in test/reference.
import type { SoftmaxDims } from '../../src/kernels/softmax.ts';
import type { MatrixSizes } from '../../src/kernels/spectral-table.ts';
import { spectralNorm } from '../../test/reference/spectral.ts';
import { divideAllowance, softmaxAllowance } from '../../test/reference/naive.ts';
import { softmax } from '../../test/reference/softmax.ts';
import { dataOf } from './oracle.ts';
import type { Oracle } from './oracle.ts';

export const softmaxOracle: Oracle<SoftmaxDims> = {
  ladder: 'softmax-forward',
  units: ({ rows }) => rows,
  cost: ({ cols }) => 4 * cols,
  range: () => [-8, 8],
  unit({ cols }, inputs, u, r) {
    const x = slice(dataOf(inputs, 'x'), u * cols, cols);
    const slack = softmaxAllowance(cols);
    const y = softmax({ x, rows: 1, cols }, r);
    return Array.from(y, (value, j) => ({ output: 'out', at: u * cols + j, value, slack }));
  },
};

/** dx = y·(dy − Σ y·dy), of the y that is given. */
export const softmaxBackwardOracle: Oracle<SoftmaxDims> = {
  ladder: 'softmax-backward',
  units: ({ rows }) => rows,
  cost: ({ cols }) => 2 * cols,
  // Weights that add up to about 1.
  range: ({ cols }, input) => (input === 'y' ? [0, 2 / cols] : [-1, 1]),
  unit({ cols }, inputs, u, r) {
    const y = slice(dataOf(inputs, 'y'), u * cols, cols);
    const dy = slice(dataOf(inputs, 'dy'), u * cols, cols);
    const dot = y.reduce((sum, a, j) => r(sum + r(a * (dy[j] ?? NaN))), 0);
    return Array.from(y, (a, j) => {
      return { output: 'dx', at: u * cols + j, value: r(a * r((dy[j] ?? NaN) - dot)) };
    });
  },
};

/** One iteration from the u that is given; everything hangs together, so that it is one unit. */
export const spectralOracle: Oracle<MatrixSizes> = {
  ladder: 'power-iteration',
  units: () => 1,
  cost: ({ outer, rows, inner }) => 3 * outer * rows * inner,
  changes: ['u', 'v'],
  unit({ outer, rows, inner }, inputs, _u, r) {
    const cols = outer * inner;
    const w = new Float64Array(rows * cols);
    const stored = dataOf(inputs, 'w');
    for (let i = 0; i < rows * cols; i++) {
      const [b, row, a] = [i % inner, Math.floor(i / inner) % rows, Math.floor(i / (inner * rows))];
      w[row * cols + a * inner + b] = stored[i] ?? NaN;
    }
    const [u, v] = [dataOf(inputs, 'u'), dataOf(inputs, 'v')];
    const made = spectralNorm({ w, rows, cols, u, v, training: true }, r);
    const slack = divideAllowance(1);
    const vector = (output: string, values: Float64Array) =>
      Array.from(values, (value, at) => ({ output, at, value, slack }));
    return [
      { output: 'sigma', at: 0, value: made.sigma },
      ...['u', 'uOut'].flatMap((output) => vector(output, made.u)),
      ...['v', 'vOut'].flatMap((output) => vector(output, made.v)),
    ];
  },
};

function slice(data: ArrayLike<number>, start: number, length: number): Float64Array {
  return Float64Array.from({ length }, (_, i) => data[start + i] ?? NaN);
}
