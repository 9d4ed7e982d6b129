import { rowsOf } from './dots.ts';
import type { OnWork } from './dots.ts';
import type { Extractor, Features } from './extractor.ts';
import { momentsOf } from './factor.ts';
import { frechetDistance } from './frechet.ts';
import { inceptionScore } from './inception-score.ts';
import { drawSubsets, kernelDistance } from './kernel-distance.ts';
import { neighbourMeasures } from './neighbours.ts';

/** What can be measured, by the word that asks for it: `pr` is precision, recall, density and coverage. */
export const metricNames = ['fd', 'kid', 'is', 'pr'] as const;
export type MetricName = (typeof metricNames)[number];

/** Results, only those that were asked for and can be had. The Fréchet distance is `fid` in Inception's features alone. */
export type Measures = Readonly<Partial<Record<MeasureName, number>>>;
export type MeasureName =
  | ('fd' | 'fid' | 'kid' | 'kidStd' | 'is' | 'isStd')
  | ('precision' | 'recall' | 'density' | 'coverage');

/** What the measures have to know of who saw the features. */
export type Seen = Pick<Extractor, 'name' | 'isInception' | 'featureSize' | 'classCount'>;

/** Images whose pairs are compared: what KID and the neighbours look at grows with the square of their number. */
export const mostPaired = 10_000;

/** At most 10,000 rows of floats, spread evenly: real images may lie class by class. */
function spreadRows(values: Float32Array, d: number): Float32Array {
  const n = values.length / d;
  if (n <= mostPaired) return values;
  const rows = new Float32Array(mostPaired * d);
  for (let i = 0; i < mostPaired; i++) {
    const from = Math.floor((i * n) / mostPaired) * d;
    rows.set(values.subarray(from, from + d), i * d);
  }
  return rows;
}

/**
 * Measures features of made images against those of real ones. Throws a RangeError for too few of them, as each measure says;
 * an Error for features that are no numbers.
 */
export function measure(
  extractor: Seen,
  { real, made }: { readonly real: Features; readonly made: Features },
  wanted: readonly MetricName[],
  onWork?: (what: string) => OnWork,
): Measures {
  const { featureSize: d, classCount } = extractor;
  for (const [whose, { features }] of [
    ['real', real],
    ['made', made],
  ] as const) {
    if (features.every(Number.isFinite)) continue;
    throw new Error(`${extractor.name} sees NaN or infinity in the ${whose} images`);
  }
  let results: Measures = {};
  if (wanted.includes('fd')) {
    const told = onWork?.('Fréchet distance');
    const [a, b] = [momentsOf(real.features, d, told), momentsOf(made.features, d, told)];
    const distance = frechetDistance(a, b, told);
    results = extractor.isInception ? { fid: distance } : { fd: distance };
  }
  const some = ({ features }: Features) => rowsOf(spreadRows(features, d), d);
  if (wanted.includes('kid')) {
    const [x, y] = [some(real), some(made)];
    const subsets = drawSubsets({ real: x.n, made: y.n });
    results = { ...results, ...kernelDistance(x, y, subsets, onWork?.('kernel distance')) };
  }
  if (wanted.includes('is') && classCount !== undefined && made.probabilities !== undefined) {
    results = { ...results, ...inceptionScore(made.probabilities, classCount) };
  }
  if (wanted.includes('pr')) {
    const found = neighbourMeasures(some(real), some(made), onWork?.('neighbours'));
    results = { ...results, ...found };
  }
  return results;
}
