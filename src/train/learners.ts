import type { Tape } from '../autograd/tape.ts';
import type { TrainConfig } from './config.ts';
import { createGan } from './gan.ts';
import type { Learner } from './learner.ts';

/** What a config trains. `blank`: it holds nothing that is worth keeping, and waits for a checkpoint's values. */
export function createLearner(
  tape: Tape,
  config: TrainConfig,
  options: { readonly blank?: boolean } = {},
): Learner {
  return createGan(tape, config, options);
}
