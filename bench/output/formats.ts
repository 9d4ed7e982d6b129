import { UserError } from '../../src/util/errors.ts';
import type { BenchResult } from '../results.ts';
import { barChart } from './chart.ts';
import { sheetOf } from './sheet.ts';
import { csvTable, markdownTable, plainTable } from './text.ts';

export const formats = ['table', 'md', 'csv', 'json', 'svg'] as const;
export type Format = (typeof formats)[number];

/** A result as text, in whichever form it is wanted; every one ends its last line. */
export function formatted(result: BenchResult, format: Format): string {
  switch (format) {
    case 'table':
      return plainTable(sheetOf(result));
    case 'md':
      return `${markdownTable(sheetOf(result))}\n`;
    case 'csv':
      return csvTable(sheetOf(result));
    case 'json':
      return `${JSON.stringify(result, null, 2)}\n`;
    case 'svg':
      return barChart(result);
  }
}

/** The format asked for; else the one that the file's ending says; else a table. Throws a `UserError` for another word. */
export function formatOf(asked: string | undefined, out: string | undefined): Format {
  const ending = /\.(md|csv|json|svg)$/i.exec(out ?? '')?.[1]?.toLowerCase();
  const word = asked ?? ending ?? 'table';
  const found = formats.find((format) => format === word);
  if (found !== undefined) return found;
  throw new UserError(`--format ${word} is unknown; there are ${formats.join(', ')}`);
}
