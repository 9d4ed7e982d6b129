import { at } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { dim, showShape } from '../util/shape.ts';

/** Channel-major (B, D, N), as a 1×1 convolution writes it, or sequence-major (B, N, D). */
export type AttentionLayout = 'channel' | 'sequence';

export interface AttentionOptions {
  readonly layout?: AttentionLayout;
  /** Factor of the scores; SAGAN's is 1, a transformer's 1/√DK. */
  readonly scale?: number;
}

export interface MaskOptions {
  /**
   * Which keys a query may look at, in a shape that broadcasts to (B / heads, heads, Nq, Nk). As torch's: of u32, 0 hides a
   * key; of a float type it is added to the scores, and −∞ or the lowest float hides. It gets no gradient.
   */
  readonly mask?: Tensor | undefined;
  /** A query looks at no later position. Default false. */
  readonly causal?: boolean;
}

/** Where the i-th result is when only the needed ones are made. */
export function placeOf(needs: readonly boolean[], i: number): number {
  return needs.slice(0, i).filter(Boolean).length;
}

/** The sizes of query, key and value. Throws a RangeError that names the op for shapes that do not go together. */
export function attentionSizes(op: string, inputs: readonly Tensor[], layout: AttentionLayout) {
  const [q, k, v] = [at(inputs, 0).shape, at(inputs, 1).shape, at(inputs, 2).shape];
  const [d, n] = layout === 'channel' ? [1, 2] : [2, 1];
  const complain = (what: string) =>
    new RangeError(
      `${op}: query is ${showShape(q)}, key ${showShape(k)}, value ${showShape(v)} (${layout}-major); ${what}`,
    );
  if ([q, k, v].some((shape) => shape.length !== 3)) throw complain('each needs three axes');
  const [B, DK, Nq, Nk, DV] = [dim(q, 0), dim(q, d), dim(q, n), dim(k, n), dim(v, d)];
  if (dim(k, d) !== DK) throw complain(`query and key widths must agree: ${DK} ≠ ${dim(k, d)}`);
  if (dim(v, n) !== Nk) throw complain(`key and value lengths must agree: ${Nk} ≠ ${dim(v, n)}`);
  if (dim(k, 0) !== B || dim(v, 0) !== B) throw complain('the batches must agree');
  return { B, Nq, Nk, DK, DV, stored: at(inputs, 0).stored };
}
