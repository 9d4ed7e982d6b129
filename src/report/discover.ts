import { createHash } from 'node:crypto';
import { existsSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileError } from '../io/errno.ts';
import { runPaths } from '../train/run-folder.ts';
import { UserError } from '../util/errors.ts';

/** A run folder that was found. */
export interface FoundRun {
  /** The same for the same folder as long as the folder is there, and fit for an address. */
  readonly id: string;
  /** Below the folder that was named; of a named run its own name. */
  readonly name: string;
  /** Absolute, without symbolic links. */
  readonly folder: string;
}

/** Folders below a named one are looked at so far down. */
const depth = 4;

/** Throws a `UserError` where one of the named folders is not there or is no folder. */
export function checkFolders(folders: readonly string[]): void {
  for (const folder of folders) {
    try {
      if (statSync(folder).isDirectory()) continue;
    } catch (error) {
      throw fileError(error, 'read', folder);
    }
    throw new UserError(`${folder} is a file, not a folder: name a run folder, or one of runs`);
  }
}

/** The runs that the named folders are or hold, each once. Symbolic links below them are not followed. */
export function findRuns(folders: readonly string[]): FoundRun[] {
  const found = new Map<string, FoundRun>();
  const several = folders.length > 1;
  for (const folder of folders) {
    if (!existsSync(folder)) continue;
    const root = realpathSync(folder);
    for (const way of waysToRuns(root, depth)) {
      const run = join(root, ...way);
      const parts = several || way.length === 0 ? [basename(root), ...way] : way;
      found.set(run, { id: idOf(run), name: parts.join('/'), folder: run });
    }
  }
  return [...found.values()];
}

function idOf(folder: string): string {
  return createHash('sha256').update(folder).digest('hex').slice(0, 12);
}

/** The ways down to the runs below a folder; a run holds no other runs. */
function waysToRuns(folder: string, down: number): string[][] {
  if (isRun(folder)) return [[]];
  if (down === 0) return [];
  return foldersIn(folder).flatMap((name) =>
    waysToRuns(join(folder, name), down - 1).map((way) => [name, ...way]),
  );
}

/** Does a folder hold what a run begins with? */
export function isRun(folder: string): boolean {
  const { config, metrics } = runPaths(folder);
  return existsSync(config) || existsSync(metrics);
}

/** Hidden folders, packages and what may not be read are passed over. */
function foldersIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name)
      .filter((name) => !name.startsWith('.') && name !== 'node_modules');
  } catch {
    return [];
  }
}
