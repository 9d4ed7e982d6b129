import type { DatasetOptions } from '../data/dataset.ts';
import type { TrainConfig } from './options.ts';

/** What a config says of its images, whatever source they are of. */
export function dataOptions(config: TrainConfig): Omit<DatasetOptions, 'cacheDir'> {
  const { imageSize, channels, resize, frames, strict, cache, cacheLimit } = config;
  const cacheBytes = cache ? cacheLimit * 2 ** 30 : 0;
  return { imageSize, channels, resize, frames, strict, cacheBytes };
}
