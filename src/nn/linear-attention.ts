import type { Tensor } from '../autograd/tensor.ts';
import { linearAttention, linearAttentionMap } from '../ops/linear-attention.ts';
import { residual } from '../ops/residual.ts';
import { SelfAttention } from './attention.ts';

/**
 * SelfAttention with φ(q)·φ(k) in the place of exponentials, φ(x) = elu(x) + 1 (system 17): its cost is linear in the
 * positions. Parameters and keys are SelfAttention's; the features have no scale.
 */
export class LinearSelfAttention extends SelfAttention {
  protected override mix(q: Tensor, k: Tensor, v: Tensor, shortcut: Tensor): Tensor {
    return residual(linearAttention(q, k, v), this.gamma, shortcut);
  }

  protected override weights(q: Tensor, k: Tensor): Tensor {
    return linearAttentionMap(q, k);
  }
}
