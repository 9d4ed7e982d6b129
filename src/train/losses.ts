import type { Tensor } from '../autograd/tensor.ts';
import { hingeLoss } from '../ops/hinge.ts';
import { add, affine, neg, softplus, square, sub } from '../ops/pointwise.ts';
import { mean } from '../ops/reduce.ts';

/** An adversarial loss from the discriminator's scores (N, 1) before any sigmoid; each result has one element. */
export interface GanLoss {
  /** `smoothing`: how far below 1 the label of a real image lies, for a loss that `smooths`. Default 0. */
  discriminator(real: Tensor, fake: Tensor, smoothing?: number): Tensor;
  generator(fake: Tensor): Tensor;
  /** Does it tell real from made by labels that can be smoothed? */
  readonly smooths: boolean;
}

/**
 * Hinge (Lim & Ye 2017, Miyato et al. 2018):
 *   D: mean(relu(1 − D(x))) + mean(relu(1 + D(G(z))))      G: −mean(D(G(z)))
 */
const hinge: GanLoss = {
  discriminator: (real, fake) => hingeLoss(real, fake),
  generator: (fake) => neg(mean(fake)),
  smooths: false,
};

/**
 * Cross-entropy with labels 1 − s and 0, in the form that is finite for every score, softplus(x) = ln(1 + eˣ):
 *   −(1−s)·ln σ(x) − s·ln(1−σ(x)) = softplus(−x) + s·x,      −ln(1−σ(x)) = softplus(x)
 */
function crossEntropy(real: Tensor, fake: Tensor, smoothing = 0): Tensor {
  const ofReal = softplus(neg(real));
  const smoothed = smoothing === 0 ? ofReal : add(ofReal, affine(real, smoothing, 0));
  return add(mean(smoothed), mean(softplus(fake)));
}

/**
 * Binary cross-entropy, G non-saturating (Goodfellow et al. 2014, §3); one-sided smoothing of Salimans et al. 2016, §3.4:
 *   D: −mean(ln σ(D(x))) − mean(ln(1 − σ(D(G(z)))))      G: −mean(ln σ(D(G(z))))
 */
const bce: GanLoss = {
  discriminator: crossEntropy,
  generator: (fake) => mean(softplus(neg(fake))),
  smooths: true,
};

/** The same game as a minimax (Goodfellow et al. 2014, eq. 1): G: mean(ln(1 − σ(D(G(z))))), flat where D is sure. */
const bceMinimax: GanLoss = {
  ...bce,
  generator: (fake) => neg(mean(softplus(fake))),
};

/**
 * Least squares (Mao et al. 2017, eq. 9):
 *   D: ½·mean((D(x) − 1)²) + ½·mean(D(G(z))²)      G: ½·mean((D(G(z)) − 1)²)
 */
const lsgan: GanLoss = {
  discriminator: (real, fake) => add(halfSquare(affine(real, 1, -1)), halfSquare(fake)),
  generator: (fake) => halfSquare(affine(fake, 1, -1)),
  smooths: false,
};

function halfSquare(x: Tensor): Tensor {
  return affine(mean(square(x)), 0.5, 0);
}

/**
 * Wasserstein (Arjovsky et al. 2017); D has to be held Lipschitz, by spectral norm or by a gradient penalty:
 *   D: mean(D(G(z))) − mean(D(x))      G: −mean(D(G(z)))
 */
const wasserstein: GanLoss = {
  discriminator: (real, fake) => sub(mean(fake), mean(real)),
  generator: (fake) => neg(mean(fake)),
  smooths: false,
};

/** Every loss by the word that chooses it: `--loss bce`. */
export const losses = {
  hinge,
  bce,
  'bce-minimax': bceMinimax,
  lsgan,
  wasserstein,
} as const satisfies Record<string, GanLoss>;
export type LossName = keyof typeof losses;
export const lossNames = Object.keys(losses) as [LossName, ...LossName[]];
