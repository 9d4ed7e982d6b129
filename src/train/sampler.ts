import { tensor } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Program } from '../gpu/program.ts';
import type { Net } from '../models/gan.ts';
import { copyInto } from '../ops/copy.ts';
import { Rng } from '../ops/random.ts';
import { upsampleNearest2x } from '../ops/resample.ts';
import { sizeOf } from '../util/shape.ts';

/** Passes that settle batch-norm statistics and power iterations of averaged weights. */
const settlingPasses = 20;
/** Key of the settling noise: the same for every run, so that samples depend on the weights alone. */
const settlingSeed = 0x5a6a4e;

/** Images in one run of a sampler's program, for a training batch. */
export function samplerBatch(batch: number): number {
  return Math.min(batch, 64);
}

/** The classes of a grid's images, a row of them a class, over and over. */
export function gridLabels(count: number, columns: number, classes: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_u, i) => Math.floor(i / columns) % classes);
}

/** What a sampler's images are made of. */
interface SamplerInput {
  /** (batch, latentSize) */
  readonly z: Tensor;
  /** (batch) u32, for a generator that is told classes. */
  readonly labels: Tensor | undefined;
  readonly classes: number;
  /** Side of the images; smaller ones, of a generator that grows, are enlarged to it, each pixel to a square. */
  readonly imageSize: number;
}

/**
 * The two programs of a sampler, not yet built: `evaluate` makes images of an input in evaluation mode, `settle` runs the
 * generator in training mode on noise of `rng` and classes drawn evenly.
 */
export function captureSampler(generator: Net, input: SamplerInput, rng: Rng) {
  const { z, labels, classes, imageSize } = input;
  const { tape } = generator;
  const settle = tape.gpu.capture(() =>
    tape.noGrad(() => {
      generator.train();
      const noise = rng.normal(z.shape);
      const drawn = labels === undefined ? undefined : rng.int(labels.shape, classes);
      const out = generator.forward(noise, drawn);
      rng.advance();
      return [out.storage];
    }),
  );
  let images = z;
  const evaluate = tape.gpu.capture(() =>
    tape.noGrad(() => {
      generator.eval();
      images = enlarged(generator.forward(z, labels), imageSize);
      return [images.storage];
    }),
  );
  return { evaluate, settle, images };
}

/** Smaller images enlarged to a side, each pixel to a square. */
export function enlarged(images: Tensor, size: number): Tensor {
  const [side = size] = images.shape.slice(-1);
  return side < size ? enlarged(upsampleNearest2x(images), size) : images;
}

/**
 * Makes images with a generator in evaluation mode. Averaged weights have no batch statistics of their own: `settle`
 * starts from those of the trained generator and runs training-mode passes on fixed noise until they fit.
 */
export class Sampler {
  readonly #generator: Net;
  readonly #input: SamplerInput;
  readonly #images: Tensor;
  readonly #evaluate: Program;
  readonly #settle: Program;
  readonly #rng: Rng;
  readonly #batch: number;

  private constructor(parts: {
    generator: Net;
    input: SamplerInput;
    images: Tensor;
    evaluate: Program;
    settle: Program;
    rng: Rng;
    batch: number;
  }) {
    this.#generator = parts.generator;
    this.#input = parts.input;
    this.#images = parts.images;
    this.#evaluate = parts.evaluate;
    this.#settle = parts.settle;
    this.#rng = parts.rng;
    this.#batch = parts.batch;
  }

  static async open(
    generator: Net,
    options: { batch: number; latentSize: number; classes: number; imageSize: number },
  ): Promise<Sampler> {
    const { batch, latentSize, classes, imageSize } = options;
    const { tape } = generator;
    const z = tensor(tape, new Float32Array(batch * latentSize), [batch, latentSize], {
      label: 'sample latents',
    });
    const rng = new Rng(tape, settlingSeed);
    const labels = classes === 0 ? undefined : tensor(tape, new Uint32Array(batch), [batch]);
    const input = { z, labels, classes, imageSize };
    const { evaluate, settle, images } = captureSampler(generator, input, rng);
    return new Sampler({
      generator,
      input,
      images,
      evaluate: await evaluate.build(),
      settle: await settle.build(),
      rng,
      batch,
    });
  }

  /** Settles the generator's buffers, starting from those of `from` (or from its own). */
  settle(from?: Net): void {
    if (from !== undefined) {
      const own = new Map(this.#generator.namedBuffers());
      for (const [name, value] of from.namedBuffers()) {
        const to = own.get(name);
        if (to !== undefined) copyInto(to, value);
      }
    }
    this.#rng.restore(0);
    for (let i = 0; i < settlingPasses; i++) this.#settle.run();
  }

  /**
   * Settles, and then gives batch norms the mean of their running statistics over `count` passes more, each on noise of its
   * own: standing statistics (Brock et al. 2019, §3), in which all but the last few passes weigh the same. False, and nothing
   * more than settled, for a generator without batch norm.
   */
  async stand(count: number, from?: Net): Promise<boolean> {
    this.settle(from);
    const kept = [...this.#generator.namedBuffers()]
      .filter(([name]) => /(^|\.)running_(mean|var)$/.test(name))
      .map(([, buffer]) => ({ buffer, sums: new Float64Array(buffer.size) }));
    if (kept.length === 0) return false;
    for (let pass = 0; pass < count; pass++) {
      this.#settle.run();
      for (const { buffer, sums } of kept) {
        const values = await buffer.read();
        values.forEach((v, i) => (sums[i] = (sums[i] ?? 0) + v));
      }
    }
    for (const { buffer, sums } of kept) buffer.set(Float32Array.from(sums, (sum) => sum / count));
    return true;
  }

  /**
   * Images (count, C, S, S) in [−1, 1] for latents (count, latentSize), and for labels (count) where the generator is told
   * classes.
   */
  async images(z: Float32Array, labels?: Uint32Array): Promise<Float32Array> {
    const latentSize = this.#input.z.size / this.#batch;
    const count = z.length / latentSize;
    const each = sizeOf(this.#images.shape) / this.#batch;
    const out = new Float32Array(count * each);
    for (let first = 0; first < count; first += this.#batch) {
      const part = new Float32Array(this.#input.z.size);
      part.set(z.subarray(first * latentSize, (first + this.#batch) * latentSize));
      this.#input.z.set(part);
      if (labels !== undefined) {
        const of = new Uint32Array(this.#batch);
        of.set(labels.subarray(first, first + this.#batch));
        this.#input.labels?.set(of);
      }
      this.#evaluate.run();
      const made = await this.#images.read();
      const wanted = Math.min(this.#batch, count - first);
      out.set(made.subarray(0, wanted * each), first * each);
    }
    return out;
  }

  /** Images that one run of the program makes. */
  get batch(): number {
    return this.#batch;
  }

  close(): void {
    this.#evaluate.destroy();
    this.#settle.destroy();
    const { z, labels } = this.#input;
    for (const input of [z, labels]) if (input !== undefined) z.tape.gpu.release(input.storage);
  }
}
