import { basename } from 'node:path';
import { UserError, messageOf } from '../util/errors.ts';
import { LABELS_FILE, classesOf } from './classes.ts';
import { type ImageFiles, extensionOf, isImageName, noImages } from './files.ts';
import { fingerprintOf } from './fingerprint.ts';

/** A file in an archive. */
export interface Entry {
  /** As the archive has it. */
  readonly path: string;
  /** Bytes unpacked. */
  readonly size: number;
}

export interface Archive<E extends Entry> {
  readonly where: string;
  /** Regular files, in the order of the archive. */
  readonly entries: readonly E[];
  /** What else than paths and sizes tells these files from others. */
  readonly version: string;
  read(entry: E): Promise<Uint8Array>;
  close(): Promise<void>;
  readonly log?: ((line: string) => void) | undefined;
}

/** No image of a data set is as large when it is unpacked; an archive that says so is not believed. */
export const LARGEST_FILE = 2 ** 28;

/**
 * The images of an archive, as if it were unpacked into a folder: the folders that all of them lie in are left out, and the
 * first ones below are the classes. Of two files of one path the last counts, as in unpacking. Nothing is written
 * anywhere, so that a path that climbs out of its folder leads nowhere: it is passed over like every name that begins with
 * a dot. Throws a `UserError` where there is no image.
 */
export async function archiveFiles<E extends Entry>(archive: Archive<E>): Promise<ImageFiles> {
  const { where, log } = archive;
  const byPath = new Map<string, E>();
  const tables = new Map<string, E>();
  const others = new Map<string, number>();
  for (const entry of archive.entries) {
    const path = cleanPath(entry.path);
    if (path === undefined) continue;
    const extension = extensionOf(path);
    if (isImageName(path)) byPath.set(path, entry);
    else if (path === LABELS_FILE || path.endsWith(`/${LABELS_FILE}`)) tables.set(path, entry);
    else others.set(extension, (others.get(extension) ?? 0) + 1);
  }
  if (byPath.size === 0) throw new UserError(noImages(where, others));
  const root = commonFolder([...byPath.keys()]);
  const sorted = [...byPath].sort(([a], [b]) => (a < b ? -1 : 1));
  const files = sorted.map(([path]) => path.slice(root.length));
  const entries = sorted.map(([, entry]) => entry);
  const sizes = Float64Array.from(entries, ({ size }) => size);
  const name = basename(where).replace(/\.(zip|tar)$/i, '');
  const tableAt = tables.get(`${root}${LABELS_FILE}`);
  const table = tableAt === undefined ? undefined : await textOf(archive, tableAt);
  const own = fingerprintOf(files.map((file, i) => `${file}\0${sizes[i]}`));
  return {
    ...{ name, where, files, sizes },
    classes: classesOf(files, { name, where, table, log }),
    fingerprint: table === undefined ? own : fingerprintOf([own, table]),
    version: fingerprintOf([own, archive.version]),
    bytes(file) {
      const entry = entries[file];
      if (entry === undefined) throw new RangeError(`file ${file} of ${entries.length}`);
      if (entry.size > LARGEST_FILE) {
        return Promise.reject(new Error(`it would unpack to ${entry.size} bytes`));
      }
      return archive.read(entry);
    },
    close: () => archive.close(),
  };
}

async function textOf<E extends Entry>(archive: Archive<E>, entry: E): Promise<string> {
  try {
    if (entry.size > LARGEST_FILE) throw new Error(`it would unpack to ${entry.size} bytes`);
    return Buffer.from(await archive.read(entry)).toString('utf8');
  } catch (error) {
    throw new UserError(`${archive.where}: ${entry.path} cannot be read (${messageOf(error)})`, {
      cause: error,
    });
  }
}

/** A path with forward slashes and without empty parts; undefined where a name in it begins with a dot. */
function cleanPath(path: string): string | undefined {
  const parts = path.split(/[/\\]/).filter((part) => part !== '' && part !== '.');
  return parts.some((part) => part.startsWith('.')) ? undefined : parts.join('/');
}

/** The folders that all paths lie in, with their slash; nothing where there are none. */
function commonFolder(paths: readonly string[]): string {
  let [common = ''] = paths;
  common = common.slice(0, common.lastIndexOf('/') + 1);
  for (const path of paths) {
    while (!path.startsWith(common)) {
      common = common.slice(0, common.lastIndexOf('/', common.length - 2) + 1);
    }
  }
  return common;
}
