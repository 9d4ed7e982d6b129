import type { Entry } from './archive.ts';
import type { ByteFile } from './byte-file.ts';
import { type Head, TICK_MS, readLines, writeLines } from './listing-file.ts';

/** What lies in an archive, as it was when somebody looked. */
export interface ArchiveListing<E extends Entry> {
  /** Milliseconds since 1970 at which the looking began. */
  readonly listedAt: number;
  /** What else than paths and sizes tells the files from others. */
  readonly version: string;
  /** The table of labels, where there is one. */
  readonly table?: E | undefined;
  /** By their paths inside the set, sorted by code units. */
  readonly images: readonly E[];
}

const VERSION = 1;

interface ArchiveHead<E> extends Head, Pick<ByteFile, 'size' | 'mtimeMs'> {
  readonly contents: string;
  readonly table?: E | undefined;
}

/** Keeps the listing of an archive, which is open as `file`, in a file at `path`, `writeLines`. */
export function writeArchiveListing<E extends Entry>(
  path: string,
  { size, mtimeMs }: ByteFile,
  { listedAt, version, table, images }: ArchiveListing<E>,
): Promise<void> {
  const head: ArchiveHead<E> = {
    ...{ version: VERSION, of: 'archive', listedAt, files: images.length },
    ...{ size, mtimeMs, contents: version, table },
  };
  return writeLines(path, head, images);
}

/**
 * The listing that a run has kept, if the archive is of the same size and time of writing as then. Undefined where there is
 * none, and with a line to `log` where it is damaged, or was made of another archive or an older one.
 */
export async function readArchiveListing<E extends Entry>(
  path: string,
  { path: where, size, mtimeMs }: ByteFile,
  log?: (line: string) => void,
): Promise<ArchiveListing<E> | undefined> {
  const images: E[] = [];
  const kept = { where, of: 'archive', version: VERSION, log } as const;
  const head = await readLines<ArchiveHead<E>>(path, kept, (value, { table, contents }) => {
    if (!isEntry(value) || !(table === undefined || isEntry(table))) throw new Error('no entry');
    if (typeof contents !== 'string') throw new Error('no version');
    images.push(value as E);
    return true;
  });
  if (head === undefined || !(head.mtimeMs <= head.listedAt - TICK_MS)) return undefined;
  if (head.size !== size || head.mtimeMs !== mtimeMs) {
    log?.(`${where} is not what it was when ${path} was written; it is listed again`);
    return undefined;
  }
  const { listedAt, contents: version, table } = head;
  return { listedAt, version, table, images };
}

/** Has it the form of an entry, of whatever kind of archive? What it says may still be wrong: reading it tells. */
function isEntry(value: unknown): value is Entry {
  if (typeof value !== 'object' || value === null) return false;
  const { path, ...rest } = value as Readonly<Record<string, unknown>>;
  const isCount = (number: unknown) => Number.isSafeInteger(number) && Number(number) >= 0;
  const areCounts = Object.values(rest).every((one) => typeof one === 'boolean' || isCount(one));
  return typeof path === 'string' && isCount(rest['size']) && isCount(rest['at']) && areCounts;
}
