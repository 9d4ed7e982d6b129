import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { batchNorm } from '../ops/norm.ts';
import type { Activation } from '../ops/pointwise.ts';
import { Layer } from './module.ts';

export interface BatchNormLayerOptions {
  readonly eps?: number;
  readonly momentum?: number;
  /** Scale and shift per channel. Default true. */
  readonly affine?: boolean;
}

/** torch.nn.BatchNorm2d over [N, C, H, W] (or [N, C]): batch statistics in training, running ones in evaluation. */
export class BatchNorm2d extends Layer {
  readonly weight: Tensor | undefined;
  readonly bias: Tensor | undefined;
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  readonly #options: BatchNormLayerOptions;
  override readonly takesActivation = true;

  constructor(tape: Tape, features: number, options: BatchNormLayerOptions = {}) {
    super(tape);
    this.#options = options;
    const make = (name: string, value: number, requiresGrad: boolean) =>
      tensor(tape, new Float32Array(features).fill(value), [features], {
        label: name,
        requiresGrad,
      });
    if (options.affine ?? true) {
      this.weight = this.parameter('weight', make('weight', 1, true));
      this.bias = this.parameter('bias', make('bias', 0, true));
    }
    this.runningMean = this.buffer('running_mean', make('running_mean', 0, false));
    this.runningVar = this.buffer('running_var', make('running_var', 1, false));
  }

  override forward(x: Tensor, activation?: Activation): Tensor {
    const { weight, bias, runningMean, runningVar, training } = this;
    const state = { weight, bias, runningMean, runningVar, training };
    return batchNorm(x, { ...state, ...this.#options, activation });
  }
}
