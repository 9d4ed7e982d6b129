import { Tape } from '../../autograd/tape.ts';
import { join, special, tokenise } from '../../data/vocabulary.ts';
import type { Gpu } from '../../gpu/device.ts';
import { loadState } from '../../nn/state.ts';
import { Rng } from '../../ops/random.ts';
import { UserError } from '../../util/errors.ts';
import { partOf } from '../checkpoint.ts';
import type { Seq2SeqCheckpoint } from './checkpoint.ts';
import { Decoder } from './decode.ts';
import { createModel, lengthWithEnd } from './learner.ts';

/** A line as a run reads it. */
export interface SourceLine {
  readonly words: readonly number[];
  /** Those that the run did not learn. */
  readonly unknown: readonly string[];
}

/** Numbers of a line's words. Throws a `UserError` for an empty one, or one longer than the run's sequences. */
export function readLine({ config, source }: Seq2SeqCheckpoint, line: string): SourceLine {
  const tokens = tokenise(line.trim(), config.tokens);
  if (tokens.length === 0) throw new UserError('there is nothing to translate in an empty line');
  if (tokens.length > config.length) {
    throw new UserError(
      `"${line.trim()}" has ${tokens.length} ${config.tokens}; the run was trained on at most ${config.length}`,
    );
  }
  const words = source.encode(tokens);
  const unknown = tokens.filter((_word, i) => words[i] === special.unknown);
  return { words, unknown };
}

/** What a run makes of lines. */
export async function translateLines(
  gpu: Gpu,
  checkpoint: Seq2SeqCheckpoint,
  lines: readonly SourceLine[],
): Promise<string[]> {
  const { config, path, target } = checkpoint;
  const tape = new Tape(gpu);
  const model = createModel(tape, config, { ...checkpoint, noise: new Rng(tape, config.seed) });
  loadState(model, partOf(checkpoint, 'model'), `checkpoint ${path}`);
  const sizes = { batch: Math.min(lines.length, config.batch), length: lengthWithEnd(config) };
  const decoder = await Decoder.open(model, sizes);
  const found = await decoder.translate(lines.map(({ words }) => words));
  decoder.close();
  return found.map((words) => join(target.decode(words), config.tokens));
}
