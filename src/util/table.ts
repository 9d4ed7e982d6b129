export interface Column {
  readonly title: string;
  /** Text stands to the left, numbers (default) to the right. */
  readonly text?: boolean;
}

/** Columns for a terminal, two spaces apart, each as wide as its widest cell; no space ends a line. */
export function textTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
): string {
  const lines = [columns.map((c) => c.title), ...rows];
  const widths = columns.map((_c, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)));
  const pad = (cell: string, i: number) => {
    const width = widths[i] ?? 0;
    return columns[i]?.text === true ? cell.padEnd(width) : cell.padStart(width);
  };
  return lines.map((line) => line.map(pad).join('  ').trimEnd()).join('\n');
}
