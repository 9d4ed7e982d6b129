import { typeAs } from '../autograd/cast.ts';
import type { Tape } from '../autograd/tape.ts';
import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Module } from '../nn/module.ts';
import { add, mul, sub } from '../ops/pointwise.ts';
import { avgPool2d, upsampleNearest2x } from '../ops/resample.ts';
import { dim } from '../util/shape.ts';

/** When a net grows: 4×4 images for `stageSteps`; then each stage of twice the size fades in for as many, and stays as many. */
export interface Schedule {
  readonly imageSize: number;
  readonly stageSteps: number;
}

/** Where a net that grows stands. */
export interface Stage {
  /** 0 for images of 4×4, 1 for 8×8, … */
  readonly index: number;
  /** Part of the newest stage in an image: above 0, and 1 when it is whole. */
  readonly alpha: number;
}

const lastStage = (imageSize: number): number => Math.log2(imageSize / 4);

/** The stage of a training step, from 0. The last one stays for good. */
export function stageAt({ imageSize, stageSteps }: Schedule, step: number): Stage {
  if (step < stageSteps) return { index: 0, alpha: 1 };
  const stage = 1 + Math.floor((step - stageSteps) / (2 * stageSteps));
  const index = Math.min(stage, lastStage(imageSize));
  const within = step - stageSteps * (2 * index - 1);
  return { index, alpha: Math.min(1, (within + 1) / (stageSteps + 1)) };
}

/** Training steps until the last stage has stayed as long as the others. */
export function stepsToGrow({ imageSize, stageSteps }: Schedule): number {
  return stageSteps * (2 * lastStage(imageSize) + 1);
}

/** Of a net that grows: its block of each size, smallest first, and the layer at that size where images leave or enter it. */
export interface GrowingParts {
  readonly blocks: readonly Module[];
  readonly ends: readonly Module[];
}

/** The stage that a net is in (Karras et al. 2018): the last one, whole, until `begin`. */
export class Growth {
  /** What comes into the forward pass, and leaves it, as a whole. */
  readonly parts: readonly Module[];
  readonly #schedule: Schedule;
  readonly #of: GrowingParts;
  #stage: Stage;
  /** α of the newest stage, on the device: a captured step is replayed with other ones. */
  readonly #alpha: Tensor;

  constructor(tape: Tape, { imageSize, stageSteps }: Schedule, of: GrowingParts) {
    this.#schedule = { imageSize, stageSteps };
    this.#of = of;
    this.parts = [...of.blocks, ...of.ends];
    this.#stage = { index: lastStage(imageSize), alpha: 1 };
    this.#alpha = tensor(tape, [1], [1], { label: 'alpha' });
  }

  /** Of the newest block. */
  get index(): number {
    return this.#stage.index;
  }

  /** True while the newest block fades in, and images of the size before have a part. */
  get fading(): boolean {
    return this.#stage.alpha < 1;
  }

  /** Makes the net that of a training step, from 0. True where its forward pass is of other parts than before. */
  begin(step: number): boolean {
    const before = this.#stage;
    const now = (this.#stage = stageAt(this.#schedule, step));
    if (now.alpha !== before.alpha) this.#alpha.set(Float32Array.of(now.alpha));
    return now.index !== before.index || now.alpha < 1 !== before.alpha < 1;
  }

  /** The parts that are in the forward pass now. */
  get present(): Module[] {
    return this.parts.filter((part) => this.has(part));
  }

  /** Is a part in the forward pass now? */
  has(part: Module): boolean {
    const { blocks, ends } = this.#of;
    const end = ends.indexOf(part);
    if (end >= 0) return end === this.index || (this.fading && end === this.index - 1);
    return blocks.indexOf(part) <= this.index;
  }

  /** (1 − α)·old + α·fresh, of one shape. */
  fade(old: Tensor, fresh: Tensor): Tensor {
    return add(old, mul(sub(fresh, old), typeAs(this.#alpha, old)));
  }

  /** Real images (N, C, S, S) as the net now shows its own: averaged down to the size of the stage, and faded as the net is. */
  show(images: Tensor): Tensor {
    const factor = dim(images.shape, 2) / (4 * 2 ** this.index);
    const seen = factor === 1 ? images : avgPool2d(images, factor);
    return this.fading ? this.fade(upsampleNearest2x(avgPool2d(seen, 2)), seen) : seen;
  }

  /** A step that takes as much memory as any of so many: the last of them, or the one before that in which a stage still fades. */
  largest(steps: number): number {
    const { index, alpha } = stageAt(this.#schedule, steps - 1);
    return alpha < 1 || index === 0 ? steps - 1 : this.#schedule.stageSteps * 2 * index - 1;
  }

  /** The stage in words. */
  get text(): string {
    const { stageSteps: n, imageSize } = this.#schedule;
    const size = sizeText(4 * 2 ** this.index);
    if (this.fading) return `${size}, fading in over ${n} steps`;
    if (this.index === 0) {
      return `${size}, for ${n} of the ${stepsToGrow(this.#schedule)} steps to ${sizeText(imageSize)}`;
    }
    return this.index < lastStage(imageSize) ? `${size}, for ${n} steps` : `${size}, to the end`;
  }
}

const sizeText = (size: number): string => `${size}×${size}`;
