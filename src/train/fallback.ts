import { renameSync } from 'node:fs';
import { basename, join } from 'node:path';
import { errorCode, fileError } from '../io/errno.ts';
import { DamagedError, UserError } from '../util/errors.ts';
import { checkpointFolder, listCheckpoints, noCheckpoint } from './checkpoint.ts';

/** The newest checkpoint that is whole, and what was wrong with each newer one. */
export interface Whole<C> {
  readonly checkpoint: C;
  /** Messages, of the newest first. */
  readonly refused: readonly string[];
}

/**
 * Reads a run's newest checkpoint by `read`, or where it is damaged the one before it, and so on. Changes nothing. Throws
 * a `UserError` where the run has none, or none that is whole, and whatever else `read` throws: only damage is passed over.
 */
export async function readNewestWhole<C>(
  run: string,
  read: (path: string) => Promise<C>,
): Promise<Whole<C>> {
  const refused: string[] = [];
  for (const name of (await listCheckpoints(run)).reverse()) {
    try {
      return { checkpoint: await read(join(checkpointFolder(run), name)), refused };
    } catch (error) {
      if (!isDamage(error)) throw error;
      refused.push(error.message);
    }
  }
  const [newest] = refused;
  if (newest === undefined) throw noCheckpoint(run);
  throw new UserError(`no checkpoint of ${run} is whole: ${newest}; begin anew in another --out`);
}

/** Are the bytes bad, or the place where they lie? */
function isDamage(error: unknown): error is UserError {
  return (
    error instanceof DamagedError ||
    (error instanceof UserError && errorCode(error.cause) === 'EIO')
  );
}

/**
 * Gives the checkpoints that are newer than the one that a run goes on from other names, so that nothing takes them for
 * its newest: they are damaged, or of steps that are to be done again. Returns the new names.
 */
export async function setAsideAfter(run: string, path: string): Promise<string[]> {
  const names = await listCheckpoints(run);
  return names.slice(names.indexOf(basename(path)) + 1).map((name) => {
    const [from, to] = [name, `damaged-${name}`].map((n) => join(checkpointFolder(run), n));
    try {
      renameSync(from ?? '', to ?? '');
    } catch (error) {
      throw fileError(error, 'rename', from ?? '');
    }
    return to ?? '';
  });
}
