import type { Tensor } from '../autograd/tensor.ts';
import { add, affine, neg, relu } from '../ops/pointwise.ts';
import { mean } from '../ops/reduce.ts';

/** An adversarial loss from the discriminator's scores (N, 1); each result has one element. */
export interface GanLoss {
  discriminator(real: Tensor, fake: Tensor): Tensor;
  generator(fake: Tensor): Tensor;
}

/**
 * Hinge (Lim & Ye 2017, Miyato 2018):
 *   D: mean(relu(1 − D(x))) + mean(relu(1 + D(G(z))))      G: −mean(D(G(z)))
 */
const hinge: GanLoss = {
  discriminator: (real, fake) =>
    add(mean(relu(affine(real, -1, 1))), mean(relu(affine(fake, 1, 1)))),
  generator: (fake) => neg(mean(fake)),
};

export const losses = { hinge } as const satisfies Record<string, GanLoss>;
export type LossName = keyof typeof losses;
