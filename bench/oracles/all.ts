import { attentionBackwardOracle, attentionForwardOracle } from './attention.ts';
import type { Oracle } from './oracle.ts';
import {
  convDataGradOracle,
  convForwardOracle,
  convWeightGradOracle,
  matmulOracle,
} from './products.ts';
import { softmaxBackwardOracle, softmaxOracle, spectralOracle } from './rows.ts';

const oracles: readonly Oracle[] = [
  matmulOracle,
  convForwardOracle,
  convDataGradOracle,
  convWeightGradOracle,
  attentionForwardOracle,
  attentionBackwardOracle,
  softmaxOracle,
  softmaxBackwardOracle,
  spectralOracle,
];

/** What the ladder of that name must compute. Throws where nobody has said it. */
export function oracleOf(ladder: string): Oracle {
  const found = oracles.find((oracle) => oracle.ladder === ladder);
  if (found === undefined) throw new Error(`no oracle tells what the ladder ${ladder} computes`);
  return found;
}

/** True if there is an oracle for the ladder of that name. */
export const hasOracle = (ladder: string): boolean => oracles.some((one) => one.ladder === ladder);
