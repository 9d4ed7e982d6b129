import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { conditionalBatchNorm } from '../ops/conditional-norm.ts';
import { batchNorm } from '../ops/norm.ts';
import type { Activation } from '../ops/pointwise.ts';
import { HostRng } from '../util/philox.ts';
import { Embedding } from './embedding.ts';
import { ones, zeros } from './init.ts';
import type { Init } from './init.ts';
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

/**
 * Batch norm whose scale and shift are those of each image's class: x [N, C, H, W], labels [N] (u32) → [N, C, H, W]. The
 * statistics are those of the whole batch, over all its classes. gain and bias are tables [classes, C] that begin at 1 and 0
 * and are not spectrally normalised, as in SAGAN's released code; keys bn.running_mean, bn.running_var, gain.weight and
 * bias.weight, as StudioGAN's.
 */
export class ConditionalBatchNorm2d extends Layer {
  readonly #bn: BatchNorm2d;
  readonly #options: Pick<BatchNormLayerOptions, 'eps' | 'momentum'>;
  readonly #gain: Embedding;
  readonly #bias: Embedding;

  constructor(
    tape: Tape,
    features: number,
    { classes, ...options }: Omit<BatchNormLayerOptions, 'affine'> & { readonly classes: number },
  ) {
    super(tape);
    this.#options = options;
    // The tables begin as constants: nothing is drawn.
    const rng = new HostRng(0);
    const table = (init: Init) => new Embedding(tape, classes, features, { rng, init });
    this.#bn = this.child('bn', new BatchNorm2d(tape, features, { ...options, affine: false }));
    this.#gain = this.child('gain', table(ones));
    this.#bias = this.child('bias', table(zeros));
  }

  /** Throws a RangeError without labels. */
  override forward(x: Tensor, labels?: Tensor, activation?: Activation): Tensor {
    if (labels === undefined) {
      throw new RangeError(
        'ConditionalBatchNorm2d: labels are missing; one class an image is needed',
      );
    }
    const { runningMean, runningVar } = this.#bn;
    return conditionalBatchNorm(x, {
      ...{ gain: this.#gain.forward(labels), bias: this.#bias.forward(labels) },
      ...{ runningMean, runningVar, training: this.training, activation },
      ...this.#options,
    });
  }
}
