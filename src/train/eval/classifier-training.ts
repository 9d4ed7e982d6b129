import { grad } from '../../autograd/tape.ts';
import { Tape } from '../../autograd/tape.ts';
import { tensor } from '../../autograd/tensor.ts';
import { sha256 } from '../../data/fingerprint.ts';
import type { Dataset } from '../../data/dataset.ts';
import { Loader } from '../../data/loader.ts';
import type { Gpu } from '../../gpu/device.ts';
import { Classifier, turns } from '../../models/classifier.ts';
import type { ClassifierOptions } from '../../models/classifier.ts';
import { readState } from '../../nn/state.ts';
import type { HostTensor } from '../../nn/state.ts';
import { crossEntropy } from '../../ops/cross-entropy.ts';
import { imagesToFloat } from '../../ops/images.ts';
import { add } from '../../ops/pointwise.ts';
import { Adam } from '../../optim/adam.ts';
import { HostRng } from '../../util/philox.ts';
import { ceilDiv } from '../../util/shape.ts';
import { UserError } from '../../util/errors.ts';
import { ClassifierExtractor } from './classifier.ts';
import type { TrainedClassifier } from './classifier.ts';
import type { OnWork } from './dots.ts';

/** Everything but the data that decides the weights: a part of their name in the cache. */
export interface ClassifierRecipe {
  readonly version: number;
  readonly width: number;
  /** Of a set so small that these would go through it more than `mostEpochs` times, fewer. */
  readonly steps: number;
  readonly mostEpochs: number;
  readonly fewestSteps: number;
  readonly batch: number;
  /** At the first step; it falls evenly to 0 at the last. */
  readonly lr: number;
  readonly seed: number;
  /** The share of the images that is kept from training, and the most of them. */
  readonly heldOut: number;
  readonly mostHeldOut: number;
}

export const classifierRecipe: ClassifierRecipe = {
  version: 1,
  width: 128,
  steps: 400,
  mostEpochs: 20,
  fewestSteps: 20,
  batch: 64,
  lr: 2e-3,
  seed: 0,
  heldOut: 0.1,
  mostHeldOut: 1000,
};

/** Streams of the host's random numbers: first weights, and which images are kept from training. */
const stream = { weights: [0x434c, 0], heldOut: [0x434c, 1] } as const;

/**
 * Trains the classifier of a data set: Adam on the sum of two cross-entropies, of the class where there are classes, and of the
 * quarter turn that each image was given (Gidaris et al. 2018). The turns need no labels, and to tell them a net has to know
 * what is up in an image: where there is one class, or two that a colour tells apart, they alone make it look at shapes.
 * The seed decides every bit on a device. Throws a `UserError` for a data set that is too small to keep an image back.
 */
export async function trainClassifier(
  gpu: Gpu,
  dataset: Dataset,
  { recipe = classifierRecipe, onWork }: { recipe?: ClassifierRecipe; onWork?: OnWork } = {},
): Promise<TrainedClassifier> {
  const { channels, imageSize, classes } = dataset;
  const options = {
    ...{ channels, imageSize, width: recipe.width },
    classes: classes.length > 1 ? classes.length : 0,
  };
  const { kept, trained } = split(dataset, recipe);
  const state = await gpu.loans.during(() => fit(gpu, trained, { options, recipe, onWork }));
  const blank = { options, state, hash: hashOf(state), accuracy: {}, heldOut: kept.size };
  return { ...blank, accuracy: await gpu.loans.during(() => accuracyOf(gpu, blank, kept)) };
}

/** SHA-256 in hex of weights, whatever order a file has them in. */
export function hashOf(state: ReadonlyMap<string, HostTensor>): string {
  const sorted = [...state].sort(([a], [b]) => (a < b ? -1 : 1));
  const bytes = sorted.map(([, { data }]) =>
    Buffer.from(data.buffer, data.byteOffset, data.byteLength),
  );
  return sha256(Buffer.concat(bytes));
}

/** The images of a data set at some of its indices. */
function subset(dataset: Dataset, indices: Uint32Array): Dataset {
  const inside = (i: number) => indices[i] ?? 0;
  return {
    ...dataset,
    size: indices.length,
    read: (chosen, out) => dataset.read(Uint32Array.from(chosen, inside), out),
    label: (i) => dataset.label(inside(i)),
  };
}

/** The images that are kept from training, and the others. */
function split(dataset: Dataset, { heldOut, mostHeldOut, seed }: ClassifierRecipe) {
  const { size, name } = dataset;
  if (size < 2) {
    throw new UserError(`${name} has ${size} image; a classifier of it needs two at least`);
  }
  const order = new HostRng(seed, { stream: stream.heldOut }).permutation(size);
  const n = Math.min(mostHeldOut, Math.max(1, Math.floor(size * heldOut)));
  return { kept: subset(dataset, order.slice(0, n)), trained: subset(dataset, order.slice(n)) };
}

