import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { createGunzip, createGzip } from 'node:zlib';
import { writeFileAtomic } from '../io/atomic.ts';
import { errorCode } from '../io/errno.ts';
import { messageOf } from '../util/errors.ts';
import { fingerprintOf } from './fingerprint.ts';
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
/** A folder changed so shortly before it was listed may have changed again in the same tick of its clock. */
const TICK_MS = 2000;
/** Files whose size and time are looked at again: all of a small set, so many of a large one, spread evenly. */
const LOOKED_AT = 4096;

export function listingPath(run: string): string {
  return join(run, 'data-index.gz');
}

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

/** Writes a listing as gzipped lines of JSON: a head, then folders, then files. */
export async function writeListing(path: string, listing: Listing): Promise<void> {
  const lines = Readable.from(parts(listing)).pipe(createGzip({ level: 1 }));
  await writeFileAtomic(path, lines as AsyncIterable<Uint8Array>);
}

const LINES_A_PART = 4096;

function* parts({ listedAt, folders, files, sizes, times }: Listing): Generator<string> {
  const head = { version: VERSION, listedAt, folders: folders.length, files: files.length };
  yield `${JSON.stringify(head)}\n`;
  const inParts = function* (n: number, line: (i: number) => unknown): Generator<string> {
    for (let begin = 0; begin < n; begin += LINES_A_PART) {
      let text = '';
      for (let i = begin; i < Math.min(n, begin + LINES_A_PART); i++) {
        text += `${JSON.stringify(line(i))}\n`;
      }
      yield text;
    }
  };
  yield* inParts(folders.length, (i) => folders[i]);
  yield* inParts(files.length, (i) => [files[i], sizes[i], times[i]]);
}

/**
 * The listing that a run has kept, if `folder` is still as it was: no folder changed, and no file of those looked at (all
 * of 4096, or so many spread evenly). Undefined where there is none, and with a line to `log` where it no longer holds.
 */
export async function readListing(
  path: string,
  { folder, log }: { readonly folder: string; readonly log?: ((line: string) => void) | undefined },
): Promise<Listing | undefined> {
  let listing: Listing;
  try {
    listing = await parse(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') {
      log?.(`${path} is damaged (${messageOf(error)}); ${folder} is listed again`);
    }
    return undefined;
  }
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

interface Head {
  readonly version: number;
  readonly listedAt: number;
  readonly folders: number;
  readonly files: number;
}

/** Rejects for a file that is cut, or is not of this version. */
async function parse(path: string): Promise<Listing> {
  const folders: (readonly [string, number])[] = [];
  const files: string[] = [];
  const sizes: number[] = [];
  const times: number[] = [];
  const source = createReadStream(path);
  const unpacked = createGunzip();
  // An error of the file is one of what is read from it.
  source.on('error', (error) => unpacked.destroy(error));
  let head: Head | undefined;
  for await (const line of createInterface({ input: source.pipe(unpacked), crlfDelay: Infinity })) {
    const value: unknown = JSON.parse(line);
    if (head === undefined) {
      head = value as Head;
      if (head.version !== VERSION) throw new Error('it is of another version');
    } else if (folders.length < head.folders) {
      folders.push(value as [string, number]);
    } else {
      const [file, size, time] = value as [string, number, number];
      files.push(file);
      sizes.push(size);
      times.push(time);
    }
  }
  if (head === undefined || files.length !== head.files || files.length === 0) {
    throw new Error('it is cut short');
  }
  const { listedAt } = head;
  return {
    ...{ listedAt, folders, files },
    sizes: Float64Array.from(sizes),
    times: Float64Array.from(times),
  };
}
