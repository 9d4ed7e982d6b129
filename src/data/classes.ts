import { UserError } from '../util/errors.ts';

/** The class of the files that lie beside the folders of the others. */
const LOOSE = '.';

/** A table of labels that may lie beside images, and its first line. */
export const LABELS_FILE = 'labels.csv';
const LABELS_HEADING = 'file,label';

export interface Classes {
  /** Names; one at least. */
  readonly names: readonly string[];
  /** [files], indices into `names` */
  readonly labels: Uint32Array;
}

/** The top-level folders of the paths, where there is more than one; else all are of one class, called `name`. */
export function classesOfFolders(files: readonly string[], name: string): Classes {
  const topOf = (file: string) => {
    const end = file.indexOf('/');
    return end < 0 ? LOOSE : file.slice(0, end);
  };
  const tops = [...new Set(files.map(topOf))].sort();
  if (tops.filter((top) => top !== LOOSE).length < 2) {
    return { names: [name], labels: new Uint32Array(files.length) };
  }
  return numbered(tops, files.map(topOf));
}

function numbered(names: readonly string[], of: readonly string[]): Classes {
  const numbers = new Map(names.map((name, i) => [name, i]));
  return { names, labels: Uint32Array.from(of, (name) => numbers.get(name) ?? 0) };
}

/**
 * Classes by a table of `file,label` lines, quoted as in RFC 4180 where they need it; undefined for a table without that
 * heading, which is none of ours. Paths are those inside the set. Throws a `UserError`, which begins with `where`, for a
 * line that is not of two cells, a file named twice and an image without a label. Lines of other files are passed over.
 */
export function classesOfTable(
  text: string,
  { files, where }: { readonly files: readonly string[]; readonly where: string },
): Classes | undefined {
  const labelOf = new Map<string, string>();
  const [heading = '', ...rows] = text.replace(/^\ufeff/, '').split(/\r?\n/);
  if (heading.trim() !== LABELS_HEADING) return undefined;
  for (const [i, row] of rows.entries()) {
    if (row === '') continue;
    const cells = cellsOf(row);
    const [file, label] = cells;
    if (cells.length !== 2 || file === undefined || label === undefined || label === '') {
      throw new UserError(`${where} line ${i + 2} is not file,label: ${row.slice(0, 80)}`);
    }
    const path = file.replaceAll('\\', '/').replace(/^\.\//, '');
    if (labelOf.has(path))
      throw new UserError(`${where} line ${i + 2} names ${path} a second time`);
    labelOf.set(path, label);
  }
  const without = files.filter((file) => !labelOf.has(file));
  const [first] = without;
  if (first !== undefined) {
    throw new UserError(
      `${where} has no label for ${without.length} of ${files.length} images, such as ${first}; add them, or remove the images`,
    );
  }
  const labels = files.map((file) => labelOf.get(file) ?? '');
  return numbered(sorted(new Set(labels)), labels);
}

/** Whole numbers in their order, anything else by code units. */
function sorted(names: ReadonlySet<string>): string[] {
  const list = [...names];
  if (list.every((name) => /^\d{1,9}$/.test(name))) {
    return list.sort((a, b) => Number(a) - Number(b));
  }
  return list.sort();
}

/** The cells of a line; none where a quote is not closed. */
function cellsOf(row: string): string[] {
  const cell = /(?:"((?:[^"]|"")*)"|([^",]*))(,|$)/y;
  const cells: string[] = [];
  for (;;) {
    const found = cell.exec(row);
    if (found === null) return [];
    cells.push(found[1]?.replaceAll('""', '"') ?? found[2]?.trim() ?? '');
    if (found[3] === '') return cells;
  }
}

/**
 * The classes of a set: those of its table where it has one, else its folders. `table` is the text of `LABELS_FILE`; `log`
 * takes a line where that is not used.
 */
export function classesOf(
  files: readonly string[],
  set: {
    readonly name: string;
    readonly where: string;
    readonly table: string | undefined;
    readonly log?: ((line: string) => void) | undefined;
  },
): Classes {
  const { name, where, table, log } = set;
  if (table !== undefined) {
    const path = `${where}/${LABELS_FILE}`;
    const classes = classesOfTable(table, { files, where: path });
    if (classes !== undefined) return classes;
    log?.(`${path} is not read: its first line is not ${LABELS_HEADING}`);
  }
  return classesOfFolders(files, name);
}
