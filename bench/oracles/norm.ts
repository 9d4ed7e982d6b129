// What batch norm needs to know of a channel: statistics and sums of gradients, as in test/reference/norm.ts.
import type { NormSizes } from '../../src/kernels/norm-sums.ts';
import { divideAllowance, sqrtAllowance } from '../../test/reference/naive.ts';
import { batchNorm } from '../../test/reference/norm.ts';
import { dataOf } from './oracle.ts';
import type { Entry, Oracle } from './oracle.ts';

/** A unit is a channel: its mean, its variance and the inverse of its deviation. */
export const normStatsOracle: Oracle<NormSizes> = {
  ladder: 'norm-stats',
  units: ({ C }) => C,
  cost: ({ N, L }) => 4 * N * L,
  unit(dims, inputs, c, r) {
    const x = channel(dims, dataOf(inputs, 'x'), c);
    const made = batchNorm({ x, N: dims.N, C: 1, H: 1, W: dims.L, training: true }, r);
    const entry = (output: 'mean' | 'invStd' | 'variance', allowance: typeof divideAllowance) => {
      const [value = NaN] = made[output];
      return { output, at: c, value, slack: allowance(value) };
    };
    return [
      entry('mean', divideAllowance),
      entry('variance', divideAllowance),
      entry('invStd', (value) => sqrtAllowance(value) + divideAllowance(value)),
    ];
  },
};

/** Σ dy and Σ dy·x̂ of a channel, of the mean and the invStd that are given; in `means` both over N·L. */
export const normGradsOracle: Oracle<NormSizes> = {
  ladder: 'norm-grads',
  units: ({ C }) => C,
  cost: ({ N, L }) => 3 * N * L,
  range: (_dims, input) => (input === 'invStd' ? [0.5, 2] : [-1, 1]),
  unit(dims, inputs, c, r): Entry[] {
    const x = channel(dims, dataOf(inputs, 'x'), c);
    const dy = channel(dims, dataOf(inputs, 'dy'), c);
    const mean = dataOf(inputs, 'mean')[c] ?? NaN;
    const invStd = dataOf(inputs, 'invStd')[c] ?? NaN;
    let [dbeta, dgamma] = [0, 0];
    dy.forEach((g, i) => {
      const hat = r(r((x[i] ?? NaN) - mean) * invStd);
      dbeta = r(dbeta + g);
      dgamma = r(dgamma + r(g * hat));
    });
    return [
      { output: 'dbeta', at: c, value: dbeta },
      { output: 'dgamma', at: c, value: dgamma },
      { output: 'means', at: 2 * c, value: r(dbeta / dy.length) },
      { output: 'means', at: 2 * c + 1, value: r(dgamma / dy.length) },
    ];
  },
};

/** The N·L numbers of channel `c` of a tensor [N, C, L]. */
function channel({ N, C, L }: NormSizes, data: ArrayLike<number>, c: number): Float64Array {
  return Float64Array.from({ length: N * L }, (_, i) => {
    return data[(Math.floor(i / L) * C + c) * L + (i % L)] ?? NaN;
  });
}
