import { ceilDiv, roundUp } from '../util/shape.ts';

/** A sum over R0 × R1 terms cut into parts that are summed by themselves and then joined in order. */
export interface Split {
  readonly parts: number;
  /** Parts along R1; parts / P1 along R0. */
  readonly P1: number;
  /** Terms of a part along R0 and along R1 (a multiple of 4 where R1 is cut). */
  readonly C0: number;
  readonly C1: number;
}

export interface SplitOptions {
  /** Threads (or workgroups) that there are without a cut. */
  readonly units: number;
  readonly R0: number;
  readonly R1: number;
  /** Threads (or workgroups) that keep the adapter busy. */
  readonly wanted: number;
  /** A part is worth its overhead from this many terms on. */
  readonly fewestTerms: number;
}

/** Cuts R0 first, then R1, into about as many parts as bring `units` up to `wanted`. */
export function splitTerms({ units, R0, R1, wanted, fewestTerms }: SplitOptions): Split {
  const parts = Math.min(Math.floor(wanted / units), Math.floor((R0 * R1) / fewestTerms));
  if (parts < 2) return { parts: 1, P1: 1, C0: R0, C1: R1 };
  const C0 = ceilDiv(R0, Math.min(R0, parts));
  const P0 = ceilDiv(R0, C0);
  const each = ceilDiv(R1, Math.max(1, Math.floor(parts / P0)));
  const C1 = Math.min(R1, roundUp(each, 4));
  const P1 = ceilDiv(R1, C1);
  return { parts: P0 * P1, P1, C0, C1 };
}

/** The smallest power of two that is at least `n`. */
export function powerOfTwoAbove(n: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, n)));
}
