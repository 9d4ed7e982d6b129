import { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Dataset } from '../data/dataset.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Program } from '../gpu/program.ts';
import { imageGrid } from '../io/png.ts';
import type { Picture } from '../io/png.ts';
import { UserError } from '../util/errors.ts';
import { sizeOf } from '../util/shape.ts';
import { createLearnerThatFits } from './capacity.ts';
import { restoreLearner } from './checkpoint.ts';
import type { Checkpoint } from './checkpoint.ts';
import type { TrainConfig } from './options.ts';
import { stepInputs } from './learner.ts';
import type { Learner, StepInput } from './learner.ts';
import { otherNetOf } from './nets.ts';
import { samplerBatch } from './sampler.ts';

/** Images of the data that a learner is to make again. */
export interface Originals {
  /** (n, C, S, S), bytes */
  readonly images: Uint8Array;
  /** (n) */
  readonly labels: Uint32Array;
}

/** In a picture of a run, and in a row of any. */
const pictureImages = 32;
const columns = 8;

/** Images spread evenly over a data set, the same ones each time: all classes of a sorted one have their part. */
export async function readOriginals(dataset: Dataset, n: number): Promise<Originals> {
  const { size, channels, imageSize } = dataset;
  const indices = Uint32Array.from({ length: n }, (_u, i) => Math.floor((i * size) / n));
  const images = new Uint8Array(n * channels * imageSize ** 2);
  await dataset.read(indices, images);
  return { images, labels: indices.map((index) => dataset.label(index)) };
}

/** What a run's pictures of reconstructions show; undefined for a learner that makes none. */
export async function originalsOf(
  learner: Learner,
  dataset: Dataset,
): Promise<Originals | undefined> {
  if (learner.reconstruct === undefined) return undefined;
  return readOriginals(dataset, Math.min(dataset.size, pictureImages));
}

/** Makes images again with a learner's nets as they are. */
export class Reconstructor {
  readonly #program: Program;
  readonly #input: StepInput;
  readonly #images: Tensor;
  readonly #batch: number;

  private constructor(program: Program, io: { input: StepInput; images: Tensor; batch: number }) {
    this.#program = program;
    this.#input = io.input;
    this.#images = io.images;
    this.#batch = io.batch;
  }

  /** Undefined for a learner that makes no image again. */
  static async open(learner: Learner): Promise<Reconstructor | undefined> {
    const { tape, config, reconstruct } = learner;
    if (reconstruct === undefined) return undefined;
    const batch = samplerBatch(config.batch);
    const [input] = stepInputs(learner, { batch });
    if (input === undefined) throw new Error('a step has no input');
    let images = input.images;
    const capture = tape.gpu.capture(() => {
      images = reconstruct(input, batch);
      return [images.storage];
    });
    return new Reconstructor(await capture.build(), { input, images, batch });
  }

  /** Images (n, C, S, S) in [−1, 1]. */
  async images({ images, labels }: Originals): Promise<Float32Array> {
    const { gpu } = this.#images.tape;
    const n = labels.length;
    const each = sizeOf(this.#images.shape) / this.#batch;
    const out = new Float32Array(n * each);
    for (let first = 0; first < n; first += this.#batch) {
      const bytes = new Uint8Array(this.#batch * each);
      bytes.set(images.subarray(first * each, (first + this.#batch) * each));
      gpu.write(this.#input.images.storage, bytes);
      const of = new Uint32Array(this.#batch);
      of.set(labels.subarray(first, first + this.#batch));
      this.#input.labels?.set(of);
      this.#program.run();
      const made = await this.#images.read();
      const wanted = Math.min(this.#batch, n - first);
      out.set(made.subarray(0, wanted * each), first * each);
    }
    return out;
  }

  close(): void {
    this.#program.destroy();
    const { images, labels } = this.#input;
    const { gpu } = images.tape;
    for (const input of [images, labels]) if (input !== undefined) gpu.release(input.storage);
  }
}

/** A row of originals above a row of what became of them, and so on. */
export async function drawReconstructions(
  reconstructor: Reconstructor,
  originals: Originals,
  { imageSize, channels }: Pick<TrainConfig, 'imageSize' | 'channels'>,
): Promise<Picture> {
  const n = originals.labels.length;
  const across = Math.min(n, columns);
  const each = channels * imageSize ** 2;
  const rows = 2 * Math.ceil(n / across);
  // A last row that is not full ends in paper.
  const tiles = new Float32Array(rows * across * each).fill(1);
  const place = (images: Float32Array, row: number) => {
    for (let first = 0; first < n; first += across) {
      const part = images.subarray(first * each, (first + across) * each);
      tiles.set(part, ((2 * first) / across + row) * across * each);
    }
  };
  place(
    Float32Array.from(originals.images, (byte) => (byte * 2) / 255 - 1),
    0,
  );
  place(await reconstructor.images(originals), 1);
  const size = { channels, height: imageSize, width: imageSize };
  return imageGrid(tiles, { n: rows * across, ...size, columns: across });
}

/** Throws a `UserError` for a run whose nets make no image again, before its data are opened. */
export function requireReconstruction({ path, config }: Checkpoint): void {
  if (otherNetOf(config.preset) === 'encoder') return;
  throw new UserError(
    `checkpoint ${path} is of ${config.preset}, which reconstructs nothing: that takes a VAE's encoder`,
  );
}

/**
 * Images of a data set with what a checkpoint's nets, as last trained, make of them. Throws a `UserError` where those are told
 * classes and the images are of others.
 */
export async function reconstructCheckpoint(
  gpu: Gpu,
  checkpoint: Checkpoint,
  { dataset, n }: { readonly dataset: Dataset; readonly n: number },
): Promise<Picture> {
  // f32 is what reconstructions are made in, and needs no feature of the device.
  const config = { ...checkpoint.config, precision: 'f32' as const };
  const { images, labels } = await readOriginals(dataset, Math.min(n, dataset.size));
  const originals = { images, labels: labels.map(labelIn(checkpoint, dataset)) };
  const learner = createLearnerThatFits(new Tape(gpu), config, { blank: true });
  restoreLearner(learner, checkpoint);
  const reconstructor = await Reconstructor.open(learner);
  if (reconstructor === undefined) throw new Error(`${config.preset} reconstructs nothing`);
  const picture = await drawReconstructions(reconstructor, originals, config);
  reconstructor.close();
  return picture;
}

/** The label that a run has for a class of a data set, by the name of the class. */
function labelIn({ path, config, progress }: Checkpoint, { name, classes }: Dataset) {
  const { classes: known } = progress;
  return (label: number): number => {
    if (!config.conditional || known === undefined) return label;
    const word = classes[label] ?? '';
    const found = known.indexOf(word);
    if (found >= 0) return found;
    throw new UserError(
      `${name} has images of class ${word}, and checkpoint ${path} knows ${known.join(', ')}`,
    );
  };
}
