import { UserError, messageOf } from '../util/errors.ts';

const CAUSES: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full; free some space or choose a folder on another disk',
  EDQUOT: 'the disk quota is used up; free some space or choose a folder on another disk',
  EACCES: 'permission denied; choose a folder that you own or change its permissions',
  EPERM: 'permission denied; choose a folder that you own or change its permissions',
  EROFS: 'the file system is read-only; choose a folder on another disk',
  ENOENT: 'no such file or folder',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EISDIR: 'it is a folder, not a file',
  ENAMETOOLONG: 'the name is too long',
  ELOOP: 'its symbolic links go round in a circle',
  EMFILE: 'too many files are open; raise the limit with ulimit -n',
  EIO: 'the disk reports an input/output error',
};

/** The `code` of a system error (`ENOENT`), or undefined for anything else. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * A system error as one line for the user: `cannot write run/a.png: the disk is full; …`. What is no system error of a
 * known kind comes back unchanged, because it is our mistake and wants its stack.
 */
export function fileError(error: unknown, verb: string, path: string): unknown {
  if (error instanceof UserError) return error;
  const code = errorCode(error);
  if (code === undefined || !/^E[A-Z0-9]+$/.test(code)) return error;
  return new UserError(`cannot ${verb} ${path}: ${CAUSES[code] ?? messageOf(error)} (${code})`, {
    cause: error,
  });
}
