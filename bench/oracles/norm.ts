// What batch norm needs to know of a channel: statistics and sums of gradients, as in test/reference/norm.ts.
import type { NormSizes } from '../../src/kernels/norm-sums.ts';
import { divideAllowance, f64, sqrtAllowance } from '../../test/reference/naive.ts';
import type { Round } from '../../test/reference/naive.ts';
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
    const [mean = NaN] = made.mean;
    const [variance = NaN] = made.variance;
    const [invStd = NaN] = made.invStd;
    const scale = sumOf(x, f64).scale / x.length;
    const slack = sqrtAllowance(invStd) + divideAllowance(invStd);
    return [
      { output: 'mean', at: c, value: mean, slack: divideAllowance(scale), scale },
      { output: 'variance', at: c, value: variance, slack: divideAllowance(variance) },
      { output: 'invStd', at: c, value: invStd, slack },
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
    const dgammas = dy.map((g, i) => r(g * r(r((x[i] ?? NaN) - mean) * invStd)));
    const [dbeta, dgamma] = [sumOf(dy, r), sumOf(dgammas, r)];
    const averaged = (sum: Sum) => ({
      value: r(sum.value / dy.length),
      scale: sum.scale / dy.length,
    });
    return [
      { output: 'dbeta', at: c, ...dbeta },
      { output: 'dgamma', at: c, ...dgamma },
      { output: 'means', at: 2 * c, ...averaged(dbeta) },
      { output: 'means', at: 2 * c + 1, ...averaged(dgamma) },
    ];
  },
};

/** A sum and the magnitude of its terms, which may cancel. */
interface Sum {
  readonly value: number;
  readonly scale: number;
}

function sumOf(terms: Float64Array, r: Round): Sum {
  return {
    value: terms.reduce((sum, term) => r(sum + term), 0),
    scale: terms.reduce((sum, term) => sum + Math.abs(term), 0),
  };
}

/** The N·L numbers of channel `c` of a tensor [N, C, L]. */
function channel({ N, C, L }: NormSizes, data: ArrayLike<number>, c: number): Float64Array {
  return Float64Array.from({ length: N * L }, (_, i) => {
    return data[(Math.floor(i / L) * C + c) * L + (i % L)] ?? NaN;
  });
}
