import { textTable } from '../../src/util/table.ts';
import { cellText } from './sheet.ts';
import type { Cell, Sheet } from './sheet.ts';

/** Columns for a terminal: text to the left, numbers to the right, a case named once. */
export function plainTable({ title, notes, head, rows, texts }: Sheet): string {
  const cells = rows.map((row) => row.map(cellText));
  const once = cells.map((row, i) =>
    row.map((text, c) => (repeats(cells, i, c, texts) ? '' : text)),
  );
  const isText = (c: number) => c < texts || rows.some((row) => typeof row[c] === 'string');
  const columns = head.map((name, c) => ({ title: name, text: isText(c) }));
  return [title, ...notes.map((note) => `  ${note}`), '', textTable(columns, once), ''].join('\n');
}

/** Does the row above say the same in this column of text, and in those before it? The last of them is never left out. */
function repeats(rows: readonly (readonly string[])[], i: number, c: number, texts: number) {
  if (i === 0 || c >= texts - 1) return false;
  return rows[i]?.slice(0, c + 1).join('\n') === rows[i - 1]?.slice(0, c + 1).join('\n');
}

/** A Markdown table with its columns padded, as prettier pads them, and its notes below. */
export function markdownTable({ notes, head, rows, texts }: Sheet): string {
  const cells = [head, ...rows.map((row) => row.map(cellText))].map((row) =>
    row.map((text) => text.replaceAll('|', '\\|')),
  );
  const isText = (c: number) => c < texts || rows.some((row) => typeof row[c] === 'string');
  const widths = head.map((_name, c) => Math.max(3, ...cells.map((row) => (row[c] ?? '').length)));
  const pad = (text: string, c: number) =>
    isText(c) ? text.padEnd(widths[c] ?? 0) : text.padStart(widths[c] ?? 0);
  const line = (row: readonly string[]) => `| ${row.map(pad).join(' | ')} |`;
  const rule = widths.map(
    (width, c) => '-'.repeat(isText(c) ? width : width - 1) + (isText(c) ? '' : ':'),
  );
  const [first = [], ...rest] = cells;
  const below = notes.map((note) => `- ${note}`);
  return [line(first), line(rule), ...rest.map(line), '', ...below].join('\n');
}

/** RFC 4180: every number whole, text in quotes where it needs them. */
export function csvTable({ head, rows }: Sheet): string {
  const field = (cell: Cell) => {
    const text = cell === undefined ? '' : String(cell);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...rows].map((row) => `${row.map(field).join(',')}\n`).join('');
}
