import { readdir, stat } from 'node:fs/promises';
import { UserError } from '../util/errors.ts';
import { errorCode, fileError } from '../io/errno.ts';
import { AVATARS_DEFAULT_COUNT, openAvatars, parseAvatarStyles } from './avatars.ts';
import { openFolder } from './folder.ts';
import { isIdxImageFile, openFashionMnist, openIdxFolder } from './idx.ts';
import { MOVING_SHAPES_DEFAULT_COUNT, openMovingShapes } from './moving-shapes.ts';

/** Images, or clips of several frames, of one size and channel count, decoded to bytes, read by index. */
export interface Dataset {
  readonly name: string;
  /** One line for people: what it is and how much of it. */
  readonly description: string;
  readonly size: number;
  readonly channels: 1 | 3;
  /** Of a clip; 1 where these are stills. */
  readonly frames: number;
  readonly imageSize: number;
  /** Tells these images from others of the same number: of their names and sizes, or of their bytes. */
  readonly fingerprint: string;
  /** At least one; `label` gives an index into it. */
  readonly classes: readonly string[];
  /** Files that cannot be decoded; a large folder, which is not checked at opening, may find more while reading. */
  readonly skipped: readonly SkippedFile[];
  /** Fills `out` [indices.length, channels, imageSize, imageSize], clips [indices.length, channels, frames, …], with bytes 0 … 255. */
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
  /** Of a clip, from 2; 1, the default, for stills. */
  readonly frames?: number;
  /** Where generated data is kept between runs; made when first needed. */
  readonly cacheDir: string;
  /** A file that cannot be decoded is an error instead of being skipped. Default false. */
  readonly strict?: boolean;
  /** How many avatars to make. Default 6000. */
  readonly avatars?: number;
  /** How many clips of moving shapes there are. Default 6000. */
  readonly clips?: number;
  readonly onProgress?: (progress: DataProgress) => void;
  /** Takes one line for the user. */
  readonly log?: (line: string) => void;
}

const SOURCES =
  '--data takes a folder of images, a folder of IDX files, fashion-mnist, avatars, avatars:STYLE,STYLE or moving-shapes';

/** What `source` means, by its name or by the names in its folder; nothing is decoded. Throws a `UserError` for neither. */
export async function kindOfSource(
  source: string,
): Promise<'fashion-mnist' | 'avatars' | 'moving-shapes' | 'idx' | 'images'> {
  if (source === 'fashion-mnist' || source === 'moving-shapes') return source;
  if (parseAvatarStyles(source) !== undefined) return 'avatars';
  return (await listFolder(source)).some(isIdxImageFile) ? 'idx' : 'images';
}

/** Refuses stills where clips are wanted, and clips where stills are, as a `UserError`; `kind` is what the source is. */
export function checkFrames(
  source: string,
  kind: Awaited<ReturnType<typeof kindOfSource>>,
  frames: number,
): void {
  if (kind === 'moving-shapes' && frames === 1) {
    throw new UserError(
      `--data ${source} is a set of clips, and stills are wanted: a video preset takes it`,
    );
  }
  if (kind !== 'moving-shapes' && frames > 1) {
    throw new UserError(
      `--data ${source} is a set of stills, and clips of ${frames} frames are wanted: give --data moving-shapes, or a preset of stills`,
    );
  }
}

/**
 * Opens `source`: a folder of images or of IDX files, `fashion-mnist`, `avatars` or `avatars:style1,style2`, or the clips
 * `moving-shapes`. A folder of one of those names is meant by `./avatars`. Throws a `UserError` for whatever is wrong with it.
 */
export async function openDataset(source: string, options: DatasetOptions): Promise<Dataset> {
  if (!Number.isSafeInteger(options.imageSize) || options.imageSize < 1) {
    throw new UserError(`image size is ${options.imageSize}; it must be an integer from 1`);
  }
  const { frames = 1 } = options;
  const kind = await kindOfSource(source);
  checkFrames(source, kind, frames);
  switch (kind) {
    case 'fashion-mnist':
      return openFashionMnist(options);
    case 'avatars': {
      const styles = parseAvatarStyles(source) ?? [];
      return openAvatars({ ...options, styles, n: options.avatars ?? AVATARS_DEFAULT_COUNT });
    }
    case 'moving-shapes':
      return openMovingShapes({
        ...options,
        frames,
        n: options.clips ?? MOVING_SHAPES_DEFAULT_COUNT,
      });
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
