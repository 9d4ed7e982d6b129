import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { Conv2d } from '../nn/conv.ts';
import { Layer } from '../nn/module.ts';
import { BatchNorm2d, ConditionalBatchNorm2d } from '../nn/norm.ts';
import { spectralNorm } from '../nn/weighted.ts';
import type { WeightOptions } from '../nn/weighted.ts';
import { add, relu } from '../ops/pointwise.ts';
import { avgPool2d, upsampleNearest2x } from '../ops/resample.ts';

/** A spectrally normalised convolution of stride 1 that keeps the size of the image. */
export function sameConv(
  tape: Tape,
  [from, to, kernelSize]: readonly [from: number, to: number, kernelSize: 1 | 3],
  options: WeightOptions,
): Conv2d {
  const padding = (kernelSize - 1) / 2;
  const conv = new Conv2d(tape, from, to, { ...options, kernelSize, padding });
  return spectralNorm(conv, { rng: options.rng });
}

export interface UpBlockOptions extends WeightOptions {
  /** Classes of the conditional batch norms; 0 makes them plain ones. */
  readonly classes: number;
}

/**
 * A residual block of the generator, x (N, from, H, W) and labels (N) → (N, to, 2H, 2W):
 *   norm → ReLU → nearest ×2 → conv 3×3 → norm → ReLU → conv 3×3      shortcut: nearest ×2 → conv 1×1
 * A 1×1 convolution sees one pixel at a time, so the shortcut's runs before its pixels are repeated, on a quarter of them.
 */
export class UpBlock extends Layer {
  readonly #norm1: BatchNorm2d | ConditionalBatchNorm2d;
  readonly #conv1: Conv2d;
  readonly #norm2: BatchNorm2d | ConditionalBatchNorm2d;
  readonly #conv2: Conv2d;
  readonly #shortcut: Conv2d;

  constructor(tape: Tape, from: number, to: number, { classes, ...options }: UpBlockOptions) {
    super(tape);
    const norm = (features: number) =>
      classes === 0
        ? new BatchNorm2d(tape, features)
        : new ConditionalBatchNorm2d(tape, features, { classes });
    this.#norm1 = this.child('bn1', norm(from));
    this.#conv1 = this.child('conv1', sameConv(tape, [from, to, 3], options));
    this.#norm2 = this.child('bn2', norm(to));
    this.#conv2 = this.child('conv2', sameConv(tape, [to, to, 3], options));
    this.#shortcut = this.child('conv_sc', sameConv(tape, [from, to, 1], options));
  }

  override forward(x: Tensor, labels?: Tensor): Tensor {
    const h = upsampleNearest2x(normRelu(this.#norm1, x, labels));
    const y = this.#conv2.forward(normRelu(this.#norm2, this.#conv1.forward(h), labels));
    return add(y, upsampleNearest2x(this.#shortcut.forward(x)));
  }
}

function normRelu(
  norm: BatchNorm2d | ConditionalBatchNorm2d,
  x: Tensor,
  labels: Tensor | undefined,
): Tensor {
  const activation = { name: 'relu' } as const;
  return norm instanceof BatchNorm2d
    ? norm.forward(x, activation)
    : norm.forward(x, labels, activation);
}

export interface DownBlockOptions extends WeightOptions {
  /** Halves the image. */
  readonly down: boolean;
  /** The block that images enter: they are not activated. Default false. */
  readonly first?: boolean;
}

/**
 * A residual block of the discriminator, x (N, from, H, W) → (N, to, H/2, W/2), or H and W where `down` is false:
 *   [ReLU →] conv 3×3 → ReLU → conv 3×3 [→ mean of 2×2]      shortcut: x itself, or conv 1×1 [→ mean of 2×2]
 * The shortcut has a convolution where the block changes the shape. A mean commutes with a 1×1 convolution, whose shortcut
 * takes it first, on a quarter of the pixels. What it adds is the input before the ReLU, which makes a new tensor.
 */
export class DownBlock extends Layer {
  readonly #conv1: Conv2d;
  readonly #conv2: Conv2d;
  readonly #shortcut: Conv2d | undefined;
  readonly #down: boolean;
  readonly #first: boolean;

  constructor(
    tape: Tape,
    from: number,
    to: number,
    { down, first = false, ...options }: DownBlockOptions,
  ) {
    super(tape);
    this.#down = down;
    this.#first = first;
    this.#conv1 = this.child('conv1', sameConv(tape, [from, to, 3], options));
    this.#conv2 = this.child('conv2', sameConv(tape, [to, to, 3], options));
    if (down || from !== to) {
      this.#shortcut = this.child('conv_sc', sameConv(tape, [from, to, 1], options));
    }
  }

  override forward(x: Tensor): Tensor {
    const pooled = (t: Tensor) => (this.#down ? avgPool2d(t, 2) : t);
    const h = this.#conv1.forward(this.#first ? x : relu(x));
    const y = pooled(this.#conv2.forward(relu(h)));
    const shortcut = pooled(x);
    return add(y, this.#shortcut?.forward(shortcut) ?? shortcut);
  }
}
