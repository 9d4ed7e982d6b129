// Which curves stand in one chart, in which order, under which title.

/** @import { Series } from '../data.ts' */
/** @typedef {{ id: string, title: string, note?: string, heads: string[] }} Group */
/** @typedef {Group & { series: Series[] }} Chosen */

/** What is known of curves; what stands before the slash of a key is its head. */
const groups = /** @type {Group[]} */ ([
  { id: 'losses', title: 'Losses', heads: ['lossD', 'lossG', 'loss', 'reconstruction', 'kl'] },
  { id: 'scores', title: 'D(real) and D(fake)', note: 'mean score', heads: ['dReal', 'dFake'] },
  { id: 'exact', title: 'Held-out pairs exact', note: 'share', heads: ['exact'] },
  { id: 'fid', title: 'FID', note: 'lower is better', heads: ['fid'] },
  { id: 'fd', title: 'Fréchet distance', note: 'lower is better', heads: ['fd'] },
  { id: 'kid', title: 'Kernel distance (KID)', note: 'lower is better', heads: ['kid'] },
  { id: 'is', title: 'Inception score', note: 'higher is better', heads: ['is'] },
  { id: 'pr', title: 'Precision and recall', heads: ['precision', 'recall'] },
  { id: 'dc', title: 'Density and coverage', heads: ['density', 'coverage'] },
  { id: 'diversity', title: 'Sample diversity', heads: ['diversity'] },
  { id: 'gradNorm', title: 'Gradient norms', heads: ['gradNorm'] },
  { id: 'penalty', title: 'Penalty', heads: ['penalty'] },
  { id: 'gamma', title: 'Attention’s gamma', heads: ['gamma'] },
  { id: 'sigma', title: 'Spectral norms', note: 'σ of each layer', heads: ['sigma'] },
  { id: 'lr', title: 'Learning rates', heads: ['lr'] },
  { id: 'lossScale', title: 'Loss scale', note: 'of f16', heads: ['lossScaleD', 'lossScaleG'] },
  { id: 'speed', title: 'Speed', note: 'a second', heads: ['imagesPerSecond', 'pairsPerSecond'] },
  { id: 'wait', title: 'Wait for data', note: 'share of time', heads: ['wait'] },
]);

/** @param {string} key */
export function headOf(key) {
  return key.split('/', 1)[0] ?? key;
}

/**
 * The charts of some curves, in the order of the list above; a curve that is not known there has a chart of its head.
 *
 * @param {readonly Series[]} series
 * @returns {Chosen[]}
 */
export function chartsOf(series) {
  const known = new Set(groups.flatMap(({ heads }) => heads));
  const others = [...new Set(series.map(({ key }) => headOf(key)))].filter((h) => !known.has(h));
  const all = [...groups, ...others.map((head) => ({ id: head, title: head, heads: [head] }))];
  return all
    .map((group) => ({
      ...group,
      series: group.heads.flatMap((head) => series.filter(({ key }) => headOf(key) === head)),
    }))
    .filter((chart) => chart.series.length > 0);
}

/**
 * What a curve is called in its chart: without the head where all have the same, and without what all have after it.
 *
 * @param {string} key
 * @param {readonly Series[]} beside All of the chart, this one included.
 */
export function labelOf(key, beside) {
  const head = headOf(key);
  const rest = key.slice(head.length + 1);
  const heads = new Set(beside.map((one) => headOf(one.key)));
  const rests = new Set(beside.map((one) => one.key.slice(headOf(one.key).length + 1)));
  if (rest === '') return head;
  if (heads.size === 1) return rest;
  return rests.size === 1 ? head : `${head} ${rest}`;
}

/** Colours of `page.css` that mean something, wherever they stand; others are given in turn. */
const meant = /** @type {Record<string, number>} */ ({
  lossD: 0,
  lossG: 1,
  dReal: 2,
  dFake: 3,
  D: 0,
  G: 1,
  lossScaleD: 0,
  lossScaleG: 1,
});

/**
 * The colour of a curve, as its number.
 *
 * @param {string} label
 * @param {number} place
 */
export function colourOf(label, place) {
  return meant[label] ?? place;
}

/**
 * Values smoothed as TensorBoard does it: a running mean whose weights fall by `factor` with each point, less the bias
 * towards its beginning. Gaps stay. 0 leaves the values as they are.
 *
 * @param {readonly (number | null)[]} values
 * @param {number} factor 0 … less than 1
 * @returns {(number | null)[]}
 */
export function smoothed(values, factor) {
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = factor * sum + (1 - factor) * value;
    weight = factor * weight + (1 - factor);
    return sum / weight;
  });
}
