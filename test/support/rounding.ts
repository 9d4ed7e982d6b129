// What golden values may differ by from the float64 references.
import { type Budget, type Data, maxAbs } from '../reference/naive.ts';

/**
 * A golden value was computed in float64 and rounded once to float32: half an ulp, 2⁻²⁴ of the value at most. The floor is
 * for sums that cancel, where two float64 programs differ by some 2⁻⁵³ of their terms; `scale` is the size of those.
 */
export function rounding(ref: Data, scale = maxAbs(ref)): Budget {
  return { rel: 2 ** -24, abs: 1e-12 * scale + 2 ** -149 };
}
