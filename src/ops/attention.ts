import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import {
  attention as attentionKernel,
  attentionBackward as backwardKernel,
} from '../kernels/attention.ts';
import { attentionSizes, placeOf } from './attention-common.ts';
import type { AttentionLayout, AttentionOptions, MaskOptions } from './attention-common.ts';
import { maskedAttention } from './masked-attention.ts';
import { matmul } from './matmul.ts';
import { softmax } from './softmax.ts';

interface HeadOptions {
  /** How many neighbours of the batch are heads of one item: what a mask may tell apart. Default 1. */
  readonly heads?: number;
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
    const inputs = [...saved, at(grads, 0) as Tensor];
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

/**
 * softmax(scale·Q·Kᵀ)·V. Q (B, DK, Nq), K (B, DK, Nk), V (B, DV, Nk) → (B, DV, Nq) channel-major; the last two axes
 * change places in sequence-major. Memory is linear in Nq and Nk.
 *
 * With a mask, or causal, keys are hidden from queries, and nothing of the map is stored but the mask that is given. A query
 * from which every key is hidden gets zeros, and gives no gradient (torch makes NaN of it). Throws a RangeError for a mask
 * that does not broadcast, or that requires a gradient.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions & MaskOptions & HeadOptions = {},
): Tensor {
  const { layout = 'channel', scale = 1, heads = 1, mask, causal = false } = options;
  if (mask !== undefined || causal) {
    return maskedAttention([q, k, v], mask, { layout, scale, heads, causal });
  }
  return at(attentionOp([q, k, v], { layout, scale }), 0);
}
