import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../../io/atomic.ts';
import type { Evaluation } from './evaluate.ts';

const pathOf = (run: string) => join(run, 'eval.jsonl');

/** The lines of a run's eval.jsonl, in the order in which they were written; any that cannot be read is left out. */
export function readEvaluations(run: string): Evaluation[] {
  const path = pathOf(run);
  if (!existsSync(path)) return [];
  return readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((text) => {
      try {
        const line = JSON.parse(text) as Evaluation | null;
        return typeof line === 'object' && line !== null ? [line] : [];
      } catch {
        return [];
      }
    });
}

/** Adds a line to a run's eval.jsonl. Throws a `UserError` where it cannot, as on a full disk; the others are whole then. */
export function appendEvaluation(run: string, line: Evaluation): Promise<void> {
  return writeEvaluations(run, [...readEvaluations(run), line]);
}

/** Takes back the evaluations of steps that a resumed run has yet to make. Returns those kept. */
export async function rewindEvaluations(run: string, step: number): Promise<Evaluation[]> {
  const all = readEvaluations(run);
  const kept = all.filter((line) => line.step <= step);
  if (kept.length < all.length) await writeEvaluations(run, kept);
  return kept;
}

function writeEvaluations(run: string, lines: readonly Evaluation[]): Promise<void> {
  return writeFileAtomic(pathOf(run), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
}
