import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import {
  linearAttention as forwardKernels,
  linearAttentionBackward as backwardKernels,
} from '../kernels/linear-attention.ts';
import { attentionSizes, placeOf } from './attention-common.ts';
import type { AttentionLayout, AttentionOptions } from './attention-common.ts';
import { matmul } from './matmul.ts';
import { div, eluPlusOne } from './pointwise.ts';
import { sum } from './reduce.ts';

interface Attrs {
  readonly layout: AttentionLayout;
}

/** out = φ(Q)·(φ(K)ᵀ·V) / (φ(Q)·Σ φ(K)); the second output is the sum of the keys, (φ(K)ᵀ·V, Σ φ(K)). */
const linearOp = defineOp<Attrs>({
  name: 'linearAttention',
  dtypes: 'float',
  infer: (inputs, { layout }) => {
    const { B, Nq, DK, DV } = attentionSizes('linearAttention', inputs, layout);
    const out = { shape: layout === 'channel' ? [B, DV, Nq] : [B, Nq, DV] };
    return [out, { shape: [B, DK, DV + 1], dtype: 'f32' }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    forwardKernels(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      out: at(outputs, 0).storage,
      state: at(outputs, 1).storage,
      ...attentionSizes('linearAttention', inputs, attrs.layout),
      ...attrs,
    });
  },
  saves: (inputs, outputs) => [...inputs, at(outputs, 1)],
  backward: ({ grads, saved, attrs, needs }) => {
    const inputs = [...saved, at(grads, 0) as Tensor];
    const all = once(() => linearBackwardOp(inputs, { ...attrs, needs }));
    return needs.map((_, i) => () => at(all(), placeOf(needs, i)));
  },
  composition: (inputs, { layout }) => {
    const [q, k] = [at(inputs, 0), at(inputs, 1)];
    const [fq, fk, v] = [featuresOf(q), featuresOf(k), to(at(inputs, 2), 'f32')];
    if (layout === 'channel') {
      const values = matmul(matmul(v, fk, { transB: true }), fq);
      const mass = matmul(sum(fk, [2], { keepdim: true }), fq, { transA: true });
      return [typeAs(div(values, mass), q)];
    }
    const values = matmul(fq, matmul(fk, v, { transA: true }));
    const mass = matmul(fq, sum(fk, [1], { keepdim: true }), { transB: true });
    return [typeAs(div(values, mass), q)];
  },
});

/** The gradients of q, k and v that are needed, in this order. */
const linearBackwardOp = defineOp<Attrs & { readonly needs: readonly boolean[] }>({
  name: 'linearAttentionBackward',
  dtypes: ['float', 'float', 'float', 'f32', 'float'],
  infer: (inputs, { needs }) =>
    inputs.slice(0, 3).flatMap(({ shape }, i) => (at(needs, i) ? [{ shape }] : [])),
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { needs } = attrs;
    const made = (i: number) => (at(needs, i) ? at(outputs, placeOf(needs, i)).storage : undefined);
    backwardKernels(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      state: at(inputs, 3).storage,
      dOut: at(inputs, 4).storage,
      dq: made(0),
      dk: made(1),
      dv: made(2),
      ...attentionSizes('linearAttention', inputs, attrs.layout),
      ...attrs,
    });
  },
});

/**
 * Attention whose weights are products of features φ(x) = elu(x) + 1 instead of exponentials, so that the keys are summed
 * once for all queries: out = φ(Q)·(φ(K)ᵀ·V) / (φ(Q)·Σ φ(K)). Shapes and layouts as `attention`'s; O(N·DK·DV) flops and
 * memory linear in N; features and sums are f32 whatever comes in. After Katharopoulos et al. 2020.
 */
export function linearAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { layout = 'channel' }: Pick<AttentionOptions, 'layout'> = {},
): Tensor {
  return at(linearOp([q, k, v], { layout }), 0);
}

/** The weights [B, Nq, Nk], channel-major Q and K, that `linearAttention` never forms: for viewers, of few queries. */
export function linearAttentionMap(q: Tensor, k: Tensor): Tensor {
  const weights = matmul(featuresOf(q), featuresOf(k), { transA: true });
  return div(weights, sum(weights, [2], { keepdim: true }));
}

const featuresOf = (x: Tensor): Tensor => eluPlusOne(to(x, 'f32'));
