import {
  attentionBackwardOracle,
  attentionForwardOracle,
  maskedBackwardOracle,
  maskedForwardOracle,
} from './attention.ts';
import {
  linearBackwardOracle,
  linearForwardOracle,
  topkBackwardOracle,
  topkForwardOracle,
} from './attention-kinds.ts';
import { normGradsOracle, normStatsOracle } from './norm.ts';
import type { Oracle } from './oracle.ts';
import {
  convDataGradOracle,
  convForwardOracle,
  convWeightGradOracle,
  matmulOracle,
} from './products.ts';
import {
  crossEntropyOracle,
  layerNormBackwardOracle,
  layerNormOracle,
  softmaxBackwardOracle,
  softmaxOracle,
  spectralOracle,
} from './rows.ts';

const oracles: readonly Oracle[] = [
  matmulOracle,
  convForwardOracle,
  convDataGradOracle,
  convWeightGradOracle,
  attentionForwardOracle,
  attentionBackwardOracle,
  maskedForwardOracle,
  maskedBackwardOracle,
  topkForwardOracle,
  topkBackwardOracle,
  linearForwardOracle,
  linearBackwardOracle,
  softmaxOracle,
  softmaxBackwardOracle,
  normStatsOracle,
  normGradsOracle,
  spectralOracle,
  layerNormOracle,
  layerNormBackwardOracle,
  crossEntropyOracle,
];

/** What the ladder of that name must compute. Throws where nobody has said it. */
export function oracleOf(ladder: string): Oracle {
  const found = oracles.find((oracle) => oracle.ladder === ladder);
  if (found === undefined) throw new Error(`no oracle tells what the ladder ${ladder} computes`);
  return found;
}
