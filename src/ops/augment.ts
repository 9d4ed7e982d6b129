import { at, defineOp, only } from '../autograd/op.ts';
import type { Op } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { augmentDraws, color, place } from '../kernels/augment.ts';
import { dim, sameShape, showShape } from '../util/shape.ts';

/** Random numbers that `diffAugment` takes for an image. */
export const drawsOfAnImage = augmentDraws;

/** What can be done to images, in the order in which it is. */
export const augmentations = ['color', 'translation', 'cutout'] as const;
export type Augmentation = (typeof augmentations)[number];

function check(inputs: readonly Tensor[]): [{ shape: readonly number[] }] {
  const [{ shape }, u] = [at(inputs, 0), at(inputs, 1)];
  const wanted = [shape[0] ?? 0, augmentDraws];
  if (shape.length < 4 || !sameShape(u.shape, wanted)) {
    throw new RangeError(
      `diffAugment: images ${showShape(shape)} must be (N, C, H, W) or (N, C, T, H, W), and their draws ${showShape(u.shape)} be ${showShape(wanted)}`,
    );
  }
  return [{ shape }];
}

/** y = A·x + b with a symmetric A, of the draws u:  dx = A·dy, the same without b. */
const colorOp: Op<{ linear: boolean }> = defineOp({
  name: 'augmentColor',
  dtypes: ['float', 'f32'],
  infer: check,
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [x, u, out] = [at(inputs, 0), at(inputs, 1), only(outputs)];
    const [N, C] = [dim(x.shape, 0), dim(x.shape, 1)];
    color(gpu, {
      ...{ x: x.storage, u: u.storage, out: out.storage, stored: x.stored },
      ...{ N, C, P: x.size / (N * C), ...attrs },
    });
  },
  saves: (inputs) => [at(inputs, 1)],
  backward: ({ grads, saved }) => [
    () => only(colorOp([at(grads, 0) as Tensor, at(saved, 0)], { linear: true })),
    undefined,
  ],
});

interface PlaceAttrs {
  readonly translation: boolean;
  readonly cutout: boolean;
  readonly adjoint: boolean;
}

/** y = A·x, of the draws u, whose elements are 0 and 1:  dx = Aᵀ·dy. */
const placeOp: Op<PlaceAttrs> = defineOp({
  name: 'augmentPlace',
  dtypes: ['float', 'f32'],
  infer: check,
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [x, u, out] = [at(inputs, 0), at(inputs, 1), only(outputs)];
    const [N, H, W] = [dim(x.shape, 0), dim(x.shape, -2), dim(x.shape, -1)];
    place(gpu, {
      ...{ x: x.storage, u: u.storage, out: out.storage, stored: x.stored },
      ...{ N, K: x.size / (N * H * W), H, W, ...attrs },
    });
  },
  saves: (inputs) => [at(inputs, 1)],
  backward: ({ grads, saved, attrs }) => [
    () => {
      const way = { ...attrs, adjoint: !attrs.adjoint };
      return only(placeOp([at(grads, 0) as Tensor, at(saved, 0)], way));
    },
    undefined,
  ],
});

/**
 * DiffAugment (Zhao et al. 2020): images (N, C, H, W), or clips (N, C, T, H, W) whose frames go alike, as a discriminator is
 * to see them: brightness, saturation and contrast; then a shift by up to an eighth, with middle grey (0) for what is
 * outside; then a square of half the size set to 0. `u` (N, 8) f32 in [0, 1) decides, an image a row. Differentiable in the images as
 * often as one likes. Throws a RangeError for other shapes.
 */
export function diffAugment(
  images: Tensor,
  u: Tensor,
  which: readonly Augmentation[] = augmentations,
): Tensor {
  const has = (name: Augmentation) => which.includes(name);
  const [translation, cutout] = [has('translation'), has('cutout')];
  const colored = has('color') ? only(colorOp([images, u], { linear: false })) : images;
  if (!translation && !cutout) return colored;
  return only(placeOp([colored, u], { translation, cutout, adjoint: false }));
}
