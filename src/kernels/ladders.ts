import { attentionBackwardLadder, attentionForwardLadder } from './attention.ts';
import { convDataGradLadder, convForwardLadder, convWeightGradLadder } from './conv.ts';
import { crossEntropyLadder } from './cross-entropy.ts';
import { layerNormBackwardLadder, layerNormForwardLadder } from './layer-norm.ts';
import { linearBackwardLadder, linearForwardLadder } from './linear-attention.ts';
import { maskedBackwardLadder, maskedForwardLadder } from './masked-attention.ts';
import { matmulLadder } from './matmul.ts';
import { normGradsLadder, normStatsLadder } from './norm-sums.ts';
import type { Ladder, Rung } from './rung.ts';
import { softmaxBackwardLadder, softmaxForwardLadder } from './softmax.ts';
import { powerIterationLadder } from './spectral.ts';
import { topkBackwardLadder, topkForwardLadder } from './topk-attention.ts';

/** A ladder whose sizes and arguments are its own business; who has its name has the sizes that go with it. */
export type AnyLadder = Ladder<object, unknown>;
export type AnyRung = Rung<object, unknown>;

/** Every operation that a bench compares and a tuner tries; some have one rung, beside other ways to the same end. */
export const ladders: readonly AnyLadder[] = [
  matmulLadder,
  convForwardLadder,
  convDataGradLadder,
  convWeightGradLadder,
  attentionForwardLadder,
  attentionBackwardLadder,
  maskedForwardLadder,
  maskedBackwardLadder,
  topkForwardLadder,
  topkBackwardLadder,
  linearForwardLadder,
  linearBackwardLadder,
  softmaxForwardLadder,
  softmaxBackwardLadder,
  normStatsLadder,
  normGradsLadder,
  powerIterationLadder,
  layerNormForwardLadder,
  layerNormBackwardLadder,
  crossEntropyLadder,
];

/** The ladder of that name. Throws if there is none. */
export function ladderNamed(name: string): AnyLadder {
  const found = ladders.find((ladder) => ladder.name === name);
  if (found === undefined) throw new Error(`there is no ladder ${name}`);
  return found;
}
