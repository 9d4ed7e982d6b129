import type { Dataset } from '../../data/dataset.ts';
import type { Gpu } from '../../gpu/device.ts';
import { UserError } from '../../util/errors.ts';
import { ClassifierExtractor } from './classifier.ts';
import { classifierOf, readClassifier } from './classifier-cache.ts';
import type { ClassifierSource } from './classifier-cache.ts';
import type { Extractor } from './extractor.ts';
import { openInception } from './inception.ts';

export interface ExtractorChoice extends ClassifierSource {
  /** Weights of a classifier that another machine trained; default the data set's own. */
  readonly classifier?: string | undefined;
  /** Weights of Inception instead. */
  readonly inception?: string | undefined;
}

/**
 * What images are to be measured in: a classifier of the data set's own, trained now if the cache has none, that of a
 * file, or Inception. Throws a `UserError` for a file that is none, or of images of another size.
 */
export async function openExtractor(
  gpu: Gpu,
  dataset: Dataset,
  { classifier, inception, ...source }: ExtractorChoice,
): Promise<Extractor> {
  if (inception !== undefined) return openInception(gpu, inception);
  if (classifier === undefined) {
    return ClassifierExtractor.open(gpu, await classifierOf(gpu, dataset, source));
  }
  const trained = await readClassifier(classifier);
  const sizes = [trained.options, dataset].map(
    ({ imageSize, channels }) => `${imageSize}×${imageSize} with ${channels} channels`,
  );
  if (sizes[0] !== sizes[1]) {
    throw new UserError(
      `--classifier ${classifier} is of images of ${sizes[0] ?? ''}, and the run's are ${sizes[1] ?? ''}`,
    );
  }
  return ClassifierExtractor.open(gpu, trained);
}
