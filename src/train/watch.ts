import type { LossName } from './losses.ts';
import type { TrainConfig } from './options.ts';
import type { MetricLine } from './run-folder.ts';

/** Something that a training of this kind does when it goes wrong, as its metrics show it. */
export interface Alarm {
  readonly step: number;
  /** What tells it from others: a word, and for what a net has several of, which of them. */
  readonly cause: string;
  /** What was seen, and what helps. */
  readonly text: string;
}

type Finding = Omit<Alarm, 'step'>;
type WatchedConfig = Pick<TrainConfig, 'loss' | 'labelSmoothing'>;

/** Lines that "now" is the mean of: one line alone says little. */
const window = 5;
/** Lines before those that they are compared with. */
const history = 200;
/** Fewer lines than this are a beginning, in which anything may happen. */
const beginning = 2 * window;
/** A net that has not begun to learn by this line has failed to. */
const patience = 50;

/** What is told when something is found, by the numbers where "something" begins. */
const limits = {
  /** Of the real images' diversity; and how far it has to have fallen to be a fall. */
  diversity: 0.15,
  fall: 2,
  /** Of D's loss at a score of 0 for every image. */
  loss: 0.02,
  /** D(real) − D(fake) of a loss that has no least value, and how often the earlier one. */
  gap: 100,
  gamma: 10,
  /** A spectral norm, and how often its first value. */
  sigma: 20,
  growth: 5,
  /** Of the usual length of the gradient. */
  vanished: 1e-3,
  exploded: 100,
  /** Gradients shorter than this move nothing by a bit, whatever they were. */
  still: 1e-9,
  lossScale: 1,
} as const;

/**
 * What is wrong at the last of a run's lines of metrics, from the first line on; nothing for a beginning. A pure function of
 * numbers that are there: a missing key is not looked at.
 */
export function watch(lines: readonly MetricLine[], config: WatchedConfig): Alarm[] {
  const last = lines.at(-1);
  if (last === undefined || lines.length < beginning) return [];
  const series = new Series(lines);
  const names = Object.keys(last);
  const named = (family: string) => names.filter((name) => name.startsWith(`${family}/`));
  const found = [
    ...diversity(series),
    ...saturation(series, config),
    ...named('gamma').flatMap((name) => gamma(series, name)),
    ...named('sigma').flatMap((name) => sigma(series, name)),
    ...named('gradNorm').flatMap((name) => gradients(series, name)),
    ...names.filter((name) => name.startsWith('lossScale')).flatMap((n) => lossScale(series, n)),
  ];
  return found.map((finding) => ({ step: last.step, ...finding }));
}

/** The numbers of a key. */
class Series {
  readonly #lines: readonly MetricLine[];

  constructor(lines: readonly MetricLine[]) {
    this.#lines = lines;
  }

  get length(): number {
    return this.#lines.length;
  }

