import sharp from 'sharp';
import { messageOf } from '../util/errors.ts';

export interface DecodeOptions {
  readonly imageSize: number;
  readonly channels: 1 | 3;
}

/**
 * An encoded image (or SVG) as planar bytes [channels, imageSize, imageSize]: turned upright, scaled by Lanczos to cover
 * the square, cropped at the centre, laid on white where it is transparent; one channel is the luminance. Rejects when
 * the file is cut short or is no image; the message is sharp's, on one line.
 */
export async function decodeImage(bytes: Uint8Array, options: DecodeOptions): Promise<Uint8Array> {
  const { imageSize, channels } = options;
  const interleaved = await decode(bytes, options).catch(() => decodeAlone(bytes, options));
  if (interleaved.length !== channels * imageSize * imageSize) {
    throw new Error(`decodes to ${interleaved.length} bytes, not ${channels}×${imageSize}²`);
  }
  return toPlanar(interleaved, channels);
}

/** Bytes [pixels, channels] → [channels, pixels]. */
function toPlanar(interleaved: Uint8Array, channels: number): Uint8Array {
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

function decode(bytes: Uint8Array, { imageSize, channels }: DecodeOptions): Promise<Uint8Array> {
  // 'error' includes 'truncated' and lets harmless warnings pass, such as a bad colour profile.
  return sharp(bytes, { failOn: 'error', autoOrient: true })
    .resize(imageSize, imageSize, { fit: 'cover', position: 'centre', kernel: 'lanczos3' })
    .flatten({ background: '#ffffff' })
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .raw({ depth: 'uchar' })
    .toBuffer();
}

let alone: Promise<unknown> = Promise.resolve();

/**
 * Decodes an image that has failed once more, for its reason. libvips writes its errors into one buffer of the process, so
 * decodes that fail at the same time read each other's, or none ("Unknown error"): these wait for one another.
 */
function decodeAlone(bytes: Uint8Array, options: DecodeOptions): Promise<Uint8Array> {
  const attempt = async (triesLeft: number): Promise<Uint8Array> => {
    try {
      return await decode(bytes, options);
    } catch (error) {
      const reason = oneLine(messageOf(error));
      if (reason === 'Unknown error' && triesLeft > 0) return attempt(triesLeft - 1);
      throw new Error(reason, { cause: error });
    }
  };
  const answer = alone.then(() => attempt(4));
  alone = answer.catch(() => undefined);
  return answer;
}

/** libvips repeats itself over several lines, and speaks of buffers; one line, of the file, is kept. */
function oneLine(message: string): string {
  const [first = ''] = message.split('\n');
  return first
    .replace(/^Input (buffer|file) (has|contains|is) |^vips\w+: /i, '')
    .replace(/:?\s*$/, '');
}
