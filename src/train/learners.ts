import type { Tape } from '../autograd/tape.ts';
import { presets } from '../models/presets.ts';
import type { TrainConfig } from './options.ts';
import { createGan } from './gan.ts';
import type { Learner } from './learner.ts';
import { createVae } from './vae.ts';

type Create = (tape: Tape, config: TrainConfig, options: { readonly blank?: boolean }) => Learner;

const creators = { gan: createGan, vae: createVae } as const satisfies Record<string, Create>;

/** What a config trains. `blank`: it holds nothing that is worth keeping, and waits for a checkpoint's values. */
export function createLearner(
  tape: Tape,
  config: TrainConfig,
  options: { readonly blank?: boolean } = {},
): Learner {
  const { kind } = presets[config.preset].family;
  return creators[kind](tape, config, options);
}
