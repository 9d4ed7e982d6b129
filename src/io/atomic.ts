import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { threadId } from 'node:worker_threads';
import { errorCode, fileError } from './errno.ts';

/** Whether a file's name is one that `writeFileAtomic` writes to before it renames: what a killed process leaves. */
export function isTemporary(name: string): boolean {
  return /^\..+\.\d+(-\d+)+\.tmp$/.test(name);
}

/** What file systems answer that cannot sync a folder (Windows, some network mounts). */
const NO_FOLDER_SYNC = new Set(['EINVAL', 'ENOTSUP', 'EPERM', 'EISDIR', 'EACCES', 'EBADF']);

let temporaries = 0;

/** A file's bytes in one piece, or in parts that are made while the file is written: it may be larger than memory. */
export type FileData = Uint8Array | string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/**
 * Writes a whole file so that `path` holds either its old bytes or all of the new ones, whenever the power goes: to a
 * temporary name in the same folder, file synced, renamed, folder synced. The temporary file is removed on an error,
 * and an error in making a part comes back as it was thrown. Throws a `UserError` for a full disk, a missing or
 * read-only folder, and the like.
 */
export async function writeFileAtomic(path: string, data: FileData): Promise<void> {
  const folder = dirname(path);
  const temporary = join(
    folder,
    `.${basename(path)}.${process.pid}-${threadId}-${temporaries++}.tmp`,
  );
  let created = false;
  try {
    const file = await open(temporary, 'wx');
    created = true;
    try {
      // Each call goes on where the one before ended.
      const whole = typeof data === 'string' || data instanceof Uint8Array;
      for await (const part of whole ? [data] : data) await file.writeFile(part);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncFolder(folder);
  } catch (error) {
    if (created) await rm(temporary, { force: true }).catch(() => undefined);
    throw fileError(error, 'write', path);
  }
}

/**
 * Makes a folder, and those above it that are not there, so that they last through a power cut: each folder that got a
 * new one is synced. Throws a `UserError` where it cannot be made.
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    const first = await mkdir(path, { recursive: true });
    if (first === undefined) return;
    const top = dirname(resolve(first));
    let folder = resolve(path);
    do {
      folder = dirname(folder);
      await syncFolder(folder);
    } while (folder !== top && folder !== dirname(folder));
  } catch (error) {
    throw fileError(error, 'make', path);
  }
}

/** Makes a rename in the folder last through a power cut, where the file system has such a promise to give. */
async function syncFolder(folder: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(folder, 'r');
    await handle.sync();
  } catch (error) {
    if (!NO_FOLDER_SYNC.has(errorCode(error) ?? '')) throw error;
  } finally {
    await handle?.close();
  }
}
