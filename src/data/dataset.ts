import { readdir, stat } from 'node:fs/promises';
import { UserError } from '../util/errors.ts';
import { errorCode, fileError } from '../io/errno.ts';
import { openArrays } from './arrays.ts';
import { AVATARS_DEFAULT_COUNT, openAvatars, parseAvatarStyles } from './avatars.ts';
import { isCifarFile, openCifar } from './cifar.ts';
import { type Resize } from './decode.ts';
import { type ImageFiles, openFiles } from './files.ts';
import { listFolder } from './folder.ts';
import { isIdxImageFile, openFashionMnist, openIdxFolder } from './idx.ts';
import { MOVING_SHAPES_DEFAULT_COUNT, openMovingShapes } from './moving-shapes.ts';
import { openNpy, openNpz } from './numpy.ts';
import { openStore } from './shard-store.ts';
import { openTarImages } from './tar.ts';
import { openZipImages } from './zip.ts';

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
  /** How images of other shapes became squares, where there were any. */
  readonly resize?: Resize | undefined;
  /** At least one; `label` gives an index into it. */
  readonly classes: readonly string[];
  /** Files that cannot be decoded; a large folder, which is not checked at opening, may find more while reading. */
  readonly skipped: readonly SkippedFile[];
  /** Fills `out` [indices.length, channels, imageSize, imageSize], clips [indices.length, channels, frames, …], with bytes 0 … 255. */
  read(indices: Uint32Array | readonly number[], out: Uint8Array): Promise<void>;
  /** The class of an image; right once it was read (see `skipped`). */
  label(index: number): number;
  /** Where that may change: the class of the image's own file, bad or not, which is the same whatever was read. */
  listedLabel?(index: number): number;
  /** Keeps what was found out about a large source in a run's folder, where `DatasetOptions.run` finds it. */
  saveIndex?(run: string): Promise<void>;
  /** Lets go of open files, and writes what the cache does not have yet. */
  close?(): Promise<void>;
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
  /** Undefined where nobody knows yet. */
  readonly total: number | undefined;
}

export interface DatasetOptions {
  readonly imageSize: number;
  readonly channels: 1 | 3;
  /** How an image becomes a square. Default `cover`. */
  readonly resize?: Resize;
  /** Of a clip, from 2; 1, the default, for stills. */
  readonly frames?: number;
  /** Where generated data is kept between runs; made when first needed. */
  readonly cacheDir: string;
  /** What decoded images may fill there, of all data sets together. Default 0: none are kept. */
  readonly cacheBytes?: number;
  /** What decoded images may fill in memory where they are not kept in the cache. Default 512 MiB. */
  readonly memoryBytes?: number;
  /** A run's folder: what it says of a large source is taken where it still holds. */
  readonly run?: string | undefined;
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

/** What a source can be. */
export type SourceKind =
  | 'fashion-mnist'
  | 'avatars'
  | 'moving-shapes'
  | 'idx'
  | 'cifar'
  | 'images'
  | 'zip'
  | 'tar'
  | 'npz'
  | 'npy';

const SOURCES =
  '--data takes a folder of images, a zip or tar of images, a folder of IDX or CIFAR files, a .npz or .npy, fashion-mnist, ' +
  'avatars, avatars:STYLE,STYLE or moving-shapes';

/** What `source` means, by its name or by the names in its folder; nothing is decoded. Throws a `UserError` for neither. */
export async function kindOfSource(source: string): Promise<SourceKind> {
  if (source === 'fashion-mnist' || source === 'moving-shapes') return source;
  if (parseAvatarStyles(source) !== undefined) return 'avatars';
  if (source === '') throw new UserError(`--data is empty; ${SOURCES}`);
  try {
    if (!(await stat(source)).isDirectory()) return kindOfFile(source);
    const names = await readdir(source);
    if (names.some(isIdxImageFile)) return 'idx';
    return names.some(isCifarFile) ? 'cifar' : 'images';
  } catch (error) {
    if (errorCode(error) === 'ENOENT') {
      throw new UserError(`no such folder or file: ${source}; ${SOURCES}`, { cause: error });
    }
    throw fileError(error, 'read', source);
  }
}

function kindOfFile(source: string): SourceKind {
  const kind = (['zip', 'tar', 'npz', 'npy'] as const).find((ending) =>
    source.toLowerCase().endsWith(`.${ending}`),
  );
  if (kind !== undefined) return kind;
  if (/\.(tgz|tar\.\w+|tbz2?|txz)$/i.test(source)) {
    throw new UserError(
      `${source} is a compressed tar, in which no image can be reached without unpacking those before it; unpack it into a folder, or decompress it to a .tar`,
    );
  }
  throw new UserError(`${source} is a file of no kind that is read here; ${SOURCES}`);
}

/** Is the source a path, which means another thing in another working folder? */
export function isPath(kind: SourceKind): boolean {
  return kind !== 'fashion-mnist' && kind !== 'avatars' && kind !== 'moving-shapes';
}

/** Refuses stills where clips are wanted, and clips where stills are, as a `UserError`; `kind` is what the source is. */
export function checkFrames(source: string, kind: SourceKind, frames: number): void {
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
 * Opens `source`: a folder, zip or tar of images, a folder of IDX or CIFAR files, arrays of NumPy, `fashion-mnist`,
 * `avatars` or `avatars:style1,style2`, or the clips `moving-shapes`. A folder of one of those names is meant by
 * `./avatars`. Throws a `UserError` for whatever is wrong with it.
 */
export async function openDataset(source: string, options: DatasetOptions): Promise<Dataset> {
  if (!Number.isSafeInteger(options.imageSize) || options.imageSize < 1) {
    throw new UserError(`image size is ${options.imageSize}; it must be an integer from 1`);
  }
  const { frames = 1 } = options;
  const kind = await kindOfSource(source);
  checkFrames(source, kind, frames);
  const arrays = { ...options, store: storeOf(options) };
  switch (kind) {
    case 'fashion-mnist':
      return openFashionMnist(arrays);
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
      return openIdxFolder(source, arrays);
    case 'cifar':
      return openArrays(await openCifar(source), arrays);
    case 'npz':
      return openArrays(await openNpz(source), arrays);
    case 'npy':
      return openArrays(await openNpy(source), arrays);
    case 'images':
    case 'zip':
    case 'tar':
      return openImages(await imageFilesOf(source, kind, options), options);
  }
}

/** The image files of a folder or archive: what they are and where they lie, none of them read. */
export function imageFilesOf(
  source: string,
  kind: 'images' | 'zip' | 'tar',
  options: Pick<DatasetOptions, 'run' | 'onProgress' | 'log'>,
): Promise<ImageFiles> {
  if (kind === 'images') return listFolder(source, options);
  return (kind === 'zip' ? openZipImages : openTarImages)(source, options);
}

async function openImages(files: ImageFiles, options: DatasetOptions): Promise<Dataset> {
  const { version } = files;
  try {
    const store = await storeOf(options)({ version, n: files.files.length });
    return await openFiles(files, { ...options, store });
  } catch (error) {
    await files.close();
    throw error;
  }
}

/** Opens the cache of a set's decoded images, where the options give it room. */
function storeOf(options: DatasetOptions) {
  return async (set: { readonly version: string; readonly n: number }) => {
    const { cacheBytes = 0 } = options;
    if (cacheBytes === 0) return undefined;
    const { version, n } = set;
    return openStore({ ...options, limitBytes: cacheBytes, version, images: n });
  };
}
