import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../util/errors.ts';
import {
  checkpointFolder,
  listCheckpoints,
  readCheckpoint,
  readNewestCheckpoint,
} from './checkpoint.ts';
import type { Checkpoint } from './checkpoint.ts';

/** Of a run that was evaluated while it trained: the checkpoint of the best evaluation. */
export function bestCheckpoint(run: string): string {
  return join(checkpointFolder(run), 'best.safetensors');
}

/**
 * A checkpoint of a run: the newest, the `best`, that of a step, or any file. Throws a `UserError` where it is not there, with
 * what is.
 */
export async function chooseCheckpoint(
  run: string,
  which: string | undefined,
): Promise<Checkpoint> {
  if (which === undefined) return readNewestCheckpoint(run);
  if (which === 'best') {
    const path = bestCheckpoint(run);
    if (existsSync(path)) return readCheckpoint(path);
    throw new UserError(
      `--checkpoint best: ${run} was never evaluated while it trained, so none is known to be the best; leave --checkpoint out for the newest`,
    );
  }
  const names = await listCheckpoints(run);
  const ofStep = names.find(
    (name) => /^\d+$/.test(which) && Number(/\d+/.exec(name)?.[0]) === Number(which),
  );
  const path = ofStep === undefined ? which : join(checkpointFolder(run), ofStep);
  if (existsSync(path)) return readCheckpoint(path);
  const there =
    names.length === 0 ? 'none' : names.map((name) => Number(/\d+/.exec(name)?.[0])).join(', ');
  throw new UserError(
    `--checkpoint ${which} is no file, and no step of which ${run} keeps a checkpoint; it has ${there}`,
  );
}
