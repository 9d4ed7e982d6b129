import { z } from 'zod';
import { markdownTable } from '../output/text.ts';
import { meanAndSpread } from '../../src/train/eval/spread.ts';

const number = z.number();

/** One training of the ablation, and what its last averaged generator was measured to be. */
const trainedSchema = z.object({
  attention: z.string(),
  seed: number,
  step: number,
  /** Seconds of training, by its metrics. */
  seconds: number,
  fd: number,
  kid: number,
  precision: number,
  recall: number,
  density: number,
  coverage: number,
});
export type Trained = z.infer<typeof trainedSchema>;

export interface Ablation {
  readonly preset: string;
  readonly data: string;
  readonly imageSize: number;
  readonly steps: number;
  readonly batch: number;
  readonly n: number;
  readonly real: number;
  readonly extractor: string;
  readonly weights: string;
  readonly environment: Readonly<Record<string, unknown>>;
  readonly trained: readonly Trained[];
}

/** Reads a run's numbers out of its evaluation. Throws where one is missing. */
export function trainedOf(parts: Readonly<Record<string, unknown>>): Trained {
  return trainedSchema.parse(parts);
}

const shown = [
  ['fd', 'FD', 2],
  ['kid', 'KID', 4],
  ['precision', 'precision', 3],
  ['recall', 'recall', 3],
  ['coverage', 'coverage', 3],
  ['seconds', 'seconds', 0],
] as const;

/**
 * The ablation as Markdown, below a line that says what it is of: a row a training, then mean and deviation of each kind (of one
 * seed no deviation), then what a kind costs and brings.
 */
export function ablationTable(ablation: Ablation): string {
  const { preset, data, steps, batch, n, real, extractor, weights, trained } = ablation;
  const kinds = [...new Set(trained.map(({ attention }) => attention))];
  const head = ['attention', 'seed', ...shown.map(([, title]) => title)];
  const rows = trained.map((one) => [
    ...[one.attention, String(one.seed)],
    ...shown.map(([key, , digits]) => one[key].toFixed(digits)),
  ]);
  const means = kinds.map((kind) => [
    ...[kind, 'mean ± std'],
    ...shown.map(([key, , digits]) => {
      const values = of(trained, kind, key);
      const { mean, std: ofThese } = meanAndSpread(values);
      if (values.length < 2) return mean.toFixed(digits);
      // What other seeds would differ by, of which these are a sample.
      const std = ofThese * Math.sqrt(values.length / (values.length - 1));
      return `${mean.toFixed(digits)} ± ${std.toFixed(digits)}`;
    }),
  ]);
  return [
    `**Attention against none: ${preset}, ${data}, ${steps} steps of batch ${batch}**`,
    '',
    `FD and KID are in the features of ${extractor}, weights ${weights.slice(0, 16)}, of ${n} made and ${real} real images: they are no FID. Less is better; of precision, recall and coverage more. Seconds are of training on ${String(ablation.environment['adapter'])}, of a machine that may have had other work.`,
    '',
    markdownTable({ title: '', notes: [], head, rows: [...rows, ...means], texts: head.length }),
    ...verdicts(trained, kinds),
  ].join('\n');
}

function of(trained: readonly Trained[], kind: string, key: (typeof shown)[number][0]): number[] {
  return trained.filter(({ attention }) => attention === kind).map((one) => one[key]);
}

/** What each kind of attention changes against none, whatever it is. */
function verdicts(trained: readonly Trained[], kinds: readonly string[]): string[] {
  return kinds
    .filter((kind) => kind !== 'none')
    .map((kind) => {
      const change = (key: 'fd' | 'kid' | 'seconds') => {
        const [at, without] = [kind, 'none'].map((k) => meanAndSpread(of(trained, k, key)).mean);
        const percent = 100 * ((at ?? NaN) / (without ?? NaN) - 1);
        return `${percent >= 0 ? '+' : '−'}${Math.abs(percent).toFixed(1)} %`;
      };
      const better = trained.filter(({ attention, seed, fd }) => {
        const other = trained.find((one) => one.attention === 'none' && one.seed === seed);
        return attention === kind && other !== undefined && fd < other.fd;
      }).length;
      const seeds = of(trained, kind, 'fd').length;
      return `${kind} against none: FD ${change('fd')}, KID ${change('kid')}, time ${change('seconds')}; FD is less with it for ${better} of ${seeds} seeds.`;
    });
}
