import { basename } from 'node:path';
import { UserError, messageOf } from '../util/errors.ts';
import { type ArchiveListing, readArchiveListing, writeArchiveListing } from './archive-listing.ts';
import type { ByteFile } from './byte-file.ts';
import { LABELS_FILE, classesOf } from './classes.ts';
import { type ImageFiles, extensionOf, isImageName, noImages } from './files.ts';
import { fingerprintOf } from './fingerprint.ts';
import { fingerprintOfListing } from './listing.ts';
import { listingPath } from './listing-file.ts';

/** A file in an archive. */
export interface Entry {
  /** As the archive has it; of an image that is listed, inside the set. */
  readonly path: string;
  /** Bytes unpacked. */
  readonly size: number;
}

export interface Contents<E extends Entry> {
  /** Regular files, in the order of the archive. */
  readonly entries: readonly E[];
  /** What else than paths and sizes tells these files from others. */
  readonly version: string;
}

export interface ArchiveOptions {
  /** A run's folder: the listing that it keeps is taken where it still holds. */
  readonly run?: string | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

export interface Archive<E extends Entry> extends ArchiveOptions {
  /** Closed where the images are, and where there are none. */
  readonly file: ByteFile;
  /** Looks through the archive; `log` takes a line where it cannot be read to its end. */
  list(log: (line: string) => void): Promise<Contents<E>>;
  read(entry: E): Promise<Uint8Array>;
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
  try {
    return await openListed(archive, await listingOf(archive));
  } catch (error) {
    await archive.file.close();
    throw error;
  }
}

/** A listing, and whether it is worth keeping: one that was told something about is not, so that it is told again. */
interface Looked<E extends Entry> {
  readonly listing: ArchiveListing<E>;
  readonly keep: boolean;
}

async function listingOf<E extends Entry>(archive: Archive<E>): Promise<Looked<E>> {
  const { file, run, log } = archive;
  const kept =
    run === undefined ? undefined : await readArchiveListing<E>(listingPath(run), file, log);
  if (kept !== undefined) return { listing: kept, keep: true };
  const listedAt = Date.now();
  let keep = true;
  const contents = await archive.list((line) => {
    keep = false;
    log?.(line);
  });
  return { listing: { listedAt, ...imagesOf(file.path, contents) }, keep };
}

/** The images of an archive as those of a folder, and its table. */
function imagesOf<E extends Entry>(
  where: string,
  { entries, version }: Contents<E>,
): Omit<ArchiveListing<E>, 'listedAt'> {
  const byPath = new Map<string, E>();
  const tables = new Map<string, E>();
  const others = new Map<string, number>();
  for (const entry of entries) {
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
  const images = sorted.map(([path, entry]) => ({ ...entry, path: path.slice(root.length) }));
  return { version, table: tables.get(`${root}${LABELS_FILE}`), images };
}

async function openListed<E extends Entry>(
  archive: Archive<E>,
  { listing, keep }: Looked<E>,
): Promise<ImageFiles> {
  const { file, log } = archive;
  const { path: where } = file;
  const { images, version } = listing;
  const files = images.map(({ path }) => path);
  const sizes = Float64Array.from(images, ({ size }) => size);
  const name = basename(where).replace(/\.(zip|tar)$/i, '');
  const table = listing.table === undefined ? undefined : await textOf(archive, listing.table);
  const own = fingerprintOfListing({ files, sizes });
  return {
    ...{ name, where, files, sizes },
    classes: classesOf(files, { name, where, table, log }),
    fingerprint: table === undefined ? own : fingerprintOf([own, table]),
    version: fingerprintOf([own, version]),
    bytes(number) {
      const entry = images[number];
      if (entry === undefined) throw new RangeError(`file ${number} of ${images.length}`);
      if (entry.size > LARGEST_FILE) {
        return Promise.reject(new Error(`it would unpack to ${entry.size} bytes`));
      }
      return archive.read(entry);
    },
    close: () => file.close(),
    ...(keep && { saveIndex: (run) => writeArchiveListing(listingPath(run), file, listing) }),
  };
}

async function textOf<E extends Entry>(archive: Archive<E>, entry: E): Promise<string> {
  try {
    if (entry.size > LARGEST_FILE) throw new Error(`it would unpack to ${entry.size} bytes`);
    return Buffer.from(await archive.read(entry)).toString('utf8');
  } catch (error) {
    throw new UserError(
      `${archive.file.path}: ${entry.path} cannot be read (${messageOf(error)})`,
      {
        cause: error,
      },
    );
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
