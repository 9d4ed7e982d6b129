import { closeSync, constants, fstatSync, openSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { attentionFolder, isAttentionName } from './attention.ts';
import { kindOfPicture } from './pictures.ts';
import { errorCode } from '../io/errno.ts';

// Links are not followed, and a pipe is not waited for; a system without these flags has few of either.
const flags =
  constants.O_RDONLY |
  ((constants.O_NOFOLLOW as number | undefined) ?? 0) |
  ((constants.O_NONBLOCK as number | undefined) ?? 0);

/** The same in each system: what is no file of the folder's own. */
const notOwn = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'EMLINK', 'ENXIO']);

/**
 * Opens a regular file to read it. Undefined where there is none: nothing, a folder, a pipe, or a symbolic link, whose
 * target may lie anywhere.
 */
export function openOwn(path: string): number | undefined {
  let file: number;
  try {
    file = openSync(path, flags);
  } catch (error) {
    if (notOwn.has(errorCode(error) ?? '')) return undefined;
    throw error;
  }
  if (fstatSync(file).isFile()) return file;
  closeSync(file);
  return undefined;
}

/** The bytes of what `openOwn` opens. */
export function readOwn(path: string): Buffer | undefined {
  const file = openOwn(path);
  if (file === undefined) return undefined;
  try {
    return readFileSync(file);
  } finally {
    closeSync(file);
  }
}

/** What may be read of a run folder by name: files in these folders that are called as training calls them. */
const readable: Readonly<Record<string, (name: string) => boolean>> = {
  samples: (name) => kindOfPicture(name) !== undefined,
  [attentionFolder]: isAttentionName,
};

/**
 * The bytes of a picture or a file of attention maps of a run. Undefined for every other name, for what is no regular file,
 * and for a folder that is a symbolic link. `run` is a real path.
 */
export function readNamed(run: string, folder: string, name: string): Buffer | undefined {
  if (!Object.hasOwn(readable, folder) || readable[folder]?.(name) !== true) return undefined;
  const inside = join(run, folder);
  return realpathSync(inside) === inside ? readOwn(join(inside, name)) : undefined;
}
