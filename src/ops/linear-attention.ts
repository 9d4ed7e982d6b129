import { to, typeAs } from '../autograd/cast.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { attentionSizes } from './attention-common.ts';
import type { AttentionOptions } from './attention-common.ts';
import { matmul } from './matmul.ts';
import { div, eluPlusOne } from './pointwise.ts';
import { sum } from './reduce.ts';

/**
 * Attention whose weights are products of features φ(x) = elu(x) + 1 instead of exponentials, so that the keys are summed
 * once for all queries: out = φ(Q)·(φ(K)ᵀ·V) / (φ(Q)·Σ φ(K)). Shapes and layouts as `attention`'s; O(N·DK·DV) flops and
 * memory linear in N. It is made of plain ops, in f32 whatever comes in, and differentiates as often as they do.
 * After Katharopoulos et al. 2020.
 */
export function linearAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { layout = 'channel' }: Pick<AttentionOptions, 'layout'> = {},
): Tensor {
  attentionSizes('linearAttention', [q, k, v], layout);
  const [fq, fk, wide] = [featuresOf(q), featuresOf(k), to(v, 'f32')];
  if (layout === 'channel') {
    const values = matmul(matmul(wide, fk, { transB: true }), fq);
    const mass = matmul(sum(fk, [2], { keepdim: true }), fq, { transA: true });
    return typeAs(div(values, mass), q);
  }
  const values = matmul(fq, matmul(fk, wide, { transA: true }));
  const mass = matmul(fq, sum(fk, [1], { keepdim: true }), { transB: true });
  return typeAs(div(values, mass), q);
}

/** The weights [B, Nq, Nk], channel-major Q and K, that `linearAttention` never forms: for viewers, of few queries. */
export function linearAttentionMap(q: Tensor, k: Tensor): Tensor {
  const weights = matmul(featuresOf(q), featuresOf(k), { transA: true });
  return div(weights, sum(weights, [2], { keepdim: true }));
}

const featuresOf = (x: Tensor): Tensor => eluPlusOne(to(x, 'f32'));
