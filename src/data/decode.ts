import sharp, { type Sharp } from 'sharp';
import { messageOf } from '../util/errors.ts';

// libvips would keep its last hundred pictures, and their files' bytes, for when they are asked for again: none is.
sharp.cache(false);

/**
 * How an image becomes a square. `cover`: scaled by Lanczos until it covers the square, then cropped at the centre.
 * `crop`: the centre is cut out as it is; an image with a side shorter than the square is treated as by `cover`.
 */
export const resizeNames = ['cover', 'crop'] as const;
export type Resize = (typeof resizeNames)[number];

export interface DecodeOptions {
  readonly imageSize: number;
  readonly channels: 1 | 3;
  /** Default `cover`. */
  readonly resize?: Resize | undefined;
}

/** Part of what the cache of decoded images is known by: raise it when the same file would decode to other bytes. */
export const DECODER_VERSION = 1;

/** Pixels that are no file: bytes [height, width, channels]. */
export interface RawShape {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3 | 4;
}

/**
 * An encoded image (or SVG), or `raw` pixels, as planar bytes [channels, imageSize, imageSize]: turned upright, made a
 * square (`Resize`), laid on white where it is transparent; one channel is the luminance. Rejects when the file is cut
 * short or is no image; the message is sharp's, on one line.
 */
export async function decodeImage(
  bytes: Uint8Array,
  options: DecodeOptions & { readonly raw?: RawShape },
): Promise<Uint8Array> {
  const { imageSize, channels } = options;
  const interleaved = await decode(bytes, options).catch(() => decodeAlone(bytes, options));
  if (interleaved.length !== channels * imageSize * imageSize) {
    throw new Error(`decodes to ${interleaved.length} bytes, not ${channels}×${imageSize}²`);
  }
  return toPlanar(interleaved, channels);
}

/** Bytes [pixels, channels] → [channels, pixels]. */
export function toPlanar(interleaved: Uint8Array, channels: number): Uint8Array {
  if (channels === 1) return new Uint8Array(interleaved);
  const planar = new Uint8Array(interleaved.length);
  let to = 0;
  for (let c = 0; c < channels; c++) {
    for (let from = c; from < interleaved.length; from += channels) {
      planar[to++] = interleaved[from] ?? 0;
    }
  }
  return planar;
}

async function decode(
  bytes: Uint8Array,
  { imageSize, channels, resize, raw }: DecodeOptions & { readonly raw?: RawShape },
): Promise<Uint8Array> {
  // 'error' includes 'truncated' and lets harmless warnings pass, such as a bad colour profile.
  const open = () =>
    sharp(bytes, { failOn: 'error', autoOrient: true, ...(raw === undefined ? {} : { raw }) });
  const cut = resize === 'crop' ? await centre(open(), imageSize) : undefined;
  const square =
    cut === undefined
      ? open().resize(imageSize, imageSize, {
          fit: 'cover',
          position: 'centre',
          kernel: 'lanczos3',
        })
      : open().extract(cut);
  return square
    .flatten({ background: '#ffffff' })
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .raw({ depth: 'uchar' })
    .toBuffer();
}

/** The middle of an upright image of at least that size; undefined for a smaller one. */
async function centre(image: Sharp, size: number) {
  const { width, height, autoOrient } = await image.metadata();
  const [across, down] = [autoOrient.width || width, autoOrient.height || height];
  if (across < size || down < size) return undefined;
  const [left, top] = [Math.floor((across - size) / 2), Math.floor((down - size) / 2)];
  return { left, top, width: size, height: size };
}

let alone: Promise<unknown> = Promise.resolve();

/**
 * Decodes an image that has failed once more, for its reason. libvips writes its errors into one buffer of the process, so
 * decodes that fail at the same time read each other's, or none ("Unknown error"): these wait for one another.
 */
function decodeAlone(
  bytes: Uint8Array,
  options: DecodeOptions & { readonly raw?: RawShape },
): Promise<Uint8Array> {
  const attempt = async (triesLeft: number): Promise<Uint8Array> => {
    try {
      return await decode(bytes, options);
    } catch (error) {
      const reason = oneLine(messageOf(error));
      if (reason === 'Unknown error' && triesLeft > 0) return attempt(triesLeft - 1);
      throw new Error(reason, { cause: error });
    }
  };
  const answer = alone.then(() => refuseHuge(bytes)).then(() => attempt(4));
  alone = answer.catch(() => undefined);
  return answer;
}

/** No camera's image has a longer side, and no JPEG or WebP can: a file that says so is damaged, and slow to fail. */
const LONGEST_SIDE = 65_535;

async function refuseHuge(bytes: Uint8Array): Promise<void> {
  const { width, height } = await sharp(bytes)
    .metadata()
    .catch(() => ({ width: 0, height: 0 }));
  if (Math.max(width, height) > LONGEST_SIDE) {
    throw new Error(`it says that it is ${width}×${height} pixels`);
  }
}

/** libvips repeats itself over several lines, and speaks of buffers; one line, of the file, is kept. */
function oneLine(message: string): string {
  const [first = ''] = message.split('\n');
  return first
    .replace(/^Input (buffer|file) (has|contains|is) |^vips\w+: /i, '')
    .replace(/:?\s*$/, '');
}
