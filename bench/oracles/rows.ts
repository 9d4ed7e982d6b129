// What is normalised by rows: softmax, layer norm, cross-entropy and the power iteration, as in test/reference.
import { none } from '../../src/kernels/cross-entropy.ts';
import type { CrossEntropyDims } from '../../src/kernels/cross-entropy.ts';
import type { LayerNormDims } from '../../src/kernels/layer-norm.ts';
import type { SoftmaxDims } from '../../src/kernels/softmax.ts';
import type { MatrixSizes } from '../../src/kernels/spectral-table.ts';
import { crossEntropy } from '../../test/reference/cross-entropy.ts';
import { layerNorm } from '../../test/reference/layer-norm.ts';
import { spectralNorm } from '../../test/reference/spectral.ts';
import {
  divideAllowance,
  logAllowance,
  softmaxAllowance,
  sqrtAllowance,
} from '../../test/reference/naive.ts';
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

export const layerNormOracle: Oracle<LayerNormDims> = {
  ladder: 'layer-norm-forward',
  units: ({ rows }) => rows,
  cost: ({ cols }) => 6 * cols,
  unit({ cols }, inputs, u, r) {
    const x = slice(dataOf(inputs, 'x'), u * cols, cols);
    const scale = { gamma: dataOf(inputs, 'gamma'), beta: dataOf(inputs, 'beta') };
    const { y, mean, invStd } = layerNorm({ x, ...scale, rows: 1, cols, eps: 1e-5 }, r);
    const entry = (output: string, at: number, value = NaN, slack = sqrtAllowance(value)) => ({
      ...{ output, at, value, slack },
    });
    return [
      entry('mean', u, mean[0], 0),
      entry('invStd', u, invStd[0]),
      ...Array.from(y, (value, j) => entry('out', u * cols + j, value)),
    ];
  },
};

/** dx = invStd·(g − mean(g) − x̂·mean(g·x̂)), g = gamma·dy, of the statistics that are given. */
export const layerNormBackwardOracle: Oracle<LayerNormDims> = {
  ladder: 'layer-norm-backward',
  units: ({ rows }) => rows,
  cost: ({ cols }) => 8 * cols,
  unit({ cols }, inputs, u, r) {
    const [x, dy] = ['x', 'dy'].map((name) => slice(dataOf(inputs, name), u * cols, cols));
    const gamma = dataOf(inputs, 'gamma');
    const [m, s] = ['mean', 'invStd'].map((name) => dataOf(inputs, name)[u] ?? NaN) as [
      ...[number, number],
    ];
    const g = Array.from({ length: cols }, (_, j) => r((gamma[j] ?? NaN) * (dy?.[j] ?? NaN)));
    const hat = g.map((_, j) => r(r((x?.[j] ?? NaN) - m) * s));
    const meanOf = (terms: number[]) => r(terms.reduce((a, b) => r(a + b), 0) / cols);
    const [ofG, ofHat] = [meanOf(g), meanOf(g.map((v, j) => r(v * (hat[j] ?? NaN))))];
    return g.map((v, j) => ({
      ...{ output: 'dx', at: u * cols + j, scale: Math.abs(s) },
      value: r(s * r(r(v - ofG) - r((hat[j] ?? NaN) * ofHat))),
    }));
  },
};

/** Labels are what lies in their buffer: floats, read as words, most of which are no class. */
export const crossEntropyOracle: Oracle<CrossEntropyDims> = {
  ladder: 'cross-entropy',
  units: ({ rows }) => rows,
  cost: ({ classes }) => 4 * classes,
  unit({ classes }, inputs, u, r) {
    const logits = slice(dataOf(inputs, 'logits'), u * classes, classes);
    const label = new Uint32Array(Float32Array.of(dataOf(inputs, 'labels')[u] ?? NaN).buffer);
    const rule = { ignore: none, smoothing: 0.1 };
    const made = crossEntropy({ logits, labels: label, rows: 1, classes, ...rule }, r);
    const slack = softmaxAllowance(classes) + logAllowance(Math.log(classes) + 1);
    return [
      { output: 'lse', at: u, value: made.lse[0] ?? NaN, slack },
      { output: 'loss', at: u, value: made.loss[0] ?? NaN, slack },
    ];
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
