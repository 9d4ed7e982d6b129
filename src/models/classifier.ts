import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { LeakyReLU } from '../nn/activation.ts';
import { Conv2d } from '../nn/conv.ts';
import { Linear } from '../nn/linear.ts';
import { Layer, Sequential } from '../nn/module.ts';
import { BatchNorm2d } from '../nn/norm.ts';
import { reshape } from '../ops/layout.ts';
import { avgPool2d } from '../ops/resample.ts';
import type { HostRng } from '../util/philox.ts';
import { featureSizes } from './sizes.ts';

export interface ClassifierOptions {
  /** Side of the images in pixels, a power of two from 8. */
  readonly imageSize: number;
  readonly channels: 1 | 3;
  /** Channels of the features, halved at each size above 4×4. */
  readonly width: number;
  /** Classes that it tells apart; 0 where the images are all of one. */
  readonly classes: number;
}

/** Quarter turns that every image is told by, whatever its class. */
export const turns = 4;

/** The fewest channels of a layer, however large the images are. */
const fewestChannels = 16;
const slope = 0.2;

/**
 * A small convolutional net for measuring images: (N, channels, S, S) in [−1, 1] → features (N, width), by
 * [Conv 4, stride 2 → BN → LeakyReLU]… → 4×4 → mean over the positions; and from those, each by one linear layer, the logits of
 * the class and of how the image was turned.
 */
export class Classifier extends Layer {
  readonly #main: Sequential;
  /** Undefined without classes. */
  readonly #class: Linear | undefined;
  readonly #turn: Linear;

  constructor(
    tape: Tape,
    { imageSize, channels, width, classes }: ClassifierOptions,
    rng: HostRng,
  ) {
    super(tape);
    const channelsAt = (size: number) => Math.max(fewestChannels, (width * 4) / size);
    const layers = featureSizes(imageSize)
      .reverse()
      .flatMap((size, i): Layer[] => {
        const from = i === 0 ? channels : channelsAt(2 * size);
        const to = size === 4 ? width : channelsAt(size);
        const halve = { kernelSize: 4, stride: 2, padding: 1, bias: false, rng };
        const conv = new Conv2d(tape, from, to, halve);
        return [conv, new BatchNorm2d(tape, to), new LeakyReLU(tape, slope)];
      });
    this.#main = this.child('main', new Sequential(tape, layers));
    if (classes > 0) this.#class = this.child('class', new Linear(tape, width, classes, { rng }));
    this.#turn = this.child('turn', new Linear(tape, width, turns, { rng }));
  }

  /** Features (N, width). */
  override forward(x: Tensor): Tensor {
    return reshape(avgPool2d(this.#main.forward(x), 4), [x.shape[0] ?? 1, -1]);
  }

  /** Logits (N, classes) and (N, 4) of features (N, width). */
  heads(features: Tensor): { readonly class: Tensor | undefined; readonly turn: Tensor } {
    return { class: this.#class?.forward(features), turn: this.#turn.forward(features) };
  }
}
