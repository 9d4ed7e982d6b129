import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import {
  fullMask,
  maskedAttention as forwardKernel,
  maskedAttentionBackward as backwardKernel,
} from '../kernels/masked-attention.ts';
import type { MaskedDims } from '../kernels/masked-attention.ts';
import { dim, showShape } from '../util/shape.ts';
import { attentionSizes, placeOf } from './attention-common.ts';
import type { AttentionLayout } from './attention-common.ts';
import { matmul } from './matmul.ts';
import { add, mul } from './pointwise.ts';
import { softmax } from './softmax.ts';

interface Attrs {
  readonly layout: AttentionLayout;
  readonly scale: number;
  readonly heads: number;
  readonly causal: boolean;
}

/** Inputs are query, key, value and, if there is one, the mask. */
function dimsOf(inputs: readonly Tensor[], attrs: Attrs): MaskedDims {
  const mask = inputs[3];
  const sizes = attentionSizes('attention', inputs, attrs.layout);
  const shape = mask === undefined ? [1, 1, 1, 1] : fourAxes(mask);
  return {
    ...{ ...sizes, ...attrs },
    mask: mask === undefined ? 'none' : mask.dtype === 'u32' ? 'boolean' : 'additive',
    ...{ maskItems: dim(shape, 0), maskHeads: dim(shape, 1) },
    ...{ maskQueries: dim(shape, 2), maskKeys: dim(shape, 3) },
  };
}

const fourAxes = ({ shape }: Tensor) => [1, 1, 1, 1, ...shape].slice(-4);

/** Where there is no mask the kernels look at none. */
const hidesOf = (inputs: readonly Tensor[]) => (inputs[3] ?? at(inputs, 0)).storage;

/** As the plain op, of the keys that each query may look at. */
const maskedOp = defineOp<Attrs>({
  name: 'maskedAttention',
  dtypes: ['float', 'float', 'float', 'any'],
  infer: (inputs, { layout }) => {
    const { B, Nq, DV } = attentionSizes('attention', inputs, layout);
    const out = { shape: layout === 'channel' ? [B, DV, Nq] : [B, Nq, DV] };
    return [out, { shape: [B, Nq], dtype: 'f32' }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    forwardKernel(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      hides: hidesOf(inputs),
      out: at(outputs, 0).storage,
      lse: at(outputs, 1).storage,
      ...dimsOf(inputs, attrs),
    });
  },
  saves: (inputs, outputs) => [...outputs, ...inputs],
  backward: ({ grads, saved, attrs, needs }) => {
    const inputs = [at(grads, 0) as Tensor, ...saved];
    const asked = needs.slice(0, 3);
    const all = once(() => maskedBackwardOp(inputs, { ...attrs, needs: asked }));
    return asked.map((_, i) => () => at(all(), placeOf(asked, i)));
  },
  composition: (inputs, attrs) => {
    const wide = (i: number) => to(at(inputs, i), 'f32');
    const [q, k, v] = [wide(0), wide(1), wide(2)];
    const channel = attrs.layout === 'channel';
    const [bias, shown] = fullOp([inputs[3] ?? q], { dims: dimsOf(inputs, attrs) }) as [
      Tensor,
      Tensor,
    ];
    const scores = matmul(q, k, { transA: channel, transB: !channel, alpha: attrs.scale });
    const map = mul(softmax(add(scores, bias)), shown);
    return [typeAs(channel ? matmul(v, map, { transB: true }) : matmul(map, v), at(inputs, 0))];
  },
});

/** The mask in full, [B, Nq, Nk]: what to add to scores, and 1 for the pairs that are shown, so that a row may be all zeros. */
const fullOp = defineOp<{ readonly dims: MaskedDims }>({
  name: 'fullMask',
  dtypes: 'any',
  infer: (_inputs, { dims: { B, Nq, Nk } }) => [
    { shape: [B, Nq, Nk], dtype: 'f32' },
    { shape: [B, Nq, Nk], dtype: 'f32' },
  ],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [bias, shown] = [at(outputs, 0).storage, at(outputs, 1).storage];
    fullMask(gpu, { hides: at(inputs, 0).storage, bias, shown, ...attrs.dims });
  },
});

/** Inputs are dOut, out, lse and those of the forward op; the gradients of q, k and v that are needed, in this order. */
const maskedBackwardOp = defineOp<Attrs & { readonly needs: readonly boolean[] }>({
  name: 'maskedAttentionBackward',
  dtypes: ['float', 'float', 'f32', 'float', 'float', 'float', 'any'],
  infer: (inputs, { needs }) =>
    inputs.slice(3, 6).flatMap(({ shape }, i) => (at(needs, i) ? [{ shape }] : [])),
  forward: (gpu, { inputs, outputs, attrs: { needs, ...attrs } }) => {
    const made = (i: number) => (at(needs, i) ? at(outputs, placeOf(needs, i)).storage : undefined);
    const given = inputs.slice(3);
    backwardKernel(gpu, {
      q: at(given, 0).storage,
      k: at(given, 1).storage,
      v: at(given, 2).storage,
      hides: hidesOf(given),
      out: at(inputs, 1).storage,
      lse: at(inputs, 2).storage,
      dOut: at(inputs, 0).storage,
      dq: made(0),
      dk: made(1),
      dv: made(2),
      ...dimsOf(given, attrs),
    });
  },
});

/** Attention with a mask, or causal: see `attention`. */
export function maskedAttention(
  [q, k, v]: readonly [Tensor, Tensor, Tensor],
  mask: Tensor | undefined,
  attrs: Attrs,
): Tensor {
  const { B, Nq, Nk } = attentionSizes('attention', [q, k, v], attrs.layout);
  const { heads } = attrs;
  if (!Number.isInteger(heads) || heads < 1 || B % heads !== 0) {
    throw new RangeError(`attention: ${heads} heads do not divide a batch of ${B}`);
  }
  if (mask === undefined) return at(maskedOp([q, k, v], attrs), 0);
  const whole = [B / heads, heads, Nq, Nk];
  const fits = fourAxes(mask).every((n, axis) => n === 1 || n === whole[axis]);
  if (mask.shape.length > 4 || !fits) {
    throw new RangeError(
      `attention: the mask is ${showShape(mask.shape)}; it must broadcast to ${showShape(whole)}, ` +
        'items by heads by queries by keys',
    );
  }
  if (mask.requiresGrad) {
    throw new RangeError(
      'attention: the mask requires a gradient, and none is made for it: give mask.detach()',
    );
  }
  const hides = mask.dtype === 'f16' ? to(mask, 'f32') : mask;
  return at(maskedOp([q, k, v, hides], attrs), 0);
}
