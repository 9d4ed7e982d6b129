import { environmentLines } from '../environment.ts';
import { showTile } from '../harness.ts';
import type {
  BenchResult,
  LadderResult,
  OverheadResult,
  RungResult,
  StepResult,
} from '../results.ts';

export type Cell = string | number | undefined;

/** A table before it is text: numbers whole, and what stands above them. */
export interface Sheet {
  readonly title: string;
  readonly notes: readonly string[];
  readonly head: readonly string[];
  readonly rows: readonly (readonly Cell[])[];
  /** Columns of text; the others are numbers. */
  readonly texts: number;
}

export function sheetOf(result: BenchResult): Sheet {
  switch (result.kind) {
    case 'ladder':
      return ladderSheet(result);
    case 'step':
      return stepSheet(result);
    case 'overhead':
      return overheadSheet(result);
  }
}

/** Only what ships, a row a case, and how far above the simplest rung it stands: for a README. */
export function summaryOf(result: BenchResult): Sheet {
  if (result.kind !== 'ladder') return sheetOf(result);
  return {
    title: `bench ${result.bench}`,
    notes: ladderNotes(result),
    head: ['case', 'pass', 'ships', 'ms', 'p10', 'p90', 'GFLOP/s', '% of peak', '× simplest'],
    rows: result.cases.flatMap(({ label, pass, rungs }) =>
      rungs
        .filter((one) => one.shipped && one.ms !== undefined)
        .map(({ rung, ms, gflops, percentOfPeak }): Cell[] => {
          const simplest = rungs.find((one) => one.ms !== undefined)?.ms?.median ?? NaN;
          const times = [ms?.median, ms?.p10, ms?.p90];
          return [label, pass, rung, ...times, gflops, percentOfPeak, simplest / (ms?.median ?? 1)];
        }),
    ),
    texts: 3,
  };
}

function ladderNotes({ environment, peaks, settings }: LadderResult): string[] {
  const cores =
    peaks.matrixGflops === undefined ? '' : `${shown(peaks.matrixGflops)} of f16 matrices, `;
  const flushed = settings.flush ? 'caches flushed' : 'caches warm';
  return [
    ...environmentLines(environment),
    `measured peaks: ${shown(peaks.fmaGflops)} GFLOP/s of f32 multiply-adds, ${cores}${shown(peaks.copyGBs)} GB/s of copies`,
    `each verified against float64, then the median of up to ${settings.rounds} rounds in turn, ${flushed}`,
  ];
}

function ladderSheet(result: LadderResult): Sheet {
  const { cases } = result;
  return {
    title: `bench ${result.bench}`,
    notes: [...ladderNotes(result), '✓ is what ships'],
    head: [
      ...['case', 'pass', 'rung', 'ms', 'p10', 'p90', 'GFLOP/s', 'GB/s', '% of peak'],
      ...['MiB', 'roof'],
    ],
    rows: cases.flatMap(({ label, pass, rungs }) =>
      rungs.map((one): Cell[] => {
        const name = `${nameAmong(rungs, one)}${one.shipped ? ' ✓' : ''}`;
        const { ms, gflops, gbs, percentOfPeak, memoryBytes } = one;
        const mib = memoryBytes === undefined ? undefined : memoryBytes / 2 ** 20;
        const times = [ms?.median, ms?.p10, ms?.p90];
        const last = one.roof ?? one.left;
        return [label, pass, name, ...times, gflops, gbs, percentOfPeak, mib, last];
      }),
    ),
    texts: 3,
  };
}

/** A rung's name, with its tile where it is there in several. */
export function nameAmong(rungs: readonly RungResult[], { rung, tile }: RungResult): string {
  const several = rungs.filter((other) => other.rung === rung).length > 1;
  return several ? `${rung}${showTile(tile)}` : rung;
}

function stepSheet({ environment, settings, cases }: StepResult): Sheet {
  return {
    title: 'bench step',
    notes: [
      ...environmentLines(environment),
      `one step of D and G on the host's clock, replayed and waited for; the median of ${settings.rounds}`,
    ],
    head: [
      ...['preset', 'precision', 'batch', 'ms', 'p10', 'p90', 'GFLOP', 'GFLOP/s', 'images/s'],
      ...['launches', 'one a tensor', 'µs to encode one', 'MiB planned', 'unplanned', 'resident'],
    ],
    rows: cases.map((one) => [
      ...[one.preset, one.precision ?? 'f32', one.batch],
      ...[one.ms.median, one.ms.p10, one.ms.p90, one.gflop, one.gflops],
      ...[one.imagesPerSecond, one.launches, one.launchesApart, one.encodeUsPerLaunch],
      ...[one.plannedBytes, one.unplannedBytes, one.residentBytes].map((n) => n / 2 ** 20),
    ]),
    texts: 2,
  };
}

function overheadSheet({ environment, settings, cases }: OverheadResult): Sheet {
  return {
    title: 'bench overhead',
    notes: [
      ...environmentLines(environment),
      `one step of D and G; the median of ${settings.rounds} rounds, in each of which every kind has its turn; × none: ` +
        'over the step of the same round that has no attention, its median and where 10 % and 90 % of the rounds lie',
    ],
    head: [
      ...['preset', 'attention', 'at', 'precision', 'batch', 'ms', '× none', 'p10', 'p90'],
      ...['GFLOP', 'launches', 'MiB planned'],
    ],
    rows: cases.map((one) => [
      ...[one.preset, one.attention, stagesOf(one.stages), one.precision, one.batch],
      ...[one.ms.median, one.overNone.median, one.overNone.p10, one.overNone.p90],
      ...[one.gflop, one.launches, one.plannedBytes / 2 ** 20],
    ]),
    texts: 4,
  };
}

function stagesOf({ G, D }: OverheadResult['cases'][number]['stages']): string {
  const [g, d] = [G, D].map((stages) => stages.map((s) => `${s}×${s}`).join(', '));
  return g === d ? (g ?? '') : `G ${g}; D ${d}`;
}

/** A number with three digits that count, and all that stand before the point. */
export function shown(value: number): string {
  if (Number.isInteger(value)) return String(value);
  if (Math.abs(value) >= 100) return value.toFixed(0);
  return value.toPrecision(3);
}

export function cellText(cell: Cell): string {
  if (cell === undefined) return '–';
  return typeof cell === 'number' ? shown(cell) : cell;
}
