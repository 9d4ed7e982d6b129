import type { Tensor } from '../autograd/tensor.ts';
import { hingeLoss } from '../ops/hinge.ts';
import { neg } from '../ops/pointwise.ts';
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
  discriminator: hingeLoss,
  generator: (fake) => neg(mean(fake)),
};

export const losses = { hinge } as const satisfies Record<string, GanLoss>;
export type LossName = keyof typeof losses;
