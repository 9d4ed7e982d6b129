// The small SAGAN of golden/golden_models.py, built from the nn modules under its PyTorch keys.
import { to } from '../../src/autograd/cast.ts';
import { grad } from '../../src/autograd/tape.ts';
import type { Tape } from '../../src/autograd/tape.ts';
import { tensor } from '../../src/autograd/tensor.ts';
import type { FloatType, Tensor } from '../../src/autograd/tensor.ts';
import { LeakyReLU, ReLU, Tanh } from '../../src/nn/activation.ts';
import { SelfAttention } from '../../src/nn/attention.ts';
import { Conv2d, ConvTranspose2d } from '../../src/nn/conv.ts';
import { Layer, Sequential } from '../../src/nn/module.ts';
import type { Module } from '../../src/nn/module.ts';
import { BatchNorm2d } from '../../src/nn/norm.ts';
import { loadState } from '../../src/nn/state.ts';
import { spectralNorm } from '../../src/nn/weighted.ts';
import { Adam } from '../../src/optim/adam.ts';
import { reshape } from '../../src/ops/layout.ts';
import { mul } from '../../src/ops/pointwise.ts';
import { losses } from '../../src/train/losses.ts';
import { HostRng } from '../../src/util/philox.ts';
import type { GoldenTensor } from '../golden/load.ts';

const rng = new HostRng(1);
const halve = { rng, kernelSize: 4, stride: 2, padding: 1 };

/** Children in order, under the names given. */
class Named extends Layer {
  readonly #order: readonly Layer[];

  constructor(tape: Tape, children: Readonly<Record<string, Layer>>) {
    super(tape);
    this.#order = Object.entries(children).map(([name, layer]) => this.child(name, layer));
  }

  override forward(x: Tensor): Tensor {
    return this.#order.reduce((h, layer) => layer.forward(h), x);
  }
}

/** latent 16 → 32@4×4 → 16@8×8 → attention → 3@16×16 */
export function smallGenerator(tape: Tape): Layer {
  const up = (from: number, to: number, options: typeof halve) =>
    new Sequential(tape, [
      spectralNorm(new ConvTranspose2d(tape, from, to, options), { rng }),
      new BatchNorm2d(tape, to),
      new ReLU(tape),
    ]);
  return new Named(tape, {
    l1: up(16, 32, { ...halve, stride: 1, padding: 0 }),
    l2: up(32, 16, halve),
    attn1: new SelfAttention(tape, 16, { rng }),
    last: new Sequential(tape, [new ConvTranspose2d(tape, 16, 3, halve), new Tanh(tape)]),
  });
}

/** 3@16×16 → 16@8×8 → attention → 32@4×4 → 1 */
export function smallDiscriminator(tape: Tape): Layer {
  const down = (from: number, to: number) =>
    new Sequential(tape, [
      spectralNorm(new Conv2d(tape, from, to, halve), { rng }),
      new LeakyReLU(tape, 0.1),
    ]);
  return new Named(tape, {
    l1: down(3, 16),
    attn1: new SelfAttention(tape, 16, { rng }),
    l2: down(16, 32),
    last: new Sequential(tape, [new Conv2d(tape, 32, 1, { rng, kernelSize: 4 })]),
  });
}

export type Golden = ReadonlyMap<string, GoldenTensor>;

/** Loads the tensors of a golden file whose names begin with `prefix`. */
export function loadPart(module: Module, golden: Golden, prefix: string): void {
  const own = [...golden]
    .filter(([key]) => key.startsWith(prefix))
    .map(([key, t]) => [key.slice(prefix.length), t] as const);
  loadState(module, new Map(own), `golden ${prefix}`);
}

export interface StepResult {
  readonly lossD: Tensor;
  readonly lossG: Tensor;
  readonly fake: Tensor;
  readonly dReal: Tensor;
  readonly dFake: Tensor;
  readonly gradsD: readonly Tensor[];
  readonly gradsG: readonly Tensor[];
}

/** Both nets at the golden file's start, their optimisers, and the inputs of a step. */
export class SmallSagan {
  readonly generator: Layer;
  readonly discriminator: Layer;
  readonly optimizerG: Adam;
  readonly optimizerD: Adam;
  readonly real: Tensor;
  readonly zD: Tensor;
  readonly zG: Tensor;
  readonly #golden: Golden;
  readonly #precision: FloatType;
  readonly #lossScale: number;

  /** Computes in `precision`; the gradients are times `lossScale`, which Adam all but leaves out of account. */
  constructor(
    tape: Tape,
    golden: Golden,
    { precision = 'f32', lossScale = 1 }: { precision?: FloatType; lossScale?: number } = {},
  ) {
    this.#golden = golden;
    this.#precision = precision;
    this.#lossScale = lossScale;
    this.generator = smallGenerator(tape);
    this.discriminator = smallDiscriminator(tape);
    loadPart(this.generator, golden, 'g.start.');
    loadPart(this.discriminator, golden, 'd.start.');
    const adam = (net: Module, lr: number) =>
      new Adam(tape, [{ params: net.namedParameters() }], { lr, betas: [0, 0.9] });
    this.optimizerG = adam(this.generator, 1e-4);
    this.optimizerD = adam(this.discriminator, 4e-4);
    const input = (label: string, shape: number[]) =>
      tensor(tape, new Float32Array(shape.reduce((a, b) => a * b, 1)), shape, { label });
    this.real = input('real', [4, 3, 16, 16]);
    this.zD = input('z_d', [4, 16, 1, 1]);
    this.zG = input('z_g', [4, 16, 1, 1]);
  }

  /** Puts the images and latents of golden step `i` in place. */
  feed(i: number): void {
    for (const [target, name] of [
      [this.real, 'real'],
      [this.zD, 'z_d'],
      [this.zG, 'z_g'],
    ] as const) {
      const { data } = this.#golden.get(name)!;
      target.set(data.slice(i * target.size, (i + 1) * target.size));
    }
  }

  /** One D step and one G step in the order of the golden file; launches only. */
  step(): StepResult {
    const { generator, discriminator, optimizerD, optimizerG } = this;
    const { tape } = generator;
    const given = (x: Tensor) => to(x, this.#precision);
    const score = (x: Tensor) => to(discriminator.forward(x), 'f32');
    const descent = (loss: Tensor, parameters: Tensor[]) =>
      grad([mul(loss, this.#lossScale)], parameters);
    const dReal = score(given(this.real));
    const fake = tape.noGrad(() => generator.forward(given(this.zD)));
    const dFake = score(fake);
    const lossD = losses.hinge.discriminator(dReal, dFake);
    const gradsD = descent(lossD, optimizerD.parameters());
    optimizerD.step(gradsD);
    const lossG = losses.hinge.generator(score(generator.forward(given(this.zG))));
    const gradsG = descent(lossG, optimizerG.parameters());
    optimizerG.step(gradsG);
    const scores = (t: Tensor) => reshape(t, [-1]);
    return { lossD, lossG, fake, dReal: scores(dReal), dFake: scores(dFake), gradsD, gradsG };
  }
}
