import { to } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { expand, reshape } from '../ops/layout.ts';
import { add, div, mul } from '../ops/pointwise.ts';
import { sum } from '../ops/reduce.ts';
import { resizeBilinear } from '../ops/resample.ts';
import { dim } from '../util/shape.ts';
import { ReLU, Sigmoid } from './activation.ts';
import { AttentionLayer } from './attention.ts';
import type { BlockOptions, Queries } from './attention.ts';
import { Conv2d } from './conv.ts';
import { Sequential } from './module.ts';
import { spectralNorm } from './weighted.ts';

export interface AttentionGeneratorOptions extends Omit<BlockOptions, 'bias'> {
  readonly outChannels: number;
  /** Width of the two convolutions before the gate. */
  readonly attentionChannels: number;
  /** Of all four convolutions. Default 3. */
  readonly kernelSize?: number;
  /** Default 1. */
  readonly stride?: number;
  /** Default 1. */
  readonly padding?: number;
}

/**
 * The seed's AttentionGenerator (system 12), a gate made by convolutions: a = sigmoid of conv-ReLU-conv-ReLU-conv, one
 * channel, resized bilinearly to x (N, C, H, W); y = relu(conv(x·a + x)). No biases. With stride 1 and padding for its
 * kernel y has the height and width of x.
 */
export class AttentionGenerator extends AttentionLayer {
  readonly #gate: Sequential;
  readonly #out: Sequential;

  constructor(tape: Tape, channels: number, options: AttentionGeneratorOptions) {
    super(tape);
    const {
      outChannels,
      attentionChannels: width,
      kernelSize = 3,
      stride = 1,
      padding = 1,
    } = options;
    const conv = (from: number, into: number) => {
      const made = new Conv2d(tape, from, into, {
        ...{ rng: options.rng, init: options.init, bias: false },
        ...{ kernelSize, stride, padding },
      });
      return options.spectral === true ? spectralNorm(made, { rng: options.rng }) : made;
    };
    const gate = [
      ...[conv(channels, width), new ReLU(tape), conv(width, width), new ReLU(tape)],
      ...[conv(width, 1), new Sigmoid(tape)],
    ];
    const out = [conv(channels, outChannels), new ReLU(tape)];
    this.#gate = this.child('conv_block', new Sequential(tape, gate));
    this.#out = this.child('conv_block2', new Sequential(tape, out));
  }

  override forward(x: Tensor): Tensor {
    return this.#out.forward(add(mul(x, this.gate(x)), x));
  }

  /** No position looks at another. */
  override readonly everywhere = true;

  /** The gate (N, 1, count, H, W) over its own sum, over and over. */
  override maps(x: Tensor, { count }: Queries): Tensor {
    const gate = to(this.gate(x), 'f32');
    const share = div(gate, sum(gate, [2, 3], { keepdim: true }));
    const [N = 1, , H = 1, W = 1] = share.shape;
    return expand(reshape(share, [N, 1, 1, H, W]), [N, 1, count, H, W]);
  }

  /** a (N, 1, H, W) in (0, 1). */
  gate(x: Tensor): Tensor {
    return resizeBilinear(this.#gate.forward(x), [dim(x.shape, 2), dim(x.shape, 3)]);
  }
}
