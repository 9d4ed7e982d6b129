import { readdir, stat } from 'node:fs/promises';
import { UserError } from '../util/errors.ts';
import { errorCode, fileError } from '../io/errno.ts';
import { AVATARS_DEFAULT_COUNT, openAvatars, parseAvatarStyles } from './avatars.ts';
import { openFolder } from './folder.ts';
import { isIdxImageFile, openFashionMnist, openIdxFolder } from './idx.ts';

/** Images of one size and channel count, decoded to bytes, read by index. */
export interface Dataset {
  readonly name: string;
  /** One line for people: what it is and how much of it. */
  readonly description: string;
  readonly size: number;
  readonly channels: 1 | 3;
  readonly imageSize: number;
  /** Tells these images from others of the same number: of their names and sizes, or of their bytes. */
  readonly fingerprint: string;
  /** At least one; `label` gives an index into it. */
  readonly classes: readonly string[];
  /** Files that cannot be decoded; a large folder, which is not checked at opening, may find more while reading. */
  readonly skipped: readonly SkippedFile[];
  /** Fills `out` [indices.length, channels, imageSize, imageSize] with bytes 0 … 255. */
  read(indices: Uint32Array | readonly number[], out: Uint8Array): Promise<void>;
  /** The class of an image; right once it was read (see `skipped`). */
  label(index: number): number;
}

export interface SkippedFile {
  /** Path inside the folder, with forward slashes. */
  readonly file: string;
  readonly reason: string;
}

export interface DataProgress {
  /** What is being done, such as `decoding images`. */
  readonly stage: string;
  readonly done: number;
  readonly total: number;
}

export interface DatasetOptions {
  readonly imageSize: number;
  readonly channels: 1 | 3;
  /** Where generated data is kept between runs; made when first needed. */
  readonly cacheDir: string;
  /** A file that cannot be decoded is an error instead of being skipped. Default false. */
  readonly strict?: boolean;
  /** How many avatars to make. Default 6000. */
  readonly avatars?: number;
  readonly onProgress?: (progress: DataProgress) => void;
  /** Takes one line for the user. */
  readonly log?: (line: string) => void;
}

const SOURCES =
  '--data takes a folder of images, a folder of IDX files, fashion-mnist, avatars or avatars:STYLE,STYLE';

/** What `source` means, by its name or by the names in its folder; nothing is decoded. Throws a `UserError` for neither. */
export async function kindOfSource(
  source: string,
): Promise<'fashion-mnist' | 'avatars' | 'idx' | 'images'> {
  if (source === 'fashion-mnist') return 'fashion-mnist';
  if (parseAvatarStyles(source) !== undefined) return 'avatars';
  return (await listFolder(source)).some(isIdxImageFile) ? 'idx' : 'images';
}

/**
 * Opens `source`: a folder of images or of IDX files, `fashion-mnist`, `avatars` or `avatars:style1,style2`. A folder of
 * one of those names is meant by `./avatars`. Throws a `UserError` for whatever is wrong with it.
 */
export async function openDataset(source: string, options: DatasetOptions): Promise<Dataset> {
  if (!Number.isSafeInteger(options.imageSize) || options.imageSize < 1) {
    throw new UserError(`image size is ${options.imageSize}; it must be an integer from 1`);
  }
  switch (await kindOfSource(source)) {
    case 'fashion-mnist':
      return openFashionMnist(options);
    case 'avatars': {
      const styles = parseAvatarStyles(source) ?? [];
      return openAvatars({ ...options, styles, n: options.avatars ?? AVATARS_DEFAULT_COUNT });
    }
    case 'idx':
      return openIdxFolder(source, options);
    case 'images':
      return openFolder(source, options);
  }
}

async function listFolder(source: string): Promise<string[]> {
  if (source === '') throw new UserError(`--data is empty; ${SOURCES}`);
  try {
    if (!(await stat(source)).isDirectory()) {
      throw new UserError(`${source} is a file, not a folder; ${SOURCES}`);
    }
    return await readdir(source);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') {
      throw new UserError(`no such folder: ${source}; ${SOURCES}`, { cause: error });
    }
    throw fileError(error, 'read', source);
  }
}
