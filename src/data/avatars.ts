import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { UserError, messageOf } from '../util/errors.ts';
import { errorCode, fileError } from '../io/errno.ts';
import { readSafetensors, writeSafetensors } from '../io/safetensors.ts';
import type { DataProgress, Dataset } from './dataset.ts';
import { decodeImage } from './decode.ts';
import { fingerprintOf, sha256 } from './fingerprint.ts';
import { memoryDataset } from './memory.ts';
import { DECODES_IN_FLIGHT, forEachParallel } from './parallel.ts';
import { AVATAR_STYLES, loadStyle } from './styles.ts';

export const AVATARS_DEFAULT_COUNT = 6000;
const DEFAULT_STYLES = ['thumbs', 'pixel-art'];
/** Part of the cache's file name: raise it when styles, options, DiceBear or the drawing change. */
const VERSION = 1;
/** Drawn this many times larger than needed, at least 128 pixels, and scaled down, so that edges are smooth. */
const OVERSAMPLING = 4;
const MIN_DRAWN = 128;

export interface AvatarOptions {
  readonly styles: readonly string[];
  /** How many in all; image i has style i mod styles. */
  readonly n: number;
  readonly imageSize: number;
  readonly channels: 1 | 3;
  readonly cacheDir: string;
  readonly onProgress?: (progress: DataProgress) => void;
  readonly log?: (line: string) => void;
}

/** The styles that `avatars` or `avatars:a,b` names; undefined for any other source. Throws a `UserError` for unknown ones. */
export function parseAvatarStyles(source: string): readonly string[] | undefined {
  if (source === 'avatars') return DEFAULT_STYLES;
  if (!source.startsWith('avatars:')) return undefined;
  const styles = source.slice('avatars:'.length).split(',');
  const known: readonly string[] = AVATAR_STYLES;
  for (const [i, style] of styles.entries()) {
    if (!known.includes(style)) {
      throw new UserError(`unknown avatar style "${style}"; there are ${known.join(', ')}`);
    }
    if (styles.indexOf(style) !== i) throw new UserError(`avatar style ${style} is named twice`);
  }
  return styles;
}

/**
 * Procedural faces (DiceBear, CC0) drawn from the seeds `style-0`, `style-1`, …: the same images on every machine with the
 * same package versions. Drawn at first use and kept in one file of `cacheDir`; a file there that is damaged is made anew,
 * and a folder that cannot be written costs only the drawing.
 */
export async function openAvatars(options: AvatarOptions): Promise<Dataset> {
  const { styles, n, imageSize, channels } = options;
  if (!Number.isSafeInteger(n) || n < styles.length) {
    throw new UserError(
      `${n} avatars of ${styles.length} styles; there must be one of each at least`,
    );
  }
  const shape = `${imageSize}x${imageSize}x${channels}`;
  const key = `avatars-${styles.join('+')}-n${n}-${shape}-v${VERSION}`;
  const path = join(options.cacheDir, `${key}.safetensors`);
  let images = await readCache(path, key, options);
  if (images === undefined) {
    images = await drawAll(options);
    await writeCache(path, key, images, options);
  }
  return memoryDataset({
    name: 'avatars',
    description: `${n} avatars, ${styles.length > 1 ? 'styles' : 'style'} ${styles.join(', ')}`,
    channels,
    imageSize,
    fingerprint: fingerprintOf(['avatars', key]),
    classes: styles,
    images,
    labels: Uint32Array.from({ length: n }, (_, i) => i % styles.length),
  });
}

/** [n, channels, imageSize, imageSize] */
async function drawAll(options: AvatarOptions): Promise<Uint8Array> {
  const { n, styles, imageSize, channels, onProgress } = options;
  const drawers = await Promise.all(styles.map(loadStyle));
  const imageBytes = channels * imageSize * imageSize;
  const drawnSize = Math.max(MIN_DRAWN, OVERSAMPLING * imageSize);
  const images = new Uint8Array(n * imageBytes);
  let done = 0;
  await forEachParallel(n, DECODES_IN_FLIGHT, async (i) => {
    const which = i % styles.length;
    const seed = `${styles[which] ?? ''}-${Math.floor(i / styles.length)}`;
    const svg = drawers[which]?.(seed, drawnSize) ?? '';
    images.set(await decodeImage(Buffer.from(svg), { imageSize, channels }), i * imageBytes);
    onProgress?.({ stage: 'drawing avatars', done: ++done, total: n });
  });
  return images;
}

async function readCache(
  path: string,
  key: string,
  options: AvatarOptions,
): Promise<Uint8Array | undefined> {
  try {
    const { tensors, metadata } = await readSafetensors(path, { role: 'avatar cache' });
    const images = tensors.get('images')?.data;
    const bytes = options.n * options.channels * options.imageSize ** 2;
    const whole = images instanceof Uint8Array && images.length === bytes;
    if (whole && metadata['key'] === key && metadata['sha256'] === sha256(images)) return images;
    options.log?.(`avatar cache ${path} is damaged; the avatars are drawn again`);
  } catch (error) {
    if (!isMissing(error)) options.log?.(`${messageOf(error)}; the avatars are drawn again`);
  }
  return undefined;
}

async function writeCache(
  path: string,
  key: string,
  images: Uint8Array,
  options: AvatarOptions,
): Promise<void> {
  const { n, channels, imageSize } = options;
  const shape = [n, channels, imageSize, imageSize];
  const tensors = new Map([['images', { dtype: 'U8' as const, shape, data: images }]]);
  const metadata = { key, sha256: sha256(images), license: 'DiceBear styles, CC0 1.0' };
  try {
    await mkdir(options.cacheDir, { recursive: true });
    await writeSafetensors(path, tensors, metadata);
  } catch (error) {
    const why = messageOf(fileError(error, 'write', path));
    options.log?.(`${why}; the avatars will be drawn again next time`);
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof UserError && errorCode(error.cause) === 'ENOENT';
}
