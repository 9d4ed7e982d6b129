import { accessSync, constants, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileError } from '../io/errno.ts';
import { UserError } from '../util/errors.ts';

/**
 * Refuses, before anything is computed, a path that `what` (`the grid`) cannot or should not be written to as a file of
 * this ending.
 */
export function checkWritable(flag: string, path: string, what: string, ending: string): void {
  if (!path.toLowerCase().endsWith(`.${ending}`)) {
    throw new UserError(
      `${flag} ${path} does not end in .${ending}: ${what} is written as ${ending.toUpperCase()}`,
    );
  }
  try {
    accessSync(dirname(path), constants.W_OK);
  } catch (error) {
    throw fileError(error, 'write', path);
  }
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) {
    throw new UserError(`${flag} ${path} is a folder, not a file`);
  }
}