  /** The mean of the last lines. */
  now(name: string): number {
    return mean(of(this.#lines.slice(-window), name));
  }

  last(name: string): number {
    return this.#lines.at(-1)?.[name] ?? NaN;
  }

  first(name: string): number {
    return this.#lines.find((line) => line[name] !== undefined)?.[name] ?? NaN;
  }

  /** Those of the lines before. */
  before(name: string): number[] {
    return of(this.#lines.slice(-history - window, -window), name);
  }
}

function of(lines: readonly MetricLine[], name: string): number[] {
  return lines.flatMap((line) => line[name] ?? []);
}

const mean = (values: readonly number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

const show = (x: number) => String(Number(x.toPrecision(3)));

function diversity(series: Series): Finding[] {
  const now = series.now('diversity');
  const best = Math.max(...series.before('diversity'));
  if (!(now < limits.diversity)) return [];
  const fell = best > limits.fall * now && best > limits.diversity;
  if (!fell && series.length < patience) return [];
  const was = fell ? `, and were ${show(best)}` : '';
  return [
    {
      cause: 'diversity',
      text:
        `the made images are ${show(now)} times as far from each other as the real ones${was}: the generator draws few ` +
        'images over and over; go back to an earlier checkpoint with a lower --lr-g, or try --augment, --d-steps 2 or --loss hinge',
    },
  ];
}

/** D's loss where every score is 0, and its least value; none for a loss that has none. */
function range({ loss, labelSmoothing: s }: WatchedConfig): readonly [number, number] | undefined {
  const entropy = s === 0 ? 0 : -(1 - s) * Math.log(1 - s) - s * Math.log(s);
  const ranges: Readonly<Record<LossName, readonly [number, number] | undefined>> = {
    hinge: [2, 0],
    bce: [2 * Math.LN2, entropy],
    'bce-minimax': [2 * Math.LN2, entropy],
    lsgan: [0.5, 0],
    wasserstein: undefined,
  };
  return ranges[loss];
}

function saturation(series: Series, config: WatchedConfig): Finding[] {
  const [real, fake, loss] = [series.now('dReal'), series.now('dFake'), series.now('lossD')];
  if (!(real > fake)) return [];
  const scores = `D(real) ${show(real)}, D(fake) ${show(fake)}`;
  const remedy = `lower --lr-d, raise --lr-g, or give D less to go by: --augment, --regularizer r1`;
  const known = range(config);
  if (known !== undefined) {
    const [chance, least] = known;
    if (!((loss - least) / (chance - least) < limits.loss)) return [];
    const flat = config.loss === 'bce-minimax' ? ', and the generator learns nothing from it' : '';
    return [
      {
        cause: 'saturation',
        text: `the discriminator is sure of every image (${config.loss} loss ${show(loss)}, ${scores})${flat}; ${remedy}`,
      },
    ];
  }
  const gaps = series.before('dReal').map((r, i) => r - (series.before('dFake')[i] ?? NaN));
  const usual = median(gaps);
  if (!(real - fake > limits.gap && real - fake > 10 * Math.abs(usual))) return [];
  return [
    {
      cause: 'saturation',
      text:
        `the discriminator's scores run away (${scores}; usually ${show(usual)} apart): nothing holds its slope; ` +
        'use --regularizer gp, or a preset with spectral norms, or lower --lr-d',
    },
  ];
}

function gamma(series: Series, name: string): Finding[] {
  const now = series.now(name);
  if (!(Math.abs(now) > limits.gamma)) return [];
  return [
    {
      cause: name,
      text: `gamma of ${name.slice('gamma/'.length)} is ${show(now)}: attention drowns what it is added to; lower the learning rates`,
    },
  ];
}

function sigma(series: Series, name: string): Finding[] {
  const [now, first] = [series.now(name), series.first(name)];
  const layer = name.slice('sigma/'.length);
  if (now > limits.sigma && now > limits.growth * first) {
    return [
      {
        cause: name,
        text:
          `the weight of ${layer} has a spectral norm of ${show(now)}, ${show(first)} at first: it is divided away, and with it ` +
          'nearly all of what a step still changes; lower the learning rate of its net',
      },
    ];
  }
  if (!(now * limits.sigma < first)) return [];
  return [
    {
      cause: name,
      text: `the weight of ${layer} has shrunk to a spectral norm of ${show(now)}, ${show(first)} at first: its steps are far too large; lower the learning rate of its net`,
    },
  ];
}

function gradients(series: Series, name: string): Finding[] {
  const net = name.slice('gradNorm/'.length);
  const [now, usual] = [series.now(name), median(series.before(name))];
  if (now < limits.still || now < limits.vanished * usual) {
    return [
      {
        cause: `vanishing/${net}`,
        text: `the gradient of ${net} has all but vanished: ${show(now)}, usually ${show(usual)}; it no longer learns: look at its loss, and go back to an earlier checkpoint`,
      },
    ];
  }
  if (!(usual > limits.still && now > limits.exploded * usual)) return [];
  return [
    {
      cause: `exploding/${net}`,
      text: `the gradient of ${net} explodes: ${show(now)}, usually ${show(usual)}; lower --lr-${net.toLowerCase()}, or go back to an earlier checkpoint`,
    },
  ];
}

function lossScale(series: Series, name: string): Finding[] {
  const [now, first] = [series.last(name), series.first(name)];
  if (!(now < limits.lossScale && now < first)) return [];
  return [
    {
      cause: name,
      text: `the loss scale of ${name.slice('lossScale'.length)} has fallen to ${show(now)}: its gradients overflow f16 again and again; lower the learning rates, or go on with --precision f32`,
    },
  ];
}

/** Lines for which a cause has to be gone before it is told again. */
const quiet = 10;

/** Tells each cause once: again only where it was gone for a while. */
export class Watch {
  readonly #config: WatchedConfig;
  /** The number of lines at which each was last seen. */
  readonly #seen = new Map<string, number>();

  /** `earlier`: the lines of a run that goes on, whose alarms have been told. */
  constructor(config: WatchedConfig, earlier: readonly MetricLine[]) {
    this.#config = config;
    for (let n = Math.max(1, earlier.length - quiet); n <= earlier.length; n++) {
      this.look(earlier.slice(0, n));
    }
  }

  /** What is new at the last of the lines. To be called with each line that comes. */
  look(lines: readonly MetricLine[]): Alarm[] {
    return watch(lines, this.#config).filter(({ cause }) => {
      const before = this.#seen.get(cause);
      this.#seen.set(cause, lines.length);
      return before === undefined || lines.length - before > quiet;
    });
  }
}
