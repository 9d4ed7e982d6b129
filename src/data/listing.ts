import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fingerprintOf } from './fingerprint.ts';
import { type Head, TICK_MS, readLines, writeLines } from './listing-file.ts';
import { DECODES_IN_FLIGHT, forEachParallel } from './parallel.ts';

/** What lies in a folder of images, as it was when somebody looked. */
export interface Listing {
  /** Milliseconds since 1970 at which the looking began. */
  readonly listedAt: number;
  /** Folders, "" for the one itself, and when something was last added to, taken from or renamed in each. */
  readonly folders: readonly (readonly [path: string, mtimeMs: number])[];
  /** Images, sorted by code units. */
  readonly files: readonly string[];
  /** Bytes of each image; −1 where they cannot be known. */
  readonly sizes: Float64Array;
  /** When each was last written; −1 where that cannot be known. */
  readonly times: Float64Array;
}

const VERSION = 1;
/** Files whose size and time are looked at again: all of a small set, so many of a large one, spread evenly. */
const LOOKED_AT = 4096;

/** What tells the images from others: paths inside and sizes in bytes, so a set that is moved stays the same. */
export function fingerprintOfListing({ files, sizes }: Pick<Listing, 'files' | 'sizes'>): string {
  return fingerprintOf(mapped(files, (file, i) => `${file}\0${sizes[i]}`));
}

/** The same, and when each file was written. */
export function versionOfListing({ files, sizes, times }: Omit<Listing, 'folders'>): string {
  return fingerprintOf(mapped(files, (file, i) => `${file}\0${sizes[i]}\0${times[i]}`));
}

function* mapped<T>(files: readonly T[], text: (file: T, i: number) => string): Generator<string> {
  for (const [i, file] of files.entries()) yield text(file, i);
}

/** Keeps a listing in a file, `writeLines`. */
export function writeListing(path: string, listing: Listing): Promise<void> {
  const { listedAt, folders, files } = listing;
  const head: FolderHead = {
    ...{ version: VERSION, listedAt },
    ...{ folders: folders.length, files: files.length },
  };
  return writeLines(path, head, linesOf(listing));
}

/** Folders, then files. */
function* linesOf({ folders, files, sizes, times }: Listing): Generator {
  yield* folders;
  for (const [i, file] of files.entries()) yield [file, sizes[i], times[i]];
}

/**
 * The listing that a run has kept, if `folder` is still as it was: no folder changed, and no file of those looked at (all
 * of 4096, or so many spread evenly). Undefined where there is none, and with a line to `log` where it no longer holds.
 */
export async function readListing(
  path: string,
  { folder, log }: { readonly folder: string; readonly log?: ((line: string) => void) | undefined },
): Promise<Listing | undefined> {
  const listing = await parse(path, { where: folder, version: VERSION, log });
  if (listing === undefined) return undefined;
  const { listedAt, folders, files, sizes, times } = listing;
  if (folders.some(([, time]) => time > listedAt - TICK_MS)) return undefined;
  let changed: string | undefined;
  await forEachParallel(folders.length, DECODES_IN_FLIGHT, async (i) => {
    const [inside = '', time] = folders[i] ?? [];
    const now = await stat(join(folder, inside)).catch(() => undefined);
    if (now?.isDirectory() !== true || now.mtimeMs !== time) changed ??= inside;
  });
  const looked = Math.min(files.length, LOOKED_AT);
  await forEachParallel(changed === undefined ? looked : 0, DECODES_IN_FLIGHT, async (k) => {
    const i = Math.floor((k * files.length) / looked);
    const now = await stat(join(folder, files[i] ?? '')).catch(() => undefined);
    if ((now?.size ?? -1) !== sizes[i] || (now?.mtimeMs ?? -1) !== times[i]) changed ??= files[i];
  });
  if (changed === undefined) return listing;
  log?.(
    `${join(folder, changed)} has changed since ${path} was written; ${folder} is listed again`,
  );
  return undefined;
}

interface FolderHead extends Head {
  readonly folders: number;
}

async function parse(
  path: string,
  kept: Parameters<typeof readLines>[1],
): Promise<Listing | undefined> {
  const folders: (readonly [string, number])[] = [];
  const files: string[] = [];
  const sizes: number[] = [];
  const times: number[] = [];
  const head = await readLines<FolderHead>(path, kept, (value, { folders: most }) => {
    if (folders.length < most) {
      folders.push(value as [string, number]);
      return false;
    }
    const [file, size, time] = value as [string, number, number];
    files.push(file);
    sizes.push(size);
    times.push(time);
    return true;
  });
  if (head === undefined) return undefined;
  const { listedAt } = head;
  return {
    ...{ listedAt, folders, files },
    sizes: Float64Array.from(sizes),
    times: Float64Array.from(times),
  };
}