function stepsFor(size: number, recipe: ClassifierRecipe): number {
  const { steps, mostEpochs, fewestSteps, batch } = recipe;
  return Math.min(steps, Math.max(fewestSteps, ceilDiv(size * mostEpochs, batch)));
}

async function fit(
  gpu: Gpu,
  dataset: Dataset,
  parts: { options: ClassifierOptions; recipe: ClassifierRecipe; onWork?: OnWork | undefined },
): Promise<Map<string, HostTensor>> {
  const { options, recipe, onWork } = parts;
  const { batch, seed, lr } = recipe;
  const steps = stepsFor(dataset.size, recipe);
  const { channels, imageSize } = options;
  const tape = new Tape(gpu);
  const net = new Classifier(tape, options, new HostRng(seed, { stream: stream.weights }));
  const adam = new Adam(tape, [{ params: net.namedParameters() }], { lr });
  const each = channels * imageSize ** 2;
  const words = ceilDiv(batch * each, 4);
  const images = tensor(tape, new Uint32Array(words), [words], { label: 'images' });
  const labels = tensor(tape, new Uint32Array(batch), [batch], { label: 'classes' });
  const turned = tensor(tape, new Uint32Array(batch), [batch], { label: 'turns' });
  const capture = gpu.capture(() => {
    net.train();
    const x = imagesToFloat(images, [batch, channels, imageSize, imageSize]);
    const heads = net.heads(net.forward(x));
    const ofTurn = crossEntropy(heads.turn, turned);
    const loss =
      heads.class === undefined ? ofTurn : add(crossEntropy(heads.class, labels), ofTurn);
    adam.step(grad([loss], adam.parameters()));
    return [loss.storage];
  });
  const program = await capture.build();
  const loader = new Loader(dataset, { batch, seed });
  try {
    for (let step = 0; step < steps; step++) {
      const given = await loader.next();
      const { bytes, by } = turnedImages(given.images, { ...options, n: batch });
      for (const group of adam.groups) group.set({ lr: lr * (1 - step / steps) });
      gpu.write(images.storage, bytes);
      labels.set(given.labels);
      turned.set(by);
      program.run();
      // The host does not run far ahead, and what is told is done.
      if ((step + 1) % 10 === 0 || step + 1 === steps) {
        await gpu.sync();
        onWork?.(step + 1, steps);
      }
    }
    return await readState(net);
  } finally {
    await loader.close();
    program.destroy();
  }
}

/** Images [n, C, S, S], each turned to the left by as many quarters as its place says, over and over; and those numbers. */
export function turnedImages(
  images: Uint8Array,
  {
    n,
    channels,
    imageSize: size,
  }: Pick<ClassifierOptions, 'channels' | 'imageSize'> & { n: number },
): { readonly bytes: Uint8Array; readonly by: Uint32Array } {
  const bytes = new Uint8Array(images.length);
  const by = Uint32Array.from({ length: n }, (_u, i) => i % turns);
  const last = size - 1;
  const plane = size * size;
  for (let p = 0; p < n * channels; p++) {
    const quarters = by[Math.floor(p / channels)] ?? 0;
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const [fromY, fromX] = [
          [y, x],
          [x, last - y],
          [last - y, last - x],
          [last - x, y],
        ][quarters] as [number, number];
        bytes[p * plane + y * size + x] = images[p * plane + fromY * size + fromX] ?? 0;
      }
    }
  }
  return { bytes, by };
}

/** Shares of the images that a classifier is right about: of their classes upright, and of their turns. */
async function accuracyOf(
  gpu: Gpu,
  trained: TrainedClassifier,
  dataset: Dataset,
): Promise<Record<string, number>> {
  const { size: n, channels, imageSize } = dataset;
  const extractor = await ClassifierExtractor.open(gpu, trained);
  try {
    const upright = new Uint8Array(n * channels * imageSize ** 2);
    await dataset.read(
      Uint32Array.from({ length: n }, (_u, i) => i),
      upright,
    );
    const shape = { n, channels, size: imageSize };
    const { bytes, by } = turnedImages(upright, { n, channels, imageSize });
    const { turns: ofTurns } = await extractor.features({ bytes, ...shape });
    const turn = shareRight(ofTurns, (i) => by[i] ?? 0, n);
    const { probabilities } = await extractor.features({ bytes: upright, ...shape });
    if (probabilities === undefined) return { turn };
    return { class: shareRight(probabilities, (i) => dataset.label(i), n), turn };
  } finally {
    extractor.close();
  }
}

/** The share of rows whose largest number stands where it should. */
function shareRight(rows: Float32Array, wanted: (i: number) => number, n: number): number {
  const each = rows.length / n;
  let right = 0;
  for (let i = 0; i < n; i++) {
    const row = rows.subarray(i * each, (i + 1) * each);
    if (row.indexOf(Math.max(...row)) === wanted(i)) right += 1;
  }
  return right / n;
}
