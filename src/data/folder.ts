import { readFile, readdir, realpath, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { errorCode, fileError } from '../io/errno.ts';
import { UserError } from '../util/errors.ts';
import { LABELS_FILE, classesOf } from './classes.ts';
import type { DataProgress, Dataset } from './dataset.ts';
import { type FilesOptions, type ImageFiles, openFiles } from './files.ts';
import { extensionOf, isImageName, noImages } from './files.ts';
import { fingerprintOf } from './fingerprint.ts';
import { fingerprintOfListing, readListing, versionOfListing, writeListing } from './listing.ts';
import { listingPath } from './listing-file.ts';
import type { Listing } from './listing.ts';
import { DECODES_IN_FLIGHT, forEachParallel } from './parallel.ts';

export interface ListOptions {
  /** A run's folder: the listing that it keeps is taken where it still holds. */
  readonly run?: string | undefined;
  readonly onProgress?: ((progress: DataProgress) => void) | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

/** A folder of images as a data set; `listFolder` says which images. */
export async function openFolder(
  folder: string,
  options: FilesOptions & ListOptions,
): Promise<Dataset> {
  return openFiles(await listFolder(folder, options), options);
}

/**
 * Every PNG, JPEG and WebP below `folder`, in the order of their paths. The classes are those of `labels.csv`, or the
 * top-level subfolders where there is more than one (images beside them form a class named "."). Files and folders whose
 * names begin with a dot are passed over; symbolic links are followed.
 */
export async function listFolder(folder: string, options: ListOptions): Promise<ImageFiles> {
  const { run, log } = options;
  const kept = run === undefined ? undefined : await readListing(listingPath(run), { folder, log });
  const listing = kept ?? (await list(folder, options));
  const { files, sizes } = listing;
  const name = basename(resolve(folder));
  const table = await readTable(join(folder, LABELS_FILE));
  const own = fingerprintOfListing(listing);
  return {
    ...{ name, where: folder, files, sizes },
    classes: classesOf(files, { name, where: folder, table, log }),
    fingerprint: table === undefined ? own : fingerprintOf([own, table]),
    version: versionOfListing(listing),
    async bytes(file) {
      const path = join(folder, files[file] ?? '');
      try {
        return await readFile(path);
      } catch (error) {
        throw fileError(error, 'read', path);
      }
    },
    close: () => Promise.resolve(),
    saveIndex: (into) => writeListing(listingPath(into), listing),
  };
}

async function readTable(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw fileError(error, 'read', path);
  }
}

/** Looks through the folder. Throws a `UserError` where there is no image. */
async function list(folder: string, { onProgress }: ListOptions): Promise<Listing> {
  const listedAt = Date.now();
  const folders: [string, number][] = [];
  const found: { readonly file: string; readonly size: number; readonly time: number }[] = [];
  const others = new Map<string, number>();
  const walk = async (inside: string, ancestors: readonly string[]): Promise<void> => {
    const path = join(folder, inside);
    const real = await realpath(path);
    if (ancestors.includes(real)) return;
    folders.push([inside, (await stat(path)).mtimeMs]);
    const names = (await readdir(path)).filter((name) => !name.startsWith('.'));
    const below: string[] = [];
    await forEachParallel(names.length, DECODES_IN_FLIGHT, async (i) => {
      const name = names[i] ?? '';
      const file = inside === '' ? name : `${inside}/${name}`;
      const target = await stat(join(folder, file)).catch(() => undefined);
      if (target?.isDirectory() === true) {
        below.push(file);
      } else if (target?.isFile() === true) {
        const extension = extensionOf(name);
        if (!isImageName(name)) others.set(extension, (others.get(extension) ?? 0) + 1);
        else found.push({ file, size: target.size, time: target.mtimeMs });
      }
      const done = found.length;
      if (done % 1000 === 0) onProgress?.({ stage: 'listing images', done, total: undefined });
    });
    for (const one of below.sort()) await walk(one, [...ancestors, real]);
  };
  try {
    await walk('', []);
  } catch (error) {
    throw fileError(error, 'read', folder);
  }
  if (found.length === 0) throw new UserError(noImages(folder, others));
  found.sort((a, b) => (a.file < b.file ? -1 : 1));
  return {
    ...{ listedAt, folders },
    files: found.map(({ file }) => file),
    sizes: Float64Array.from(found, ({ size }) => size),
    times: Float64Array.from(found, ({ time }) => time),
  };
}
