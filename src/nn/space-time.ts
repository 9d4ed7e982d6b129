import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { reshape } from '../ops/layout.ts';
import { requirePlace } from './attention.ts';
import type { AttentionLayer } from './attention.ts';
import { clipSizes } from './clips.ts';
import { Layer } from './module.ts';

/** A position of a clip's feature map: frame, row, column. */
export type SpaceTimePlace = readonly [frame: number, row: number, column: number];

/**
 * Attention over all T·H·W positions of clips (system 18; Wang et al. 2018, non-local networks): x (N, C, T, H, W) → the
 * same. Frames on top of one another, a view (N, C, T·H, W), are an image to the block inside, and attention knows no
 * neighbours: every place of every frame looks at every other, by the block's own kernel, without the map of (T·H·W)²
 * weights. Right for every kind that is made of 1×1 convolutions. Keys are the block's, behind `block.`; its 1×1 weights are
 * those of torch.nn.Conv3d with two axes of one left out.
 */
export class SpaceTimeAttention extends Layer {
  readonly #block: AttentionLayer;

  constructor(tape: Tape, block: AttentionLayer) {
    super(tape);
    this.#block = this.child('block', block);
  }

  override forward(x: Tensor): Tensor {
    return reshape(this.#block.forward(tall(x)), x.shape);
  }

  /**
   * The weights (N, heads, T, H', W') by which a place gathers the values at the positions of the map, as
   * `AttentionLayer.map`. Throws a RangeError for a place outside x.
   */
  map(x: Tensor, [frame, row, column]: SpaceTimePlace): Tensor {
    const { N, T, H, W } = clipSizes(x);
    requirePlace([row, column], [H, W]);
    if (!Number.isInteger(frame) || frame < 0 || frame >= T) {
      throw new RangeError(`query of frame ${frame} lies outside the clip of ${T} frames`);
    }
    const map = this.#block.map(tall(x), [frame * H + row, column]);
    const [, heads = 1, , across = W] = map.shape;
    return reshape(map, [N, heads, T, -1, across]);
  }
}

/** (N, C, T, H, W) as (N, C, T·H, W), frame below frame: a view. */
function tall(x: Tensor): Tensor {
  const { N, C, T, H, W } = clipSizes(x);
  return reshape(x, [N, C, T * H, W]);
}
