import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import {
  mostKeys,
  topkAttention as forwardKernels,
  topkAttentionBackward as backwardKernels,
  topkMask,
} from '../kernels/topk-attention.ts';
import { dim, showShape } from '../util/shape.ts';
import { attentionSizes, placeOf } from './attention-common.ts';
import type { AttentionLayout, AttentionOptions } from './attention-common.ts';
import { matmul } from './matmul.ts';
import { add } from './pointwise.ts';
import { softmax } from './softmax.ts';

interface Attrs {
  readonly layout: AttentionLayout;
  readonly scale: number;
  readonly top: number;
}

/**
 * O = softmax(the `top` largest of scale·Q·Kᵀ in a row)·V without the N×N map; the other outputs are the chosen keys and
 * their weights, through which the backward pass goes. Which keys are chosen has no gradient.
 */
const topkOp = defineOp<Attrs>({
  name: 'topkAttention',
  dtypes: 'float',
  infer: (inputs, { layout, top }) => {
    const { B, Nq, Nk, DV } = attentionSizes('topkAttention', inputs, layout);
    if (!Number.isInteger(top) || top < 1 || top > Math.min(Nk, mostKeys)) {
      throw new RangeError(
        `topkAttention: k is ${top} of ${Nk} keys (key is ${showShape(at(inputs, 1).shape)}); it must be a whole number ` +
          `from 1 to ${Math.min(Nk, mostKeys)}`,
      );
    }
    return [
      { shape: layout === 'channel' ? [B, DV, Nq] : [B, Nq, DV] },
      { shape: [B, top, Nq], dtype: 'u32' },
      { shape: [B, top, Nq], dtype: 'f32' },
    ];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    forwardKernels(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      out: at(outputs, 0).storage,
      index: at(outputs, 1).storage,
      weight: at(outputs, 2).storage,
      ...attentionSizes('topkAttention', inputs, attrs.layout),
      ...attrs,
    });
  },
  saves: (inputs, outputs) => [...inputs, at(outputs, 1), at(outputs, 2)],
  backward: ({ grads, saved, attrs, needs }) => {
    const inputs = [...saved, at(grads, 0) as Tensor];
    const all = once(() => topkBackwardOp(inputs, { ...attrs, needs }));
    return needs.map((_, i) => () => at(all(), placeOf(needs, i)));
  },
  composition: (inputs, attrs) => {
    const wide = (i: number) => to(at(inputs, i), 'f32');
    const [map, v] = [topkMap(wide(0), wide(1), attrs), wide(2)];
    const out = attrs.layout === 'channel' ? matmul(v, map, { transB: true }) : matmul(map, v);
    return [typeAs(out, at(inputs, 0))];
  },
});

/** index u32 [B, top, Nq] → what to add to a map [B, Nq, Nk] so that only the chosen keys have weight. */
const maskOp = defineOp<{ readonly keys: number }>({
  name: 'topkMask',
  dtypes: ['u32'],
  infer: (inputs, { keys }) => {
    const [B, , Nq] = at(inputs, 0).shape;
    return [{ shape: [B ?? 1, Nq ?? 1, keys], dtype: 'f32' }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { storage: index, shape } = at(inputs, 0);
    const [B, top, Nq] = [dim(shape, 0), dim(shape, 1), dim(shape, 2)];
    topkMask(gpu, { index, bias: only(outputs).storage, B, Nq, Nk: attrs.keys, top });
  },
});

/** The map [B, Nq, Nk] that the kernels never store: softmax of the chosen scores, and 0 for the other keys. */
function topkMap(q: Tensor, k: Tensor, attrs: Attrs): Tensor {
  const channel = attrs.layout === 'channel';
  // No gradient goes through the choice; what it gathers here nobody reads.
  const keys = k.detach();
  const index = at(topkOp([q.detach(), keys, keys], attrs), 1);
  const bias = only(maskOp([index], { keys: dim(k.shape, channel ? 2 : 1) }));
  const scores = matmul(q, k, { transA: channel, transB: !channel, alpha: attrs.scale });
  return softmax(add(scores, bias));
}

/** The gradients of q, k and v that are needed, in this order. */
const topkBackwardOp = defineOp<Attrs & { readonly needs: readonly boolean[] }>({
  name: 'topkAttentionBackward',
  dtypes: ['float', 'float', 'float', 'u32', 'f32', 'float'],
  infer: (inputs, { needs }) =>
    inputs.slice(0, 3).flatMap(({ shape }, i) => (at(needs, i) ? [{ shape }] : [])),
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { needs } = attrs;
    const made = (i: number) => (at(needs, i) ? at(outputs, placeOf(needs, i)).storage : undefined);
    backwardKernels(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      index: at(inputs, 3).storage,
      weight: at(inputs, 4).storage,
      dOut: at(inputs, 5).storage,
      dq: made(0),
      dk: made(1),
      dv: made(2),
      ...attentionSizes('topkAttention', inputs, attrs.layout),
      ...attrs,
    });
  },
});

interface TopkOptions extends AttentionOptions {
  /** How many keys a query looks at: 1 to min(Nk, 64). */
  readonly k: number;
}

/**
 * Attention in which each query looks only at the k keys of the largest scores; of equal scores the lowest keys are chosen.
 * Shapes and layouts as `attention`'s. Memory is linear in Nq and Nk: key and weight of each chosen pair. Gradients go
 * through the chosen pairs alone. Throws a RangeError for another k.
 */
export function topkAttention(q: Tensor, k: Tensor, v: Tensor, options: TopkOptions): Tensor {
  return at(topkOp([q, k, v], attrsOf(options)), 0);
}

/** The weights [B, Nq, Nk] by which `topkAttention` gathers values: for viewers, of few queries. */
export function topkAttentionMap(q: Tensor, k: Tensor, options: TopkOptions): Tensor {
  return topkMap(to(q, 'f32'), to(k, 'f32'), attrsOf(options));
}

const attrsOf = ({ layout = 'channel', scale = 1, k }: TopkOptions): Attrs => ({
  layout,
  scale,
  top: k,
});
