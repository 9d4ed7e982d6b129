import type { Tensor } from '../autograd/tensor.ts';
import { add, affine, exp, mul, softplus, square, sub, tanh } from '../ops/pointwise.ts';
import { sum } from '../ops/reduce.ts';
import { dim } from '../util/shape.ts';

/**
 * −ln p(x|z) of every pixel but for a constant, from images x (N, C, S, S) in [−1, 1] and the decoder's result before its
 * tanh, of the same shape.
 */
export type ReconstructionLoss = (x: Tensor, logits: Tensor) => Tensor;

/** Normal with a variance of ½ round x̂ = tanh(logits): (x − x̂)². */
const mse: ReconstructionLoss = (x, logits) => square(sub(x, tanh(logits)));

/**
 * Bernoulli, of brightness t = (x + 1)/2 and probability σ(2·logits) = (x̂ + 1)/2, in the form that is finite for every logit:
 *   −t·ln p − (1 − t)·ln(1 − p) = softplus(2·logits) − t·2·logits = softplus(2·logits) − (x + 1)·logits
 */
const bce: ReconstructionLoss = (x, logits) =>
  sub(softplus(affine(logits, 2, 0)), mul(affine(x, 1, 1), logits));

/** Every reconstruction loss by the word that chooses it: `--reconstruction bce`. */
export const reconstructions = { mse, bce } as const satisfies Record<string, ReconstructionLoss>;
export type ReconstructionName = keyof typeof reconstructions;
export const reconstructionNames = Object.keys(reconstructions) as [
  ReconstructionName,
  ...ReconstructionName[],
];

/**
 * KL(q(z|x) ‖ N(0, 1)) of means and logarithms of variances (N, latent), the mean over the batch (Kingma & Welling 2014, app. B):
 *   ½·Σ(μ² + σ² − ln σ² − 1)
 */
export function divergence(mean: Tensor, logVar: Tensor): Tensor {
  const excess = affine(sub(add(square(mean), exp(logVar)), logVar), 1, -1);
  return affine(sum(excess), 0.5 / dim(mean.shape, 0), 0);
}
