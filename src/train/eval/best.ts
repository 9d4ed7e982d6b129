import { createReadStream, existsSync } from 'node:fs';
import { link, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { writeFileAtomic } from '../../io/atomic.ts';
import { fileError } from '../../io/errno.ts';
import { checkpointFolder, listCheckpoints, readCheckpoint } from '../checkpoint.ts';
import { bestCheckpoint } from '../choose-checkpoint.ts';
import type { Evaluation } from './evaluate.ts';
import { readEvaluations } from './lines.ts';

/** What two evaluations must have in common for their distances to be compared. */
const common = ['weights', 'n', 'real', 'data', 'resize', 'generator'] as const;
type Conditions = Pick<Evaluation, (typeof common)[number]>;

/** The Fréchet distance of an evaluation, whatever it is called in its features. */
export const distanceOf = ({ fd, fid }: Evaluation): number => fd ?? fid ?? Infinity;

/** The evaluation of the least distance among those made under the same conditions, the first of equal ones. */
export function bestOf(
  lines: readonly Evaluation[],
  conditions: Conditions,
): Evaluation | undefined {
  return lines
    .filter((line) => common.every((key) => line[key] === conditions[key]))
    .filter((line) => Number.isFinite(distanceOf(line)))
    .reduce<Evaluation | undefined>(
      (best, line) => (best === undefined || distanceOf(line) < distanceOf(best) ? line : best),
      undefined,
    );
}

/**
 * Keeps the checkpoint of a run's best evaluation, of those in eval.jsonl and the newest, as best.safetensors, which no newer
 * checkpoint pushes out: a second name for the same file where the file system has such, a copy elsewhere. Only a checkpoint that
 * is there, or is kept as the best already, can be it. Returns its evaluation. Throws a `UserError` where the file cannot be made;
 * the old one is whole then.
 */
export async function keepBest(run: string, newest: Evaluation): Promise<Evaluation | undefined> {
  const names = new Map(
    (await listCheckpoints(run)).map((name) => [Number(/\d+/.exec(name)?.[0]), name]),
  );
  const kept = await stepOfBest(run);
  const lines = [...readEvaluations(run), newest];
  const there = lines.filter(({ step }) => step === kept || names.has(step));
  const best = bestOf(there, newest);
  const name = names.get(best?.step ?? -1);
  if (best === undefined || name === undefined) return best;
  await putBeside(join(checkpointFolder(run), name), bestCheckpoint(run));
  return best;
}

/** The step of best.safetensors; undefined where there is none that is whole. */
async function stepOfBest(run: string): Promise<number | undefined> {
  try {
    return (await readCheckpoint(bestCheckpoint(run))).progress.step;
  } catch {
    return undefined;
  }
}

/** Gives a file another name in place of what had it: by a link, or by a copy where the file system refuses one. */
async function putBeside(from: string, to: string): Promise<void> {
  const temporary = join(to, '..', `.${basename(to)}.${process.pid}-0.tmp`);
  try {
    await rm(temporary, { force: true });
    await link(from, temporary);
  } catch {
    await writeFileAtomic(to, createReadStream(from));
    return;
  }
  try {
    await rename(temporary, to);
  } catch (error) {
    throw fileError(error, 'write', to);
  } finally {
    // Where both are names of one file already, rename leaves them both.
    if (existsSync(temporary)) await rm(temporary, { force: true });
  }
}
