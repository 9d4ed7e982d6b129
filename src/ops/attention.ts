import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import {
  attention as attentionKernel,
  attentionBackward as backwardKernel,
} from '../kernels/attention.ts';
import { dim, showShape } from '../util/shape.ts';
import { matmul } from './matmul.ts';
import { softmax } from './softmax.ts';

/** Channel-major (B, D, N), as a 1×1 convolution writes it, or sequence-major (B, N, D). */
export type AttentionLayout = 'channel' | 'sequence';

export interface AttentionOptions {
  readonly layout?: AttentionLayout;
  /** Factor of the scores; SAGAN's is 1, a transformer's 1/√DK. */
  readonly scale?: number;
}

export interface AttentionAttrs {
  readonly layout: AttentionLayout;
  readonly scale: number;
}

/**
 * O = softmax(scale·Q·Kᵀ)·V without the N×N map; the second output is the log-sum-exp of each query's scores,
 * from which the backward pass recomputes the map tile by tile.
 */
const attentionOp = defineOp<AttentionAttrs>({
  name: 'attention',
  dtypes: 'float',
  infer: (inputs, { layout }) => {
    const { B, Nq, DV } = attentionSizes('attention', inputs, layout);
    const out = { shape: layout === 'channel' ? [B, DV, Nq] : [B, Nq, DV] };
    return [out, { shape: [B, Nq], dtype: 'f32' }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    attentionKernel(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      out: at(outputs, 0).storage,
      lse: at(outputs, 1).storage,
      ...attentionSizes('attention', inputs, attrs.layout),
      ...attrs,
    });
  },
  saves: (inputs, outputs) => [...inputs, ...outputs],
  backward: ({ grads, saved, attrs, needs }) => {
    // It may have come in f32 to a result in f16.
    const dOut = typeAs(at(grads, 0) as Tensor, at(saved, 0));
    const inputs = [...saved, dOut];
    const all = once(() => attentionBackwardOp(inputs, { ...attrs, needs }));
    return needs.map((_, i) => () => at(all(), placeOf(needs, i)));
  },
  composition: (inputs, attrs) => [attentionPlainly(inputs, attrs)],
});

/** By way of the map, which is f32, as the fused kernels' scores are. */
export function attentionPlainly(
  inputs: readonly Tensor[],
  { layout, scale }: AttentionAttrs,
): Tensor {
  const wide = (i: number) => to(at(inputs, i), 'f32');
  const [q, k, v] = [wide(0), wide(1), wide(2)];
  const out =
    layout === 'channel'
      ? matmul(v, softmax(matmul(q, k, { transA: true, alpha: scale })), { transB: true })
      : matmul(softmax(matmul(q, k, { transB: true, alpha: scale })), v);
  return typeAs(out, at(inputs, 0));
}

/** The gradients of q, k and v that are needed, in this order. */
export const attentionBackwardOp = defineOp<
  AttentionAttrs & { readonly needs: readonly boolean[] }
>({
  name: 'attentionBackward',
  dtypes: ['float', 'float', 'float', 'float', 'f32', 'float'],
  infer: (inputs, { needs }) =>
    inputs.slice(0, 3).flatMap(({ shape }, i) => (at(needs, i) ? [{ shape }] : [])),
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { needs } = attrs;
    const made = (i: number) => (at(needs, i) ? at(outputs, placeOf(needs, i)).storage : undefined);
    backwardKernel(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      out: at(inputs, 3).storage,
      lse: at(inputs, 4).storage,
      dOut: at(inputs, 5).storage,
      dq: made(0),
      dk: made(1),
      dv: made(2),
      ...attentionSizes('attention', inputs, attrs.layout),
      ...attrs,
    });
  },
});

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

/**
 * softmax(scale·Q·Kᵀ)·V. Q (B, DK, Nq), K (B, DK, Nk), V (B, DV, Nk) → (B, DV, Nq) channel-major; the last two axes
 * change places in sequence-major. Memory is linear in Nq and Nk.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  return at(
    attentionOp([q, k, v], { layout: options.layout ?? 'channel', scale: options.scale ?? 1 }),
    0,
  );
}
