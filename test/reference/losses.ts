// Adversarial losses, score by score: what each of D's scores adds to a mean, and its slope.
import { type Data, maxAbs, type Round } from './naive.ts';
import { pointwise } from './pointwise.ts';

interface Term {
  readonly f: (x: number, r: Round, smoothing: number) => number;
  readonly df: (x: number, r: Round, smoothing: number) => number;
}

const { softplus, sigmoid } = pointwise;
const plus: Term = { f: (x) => x, df: () => 1 };
const minus: Term = { f: (x) => -x, df: () => -1 };
/** relu(1 + sign·x) */
const hinge = (sign: number): Term => ({
  f: (x, r) => Math.max(r(1 + sign * x), 0),
  df: (x) => (1 + sign * x > 0 ? sign : 0),
});
/** −ln σ(x), and −ln(1 − σ(x)) */
const surely: Term = { f: (x, r) => softplus.f(-x, r), df: (x, r) => -sigmoid.f(-x, r) };
const hardly: Term = { f: (x, r) => softplus.f(x, r), df: (x, r) => sigmoid.f(x, r) };
const smoothed: Term = {
  f: (x, r, s) => r(surely.f(x, r, 0) + r(s * x)),
  df: (x, r, s) => r(surely.df(x, r, 0) + s),
};
const near = (label: number): Term => ({
  f: (x, r) => r(0.5 * r(r(x - label) * r(x - label))),
  df: (x, r) => r(x - label),
});

/** Of D's scores of real and of made images, and of G's made ones. */
const terms = {
  hinge: { real: hinge(-1), fake: hinge(1), made: minus },
  bce: { real: smoothed, fake: hardly, made: surely },
  'bce-minimax': {
    real: smoothed,
    fake: hardly,
    made: { f: (x, r) => -hardly.f(x, r, 0), df: (x, r) => -hardly.df(x, r, 0) },
  },
  lsgan: { real: near(1), fake: near(0), made: near(1) },
  wasserstein: { real: minus, fake: plus, made: minus },
} as const satisfies Record<string, { real: Term; fake: Term; made: Term }>;
export type GanLossName = keyof typeof terms;

export interface GanLosses {
  readonly d: number;
  readonly dReal: Float64Array;
  readonly dFake: Float64Array;
  readonly g: number;
  readonly gFake: Float64Array;
  /** The largest of the terms that d and g are the means of. */
  readonly scale: number;
}

export function ganLosses(
  { loss, smoothing, real, fake }: { loss: GanLossName; smoothing: number; real: Data; fake: Data },
  r: Round,
): GanLosses {
  const of = terms[loss];
  const take = (term: Term, x: Data) => {
    const values = Float64Array.from(x, (a) => term.f(a, r, smoothing));
    return {
      values,
      mean: r(values.reduce((s, a) => r(s + a), 0) / x.length),
      slopes: Float64Array.from(x, (a) => r(term.df(a, r, smoothing) / x.length)),
    };
  };
  const [ofReal, ofFake, made] = [take(of.real, real), take(of.fake, fake), take(of.made, fake)];
  return {
    ...{ d: r(ofReal.mean + ofFake.mean), dReal: ofReal.slopes, dFake: ofFake.slopes },
    ...{ g: made.mean, gFake: made.slopes },
    scale: Math.max(...[ofReal, ofFake, made].map(({ values }) => maxAbs(values))),
  };
}
