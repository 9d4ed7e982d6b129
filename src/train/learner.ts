import { empty, tensor } from '../autograd/tensor.ts';
import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Net } from '../models/gan.ts';
import type { Module } from '../nn/module.ts';
import type { Rng } from '../ops/random.ts';
import type { Adam } from '../optim/adam.ts';
import type { GradScaler } from '../optim/scaler.ts';
import { sizeOf } from '../util/shape.ts';
import type { TrainConfig } from './options.ts';

/** What is trained: all that a checkpoint keeps, the step that moves it, and the net whose images are shown. */
export interface Learner {
  readonly tape: Tape;
  readonly config: TrainConfig;
  /** Modules by the word that their keys begin with in a checkpoint. */
  readonly modules: Readonly<Record<string, Module>>;
  readonly optimizers: Readonly<Record<string, Adam>>;
  /** Loss scales by optimiser, where the nets compute in f16. */
  readonly scalers: Readonly<Record<string, GradScaler>> | undefined;
  readonly rng: Rng;
  /** Latents → images, as trained. */
  readonly generator: Net;
  /** The same of averaged weights. */
  readonly average: Net;
  /** The numbers that every step reports, in the order in which they leave the GPU. */
  readonly reports: readonly string[];
  /** What is read once a line of metrics besides: state of the step that the line is written at. */
  readings(): readonly Reading[];
  /** Those of them that a chart and a terminal show, with their short names. */
  readonly shown: Readonly<Record<string, string>>;
  /** Sets what changes from step to step for the step about to run, from 0. True where that step is another program than the last. */
  begin(step: number): boolean;
  /** What that program is of a training whose steps differ, in words. */
  readonly stage?: string | undefined;
  /** A step of the run that takes as much memory as any; the last one where it is left out. */
  readonly largestStep?: number | undefined;
  /** One training step: the tensors of `reports`. Launches only, so it can be captured. */
  step(inputs: readonly StepInput[], batch?: number): Readonly<Record<string, Tensor | undefined>>;
  /** For a learner that makes the images it is given again: (batch, C, S, S) in [−1, 1] f32. Launches only. */
  readonly reconstruct?: (input: StepInput, batch: number) => Tensor;
}

/** Numbers of a step that hang on the net's inside: one name for each float. */
export interface Reading {
  readonly names: readonly string[];
  readonly of: Tensor;
}

/** What one update is given from outside. */
export interface StepInput {
  /** A batch of uint8 images (`imageShape`), four to a u32 word. */
  readonly images: Tensor;
  /** Their classes (batch) u32, where the nets are told them. */
  readonly labels: Tensor | undefined;
}

/** What a batch of images is: (batch, channels, S, S), or with frames (batch, channels, T, S, S). */
export function imageShape(
  { channels, frames, imageSize }: Pick<TrainConfig, 'channels' | 'frames' | 'imageSize'>,
  batch: number,
): number[] {
  return [batch, channels, ...(frames > 1 ? [frames] : []), imageSize, imageSize];
}

/** u32 words that hold a batch of uint8 images. */
export function imageWords(config: TrainConfig, batch: number): number {
  return Math.ceil(sizeOf(imageShape(config, batch)) / 4);
}

/** The inputs of a step, black images of class 0; `empty`: promises of them, for a step that is only traced. */
export function stepInputs(
  { tape, config }: Pick<Learner, 'tape' | 'config'>,
  { batch = config.batch, empty: promised = false }: { batch?: number; empty?: boolean } = {},
): StepInput[] {
  const make = (n: number, label: string) =>
    promised
      ? empty(tape, [n], { dtype: 'u32', label })
      : tensor(tape, new Uint32Array(n), [n], { label });
  return Array.from({ length: config.dSteps }, (_u, i) => ({
    images: make(imageWords(config, batch), `images ${i}`),
    labels: config.conditional ? make(batch, `labels ${i}`) : undefined,
  }));
}

/**
 * What a step shows, in the order in which it leaves the GPU: what it reports, then the loss scales if there are any, then
 * the learner's readings, as they are right after the step was launched.
 */
export function readingsOf(
  learner: Pick<Learner, 'reports' | 'scalers' | 'readings'>,
  values: Readonly<Record<string, Tensor | undefined>>,
): Reading[] {
  const { reports, scalers = {} } = learner;
  return [
    ...reports.flatMap((name) => {
      const of = values[name];
      return of === undefined ? [] : { names: [name], of };
    }),
    ...Object.entries(scalers).map(([name, { state }]) => ({
      ...{ names: [`lossScale${name}`], of: state },
    })),
    ...learner.readings(),
  ];
}

/** The storages of `readingsOf`: what must outlive a run of the captured step. */
export function watchedOf(
  learner: Pick<Learner, 'reports' | 'scalers' | 'readings'>,
  values: Readonly<Record<string, Tensor | undefined>>,
): Tensor['storage'][] {
  return readingsOf(learner, values).map(({ of }) => of.storage);
}
