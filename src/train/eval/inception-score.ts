import { meanAndSpread } from './spread.ts';

/**
 * Inception Score (Salimans et al. 2016, §4): exp of the mean over images of KL(p(y|x) ‖ p(y)), where p(y) is the mean of a
 * split's p(y|x); mean and standard deviation over splits of consecutive rows. From 1 to the number of classes.
 * `probabilities` is [n, classes], rows summing to 1; 0·ln 0 counts as 0. Fewer splits than asked for where there are fewer rows.
 */
export function inceptionScore(
  probabilities: Float32Array,
  classes: number,
  splits = 10,
): { readonly is: number; readonly isStd: number } {
  const n = probabilities.length / classes;
  const parts = Math.min(splits, n);
  const scores = Array.from({ length: parts }, (_u, part) => {
    const begin = Math.floor((part * n) / parts);
    const end = Math.floor(((part + 1) * n) / parts);
    return scoreOf(probabilities.subarray(begin * classes, end * classes), classes);
  });
  const { mean, std } = meanAndSpread(scores);
  return { is: mean, isStd: std };
}

function scoreOf(p: Float32Array, classes: number): number {
  const n = p.length / classes;
  const marginal = new Float64Array(classes);
  p.forEach((v, at) => {
    marginal[at % classes] = (marginal[at % classes] ?? 0) + v / n;
  });
  let divergence = 0;
  p.forEach((v, at) => {
    if (v > 0) divergence += v * Math.log(v / (marginal[at % classes] ?? NaN));
  });
  return Math.exp(divergence / n);
}
