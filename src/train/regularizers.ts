import { grad } from '../autograd/tape.ts';
import { Tensor } from '../autograd/tensor.ts';
import { add, affine, mul, sqrt, square, sub } from '../ops/pointwise.ts';
import type { Rng } from '../ops/random.ts';
import { mean, sum } from '../ops/reduce.ts';

/** What a penalty sees of one update of the discriminator. */
export interface PenaltyInput {
  /** The discriminator's scores (N, 1) of images, under the classes of the real ones. */
  readonly score: (images: Tensor) => Tensor;
  /** Images (N, C, S, S) or clips (N, C, T, S, S), f32: of the data, and made without a history. */
  readonly real: Tensor;
  readonly fake: Tensor;
  readonly rng: Pick<Rng, 'uniform'>;
}

/** A penalty on the discriminator's slope: a tensor of one element, which the loss grows by, times `--regularizer-weight`. */
export type Regularizer = (input: PenaltyInput) => Tensor;

/** Keeps the norm off 0, where it has no slope: a discriminator that is flat at an image is pushed nowhere by it. */
const leastSquare = 1e-12;

/**
 * WGAN-GP (Gulrajani et al. 2017, eq. 3): mean((‖∇D(x̂)‖ − 1)²) at x̂ = α·x + (1 − α)·G(z), a uniform α of its own for each
 * pair of images. Its weight is the paper's λ.
 */
const gp: Regularizer = ({ score, real, fake, rng }) => {
  const alpha = rng.uniform(real.shape.map((d, axis) => (axis === 0 ? d : 1)));
  const mixed = add(fake, mul(alpha, sub(real, fake)));
  const norm = sqrt(affine(squaredSlopes(score, mixed), 1, leastSquare));
  return mean(square(affine(norm, 1, -1)));
};

/** R1 (Mescheder et al. 2018, eq. 9): ½·mean(‖∇D(x)‖²) at the real images. Its weight is the paper's γ. */
const r1: Regularizer = ({ score, real }) => affine(mean(squaredSlopes(score, real)), 0.5, 0);

/**
 * ‖dD/dx‖² (N) of each image, recorded, so that its own gradient is a second derivative of D: every fused op is taken
 * apart into its composition. That of attention stores its N×N map, in f32 and more than once.
 */
function squaredSlopes(score: PenaltyInput['score'], images: Tensor): Tensor {
  const { tape, shape, storage } = images;
  const x = new Tensor(tape, { shape, storage, requiresGrad: true });
  const [slope = x] = grad([sum(score(x))], [x], { createGraph: true });
  return sum(
    square(slope),
    shape.slice(1).map((_d, i) => i + 1),
  );
}

/** Every penalty by the word that chooses it: `--regularizer gp`. */
export const regularizers = { gp, r1 } as const satisfies Record<string, Regularizer>;

export type RegularizerName = keyof typeof regularizers | 'none';
export const regularizerNames: readonly [RegularizerName, ...RegularizerName[]] = [
  'none',
  ...(Object.keys(regularizers) as (keyof typeof regularizers)[]),
];

/** The penalty of a name; none for 'none'. */
export function penaltyOf(name: RegularizerName, input: PenaltyInput): Tensor | undefined {
  return name === 'none' ? undefined : regularizers[name](input);
}
