import { textTable } from '../../util/table.ts';
import type { Evaluation } from './evaluate.ts';
import type { MeasureName } from './measure.ts';

/** What each number is called, and whether more or less of it is better. */
const titles: Readonly<
  Record<Exclude<MeasureName, 'kidStd' | 'isStd'>, readonly [string, string]>
> = {
  fid: ['FID', 'less'],
  fd: ['FD', 'less'],
  kid: ['KID', 'less'],
  is: ['IS', 'more'],
  precision: ['precision', 'more'],
  recall: ['recall', 'more'],
  density: ['density', 'more'],
  coverage: ['coverage', 'more'],
};

/** An evaluation for a terminal: the numbers, and below them what they were measured in. */
export function evaluationTable(evaluation: Evaluation): string {
  const spread = { kid: evaluation.kidStd, is: evaluation.isStd };
  const rows = Object.entries(titles).flatMap(([key, [title, better]]) => {
    const value = evaluation[key as keyof typeof titles];
    if (value === undefined) return [];
    const std = key in spread ? spread[key as keyof typeof spread] : undefined;
    return [[title, number(value), std === undefined ? '' : `± ${number(std)}`, better]];
  });
  const columns = [{ title: 'measure', text: true }, { title: 'value' }, { title: '' }];
  const table = textTable([...columns, { title: 'better', text: true }], rows);
  return `${table}\n\n${aboutLines(evaluation).join('\n')}`;
}

function aboutLines(evaluation: Evaluation): string[] {
  const { step, generator, extractor, weights, accuracy, n, real, resize } = evaluation;
  const right = Object.entries(accuracy ?? {}).map(
    ([what, share]) => `${what} ${(100 * share).toFixed(1)} %`,
  );
  return [
    `checkpoint  step ${step}, ${generator} weights`,
    `extractor   ${extractor}, weights ${weights.slice(0, 16)}`,
    ...(right.length > 0 ? [`held out    ${right.join(', ')} right`] : []),
    `images      ${n} made, ${real} real, resize ${resize}`,
  ];
}

/** Five digits that count, and never an exponent for a small number next to larger ones. */
function number(value: number): string {
  return Math.abs(value) >= 1000 ? value.toFixed(0) : value.toFixed(Math.abs(value) < 1 ? 5 : 3);
}
