import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import type { Checkpoint } from '../train/checkpoint.ts';
import { chooseCheckpoint } from '../train/choose-checkpoint.ts';
import type { SampleWeights } from '../train/sample.ts';
import { UserError } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';
import { someText } from './options.ts';

/** What every command that makes images is told of the generator. */
export interface GeneratorFlags {
  readonly run: string;
  readonly checkpoint?: string;
  readonly weights: string;
}

/** The options of `GeneratorFlags`. */
export function addGeneratorOptions(command: Command): Command {
  return command
    .requiredOption('--run <dir>', 'run folder that train wrote', someText)
    .option(
      '--checkpoint <which>',
      'a step, a file, or best (of the evaluations while training); default the newest',
      someText,
    )
    .option('--weights <which>', 'ema (averaged, default) or last', 'ema');
}

/** The checkpoint of these flags. Throws a `UserError` where there is none. */
export async function openChosen(
  flags: GeneratorFlags,
): Promise<{ readonly checkpoint: Checkpoint; readonly weights: SampleWeights }> {
  const { run, weights, checkpoint } = flags;
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  if (weights !== 'ema' && weights !== 'last') {
    throw new UserError(`--weights ${weights} is unknown; there are ema and last`);
  }
  return { checkpoint: await chooseCheckpoint(run, checkpoint), weights };
}

/** The number of a class, by its name or number. Throws a `UserError` for one that there is not, or of a run that is told none. */
export function classNumber(asked: string, run: string, checkpoint: Checkpoint): number {
  const { config, progress } = checkpoint;
  if (config.classes === 0) {
    throw new UserError(`--class ${asked}: ${run} was trained without --conditional`);
  }
  const names = progress.classes ?? [];
  const named = names.indexOf(asked);
  const label = named >= 0 ? named : /^\d+$/.test(asked) ? Number(asked) : -1;
  if (label >= 0 && label < config.classes) return label;
  const there = names.length > 0 ? names.join(', ') : `0 to ${config.classes - 1}`;
  throw new UserError(`--class ${unknownWord(asked, names, there)}`);
}
