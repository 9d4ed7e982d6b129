import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Dataset } from '../../data/dataset.ts';
import { fingerprintOf, sha256 } from '../../data/fingerprint.ts';
import { errorCode, fileError } from '../../io/errno.ts';
import { readSafetensors, writeSafetensors } from '../../io/safetensors.ts';
import { UserError, messageOf } from '../../util/errors.ts';
import { evalFolder } from './classifier-cache.ts';
import type { ClassifierSource } from './classifier-cache.ts';
import type { Extractor, Features } from './extractor.ts';

/** Positions of `n` images spread evenly over a data set: every class and folder of it has its share. */
export function spreadOver({ size }: Pick<Dataset, 'size'>, n: number): number[] {
  return Array.from({ length: n }, (_u, i) => Math.floor((i * size) / n));
}

/**
 * Features of n images of a data set, spread evenly over it; kept in the cache folder by what the images and the extractor's
 * weights are, under no name of either. A file there that is damaged is made anew.
 */
export async function realFeatures(
  extractor: Extractor,
  dataset: Dataset,
  n: number,
  { cacheDir, onWork, log }: ClassifierSource,
): Promise<Features> {
  const { featureSize } = extractor;
  const path = featuresPath(extractor, dataset, n, cacheDir);
  const kept = await readFeatures(path, n * featureSize).catch((error: unknown) => {
    const missing = error instanceof UserError && errorCode(error.cause) === 'ENOENT';
    if (!missing) log?.(`${messageOf(error)}; the real images are looked at again`);
    return undefined;
  });
  if (kept !== undefined) return { features: kept };
  const features = new Float32Array(n * featureSize);
  const places = spreadOver(dataset, n);
  const { channels, imageSize: size } = dataset;
  for (let first = 0; first < n; first += extractor.batch) {
    const part = places.slice(first, first + extractor.batch);
    const bytes = new Uint8Array(part.length * channels * size ** 2);
    await dataset.read(part, bytes);
    const seen = await extractor.features({ bytes, n: part.length, channels, size });
    features.set(seen.features, first * featureSize);
    onWork?.(first + part.length, n);
  }
  const stored = { dtype: 'F32' as const, shape: [n, featureSize], data: features };
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeSafetensors(path, new Map([['features', stored]]), { sha256: hashOf(features) });
  } catch (error) {
    log?.(`${messageOf(fileError(error, 'write', path))}; real images will be looked at again`);
  }
  return { features };
}

function featuresPath(
  { weightsHash, resize }: Extractor,
  { fingerprint, imageSize, channels, resize: fit = 'cover' }: Dataset,
  n: number,
  cacheDir: string,
): string {
  const images = [fingerprint, `${imageSize}×${imageSize}×${channels} ${fit}`, String(n)];
  const key = fingerprintOf(['features', ...images, weightsHash, resize]);
  return join(evalFolder(cacheDir), `features-${key.slice(0, 32)}.safetensors`);
}

async function readFeatures(path: string, length: number): Promise<Float32Array> {
  const { tensors, metadata } = await readSafetensors(path, { role: 'features' });
  const data = tensors.get('features')?.data;
  if (data instanceof Float32Array && data.length === length) {
    if (metadata['sha256'] === hashOf(data)) return data;
  }
  throw new UserError(`features ${path} are damaged`);
}

function hashOf({ buffer, byteOffset, byteLength }: Float32Array): string {
  return sha256(new Uint8Array(buffer, byteOffset, byteLength));
}
