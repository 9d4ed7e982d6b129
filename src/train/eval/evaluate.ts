import { Tape } from '../../autograd/tape.ts';
import type { Dataset } from '../../data/dataset.ts';
import type { Gpu } from '../../gpu/device.ts';
import { toByte } from '../../io/png.ts';
import { UserError } from '../../util/errors.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { latents } from '../latents.ts';
import { openGenerator } from '../sample.ts';
import type { SampleWeights } from '../sample.ts';
import type { OnWork } from './dots.ts';
import type { Extractor, Features } from './extractor.ts';
import type { Measures, MetricName } from './measure.ts';
import { measureThreaded } from './measure-threaded.ts';
import { realFeatures, spreadOver } from './real-features.ts';

/** One line of eval.jsonl: what was measured of a run's checkpoint, and in what. */
export interface Evaluation extends Measures {
  readonly step: number;
  /** Seconds that it took. */
  readonly seconds: number;
  readonly extractor: string;
  /** SHA-256 in hex of the extractor's weights. */
  readonly weights: string;
  /** Shares that a classifier of our own is right about, of images that it was not trained on. */
  readonly accuracy?: Readonly<Record<string, number>> | undefined;
  /** Images made, and real images that they were measured against. */
  readonly n: number;
  readonly real: number;
  /** The fingerprint of the real images. */
  readonly data: string;
  readonly resize: string;
  /** Averaged weights of the generator, or those as last trained. */
  readonly generator: SampleWeights;
}

export interface EvaluateOptions {
  /** Images to make; as many real ones are looked at, or all where there are fewer. */
  readonly n: number;
  readonly generator: SampleWeights;
  readonly metrics: readonly MetricName[];
  readonly cacheDir: string;
  /** For each part of the work, in words, takes how far it is. */
  readonly onWork?: ((what: string) => OnWork) | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

/** Seed of the latents of every evaluation: what differs between two is the weights. */
const latentSeed = 0;

/** Throws a `UserError` for a run whose images these measures do not judge, before its data are opened. */
export function refuseEvaluation({ frames, preset }: Checkpoint['config']): void {
  if (frames === 1) return;
  throw new UserError(
    `${preset} makes clips of ${frames} frames, and these measures are of stills: they would not see how anything moves`,
  );
}

/**
 * Measures a checkpoint's generator against real images. A generator that is told classes makes them in the shares that the
 * real images have. Everything that it takes on the device is given back, and nothing of a training is touched. Throws a
 * `UserError` for too few images, or classes that the checkpoint does not know.
 */
export async function evaluateCheckpoint(
  gpu: Gpu,
  checkpoint: Checkpoint,
  { dataset, extractor }: { readonly dataset: Dataset; readonly extractor: Extractor },
  options: EvaluateOptions,
): Promise<Evaluation> {
  const started = performance.now();
  refuseFew({ n: options.n, dataset });
  const { n, metrics, onWork, log, cacheDir, generator } = options;
  const count = Math.min(n, dataset.size);
  const onReal = onWork?.('real images');
  const real = await realFeatures(extractor, dataset, count, { cacheDir, onWork: onReal, log });
  const labels = labelsOf(checkpoint, dataset, n);
  const making = { n, labels, weights: generator, onWork: onWork?.('made images') };
  const made = await gpu.loans.during(() => madeFeatures(gpu, checkpoint, extractor, making));
  const measures = await measureThreaded(extractor, { real, made }, metrics, onWork);
  return {
    step: checkpoint.progress.step,
    seconds: (performance.now() - started) / 1000,
    extractor: extractor.name,
    weights: extractor.weightsHash,
    ...(extractor.accuracy === undefined ? {} : { accuracy: extractor.accuracy }),
    ...{ n, real: count, data: dataset.fingerprint, resize: extractor.resize, generator },
    ...measures,
  };
}

/** The fewest images whose neighbours can be counted. */
const fewest = 6;

/** Throws a `UserError` for too few images of either kind. */
function refuseFew({ n, dataset }: { readonly n: number; readonly dataset: Dataset }): void {
  const { name, size } = dataset;
  if (n < fewest) throw new UserError(`${n} images are too few to measure; at least ${fewest}`);
  if (size < fewest) {
    throw new UserError(`${name} has ${size} images, too few to measure by; at least ${fewest}`);
  }
}

/**
 * Classes (n) for images in the shares of the real ones, for a generator that is told any; in an order of which every stretch
 * has these shares. Throws a `UserError` for a class that the checkpoint does not know.
 */
export function labelsOf(
  { config, progress, path }: Pick<Checkpoint, 'config' | 'progress' | 'path'>,
  dataset: Pick<Dataset, 'name' | 'classes' | 'size' | 'label' | 'listedLabel'>,
  n: number,
): Uint32Array | undefined {
  if (config.classes === 0) return undefined;
  const known = (progress.classes ?? dataset.classes).slice(0, config.classes);
  const sorted = spreadOver(dataset, n).map((place) => {
    const name = dataset.classes[dataset.listedLabel?.(place) ?? dataset.label(place)] ?? '';
    const label = known.indexOf(name);
    if (label >= 0) return label;
    throw new UserError(
      `${dataset.name} has images of class ${name}, and checkpoint ${path} knows ${known.join(', ')}`,
    );
  });
  // Images of a folder lie class by class. In steps of about n/φ every stretch has all classes in their shares.
  const stride = strideOver(n);
  return Uint32Array.from({ length: n }, (_u, i) => sorted[(i * stride) % n] ?? 0);
}

/** The first number from n/φ on that has no divisor in common with n: steps of it come to every place once. */
function strideOver(n: number): number {
  const common = (a: number, b: number): number => (b === 0 ? a : common(b, a % b));
  let stride = Math.max(1, Math.round(n * 0.618));
  while (common(stride, n) > 1) stride += 1;
  return stride;
}

async function madeFeatures(
  gpu: Gpu,
  checkpoint: Checkpoint,
  extractor: Extractor,
  making: {
    readonly n: number;
    readonly labels: Uint32Array | undefined;
    readonly weights: SampleWeights;
    readonly onWork: OnWork | undefined;
  },
): Promise<Features> {
  const { n, labels, weights, onWork } = making;
  const { latentSize, channels, imageSize: size } = checkpoint.config;
  const { sampler } = await openGenerator(new Tape(gpu), checkpoint, { weights });
  const z = latents(latentSeed, n, latentSize);
  const { featureSize, classCount = 0 } = extractor;
  const features = new Float32Array(n * featureSize);
  const probabilities = new Float32Array(n * classCount);
  try {
    for (let first = 0; first < n; first += extractor.batch) {
      const end = Math.min(n, first + extractor.batch);
      const images = await sampler.images(
        z.subarray(first * latentSize, end * latentSize),
        labels?.subarray(first, end),
      );
      const bytes = Uint8Array.from(images, toByte);
      const seen = await extractor.features({ bytes, n: end - first, channels, size });
      features.set(seen.features, first * featureSize);
      probabilities.set(seen.probabilities ?? [], first * classCount);
      onWork?.(end, n);
    }
  } finally {
    sampler.close();
  }
  return { features, probabilities: classCount > 0 ? probabilities : undefined };
}
