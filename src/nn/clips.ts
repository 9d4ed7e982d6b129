import type { Tensor } from '../autograd/tensor.ts';
import { reshape, transpose } from '../ops/layout.ts';
import { dim, showShape } from '../util/shape.ts';
import { Sequential } from './module.ts';

/** The sizes of clips (N, C, T, H, W). Throws a RangeError for a tensor of other axes. */
export function clipSizes({ shape }: Pick<Tensor, 'shape'>) {
  if (shape.length !== 5) {
    throw new RangeError(`clips are ${showShape(shape)}; they must be (N, C, T, H, W)`);
  }
  const [N, C, T, H, W] = [0, 1, 2, 3, 4].map((axis) => dim(shape, axis));
  return { N: N ?? 0, C: C ?? 0, T: T ?? 0, H: H ?? 0, W: W ?? 0 };
}

/**
 * Layers of images, on every frame of clips alike: x (N, C, T, H, W) → (N, C', T, H', W'). A convolution R×S here is
 * torch.nn.Conv3d of 1×R×S, with its weight's axis of one left out.
 */
export class PerFrame extends Sequential {
  override forward(x: Tensor): Tensor {
    const { N, C, T, H, W } = clipSizes(x);
    const y = super.forward(reshape(transpose(x, 1, 2), [N * T, C, H, W]));
    return transpose(reshape(y, [N, T, ...y.shape.slice(1)]), 1, 2);
  }
}

/**
 * Layers of images over (N, C, T, H·W), a view of clips x (N, C, T, H, W), for kernels of one column: those of K×1 mix the
 * frames of each place, as torch.nn.Conv3d of K×1×1 does. → (N, C', T', H, W).
 */
export class OverTime extends Sequential {
  override forward(x: Tensor): Tensor {
    const { N, C, T, H, W } = clipSizes(x);
    const y = super.forward(reshape(x, [N, C, T, H * W]));
    return reshape(y, [...y.shape.slice(0, 3), H, W]);
  }
}
