import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { Dataset } from '../../data/dataset.ts';
import { fingerprintOf } from '../../data/fingerprint.ts';
import { engineVersion } from '../../gpu/platform.ts';
import type { Gpu } from '../../gpu/device.ts';
import { fileError, errorCode } from '../../io/errno.ts';
import { readSafetensors, writeSafetensors } from '../../io/safetensors.ts';
import type { HostTensor } from '../../nn/state.ts';
import { UserError, messageOf } from '../../util/errors.ts';
import type { TrainedClassifier } from './classifier.ts';
import { classifierRecipe, hashOf, trainClassifier } from './classifier-training.ts';
import type { OnWork } from './dots.ts';

const kind = 'wgsagan classifier';

const metaSchema = z.object({
  options: z.object({
    imageSize: z.int(),
    channels: z.literal([1, 3]),
    width: z.int(),
    classes: z.int(),
  }),
  accuracy: z.record(z.string(), z.number()),
  heldOut: z.int(),
});

/** Where measures are kept between runs: a folder of the cache that may be removed at any time. */
export const evalFolder = (cacheDir: string) => join(cacheDir, 'eval');

/** Where the classifier of a data set is kept: the same images, recipe and engine find it again. */
export function classifierPath(dataset: Dataset, cacheDir: string): string {
  const { fingerprint, imageSize, channels, classes, resize = 'cover' } = dataset;
  const key = fingerprintOf([
    ...['classifier', fingerprint, `${imageSize}×${imageSize}×${channels} ${resize}`, ...classes],
    ...[JSON.stringify(classifierRecipe), engineVersion()],
  ]);
  return join(evalFolder(cacheDir), `classifier-${key.slice(0, 32)}.safetensors`);
}

export interface ClassifierSource {
  readonly cacheDir: string;
  /** Takes how far the training is, where one is needed. */
  readonly onWork?: OnWork | undefined;
  /** Takes one line for the user. */
  readonly log?: ((line: string) => void) | undefined;
}

/**
 * The classifier of a data set, out of the cache or trained now and kept there. A file there that is damaged is made anew, and
 * a folder that cannot be written costs only the training.
 */
export async function classifierOf(
  gpu: Gpu,
  dataset: Dataset,
  { cacheDir, onWork, log }: ClassifierSource,
): Promise<TrainedClassifier> {
  const path = classifierPath(dataset, cacheDir);
  try {
    return await readClassifier(path);
  } catch (error) {
    const missing = error instanceof UserError && errorCode(error.cause) === 'ENOENT';
    if (!missing) log?.(`${messageOf(error)}; it is trained again`);
  }
  const trained = await trainClassifier(gpu, dataset, onWork === undefined ? {} : { onWork });
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeClassifier(path, trained);
  } catch (error) {
    log?.(`${messageOf(fileError(error, 'write', path))}; it will be trained again next time`);
  }
  return trained;
}

async function writeClassifier(path: string, trained: TrainedClassifier): Promise<void> {
  const { state, hash, options, accuracy, heldOut } = trained;
  const tensors = [...state].map(([name, t]) => [name, { dtype: 'F32' as const, ...t }] as const);
  const about = JSON.stringify({ options, accuracy, heldOut });
  await writeSafetensors(path, new Map(tensors), { kind, about, sha256: hash });
}

/** Reads a classifier's weights. Throws a `UserError` for a file that is none, or damaged. */
export async function readClassifier(path: string): Promise<TrainedClassifier> {
  const { tensors, metadata } = await readSafetensors(path, { role: 'classifier' });
  if (metadata['kind'] !== kind) {
    throw new UserError(`classifier ${path} was not written by wgsagan eval`);
  }
  const state = new Map<string, HostTensor>();
  for (const [name, { shape, data }] of tensors) {
    if (data instanceof Float32Array) state.set(name, { shape, data });
  }
  const hash = hashOf(state);
  const about = metaSchema.safeParse(parsed(metadata['about']));
  if (hash !== metadata['sha256'] || !about.success) {
    throw new UserError(
      `classifier ${path} is damaged: its weights are not those it was kept with`,
    );
  }
  return { ...about.data, state, hash };
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '');
  } catch {
    return undefined;
  }
}
