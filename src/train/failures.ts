import { UserError } from '../util/errors.ts';
import { optionName } from './check.ts';
import { NonFiniteError } from './checkpoint.ts';
import type { Learner } from './learner.ts';

/** A loss scale below this has fallen for so many steps that no scale will do. */
const leastLossScale = 2 ** -10;

/**
 * What is wrong with what a step reported, if anything: a number that is none, or a loss scale that keeps falling. `values`
 * are those of `watchedOf`; the step is counted from 1.
 */
export function problemOf(
  { reports, scalers = {} }: Pick<Learner, 'reports' | 'scalers'>,
  values: Float32Array,
  step: number,
): NonFiniteError | undefined {
  if (values.some((v) => !Number.isFinite(v))) {
    const named = reports.map((name, i) => `${name} ${String(values[i])}`).join(', ');
    return new NonFiniteError(`step ${step} gave ${named}`);
  }
  const scales = values.subarray(reports.length);
  const name = Object.keys(scalers)[scales.findIndex((scale) => scale < leastLossScale)];
  if (name === undefined) return undefined;
  const text = `step ${step}: gradients of ${name} overflow f16 whatever the loss scale`;
  return new NonFiniteError(`${text}; --precision f32 does without`);
}

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
