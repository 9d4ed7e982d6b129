import { UserError } from '../util/errors.ts';
import { optionName } from './check.ts';
import { NonFiniteError } from './checkpoint.ts';
import type { Learner } from './learner.ts';

/** An error of the same kind that says besides what is saved and how to go on from it. `saved`: the newest checkpoint. */
export function withWayOn(
  error: unknown,
  { run, saved, learner }: { run: string; saved: string | undefined; learner: Learner },
): unknown {
  if (!(error instanceof Error)) return error;
  const state =
    saved === undefined
      ? `${run} has no checkpoint yet: begin it again by --resume`
      : `${saved} is whole: go on from it by --resume`;
  const rates = error instanceof NonFiniteError ? ` with lower ${ratesOf(learner)}` : '';
  const text = `${error.message}; ${state}${rates}`;
  const options = { cause: error };
  return error instanceof UserError ? new UserError(text, options) : new Error(text, options);
}

/** The options of the learning rates: each is called after its optimiser. */
function ratesOf({ optimizers }: Learner): string {
  const names = Object.keys(optimizers);
  return names.map((name) => `--${optionName(`lr${name}`)}`).join(' and ');
}
