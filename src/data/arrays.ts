import type { Dataset } from './dataset.ts';
import { type DecodeOptions, decodeImage, toPlanar } from './decode.ts';
import { checkRead } from './memory.ts';
import { DECODES_IN_FLIGHT, forEachParallel } from './parallel.ts';
import type { PixelStore } from './pixels.ts';

/** Past this much enlargement a grey image is resized; below it, padded: 28 → 32 keeps every pixel sharp. */
const MAX_PADDING = 1.25;

/** Decoded images of one size, as arrays hold them. */
export interface RawImages {
  readonly name: string;
  /** The source as the user wrote it. */
  readonly where: string;
  readonly n: number;
  readonly height: number;
  readonly width: number;
  readonly channels: 1 | 3 | 4;
  /** An image is [channels, height, width]; else [height, width, channels]. */
  readonly planar: boolean;
  /** [n], indices into `classes` */
  readonly labels: ArrayLike<number>;
  readonly classes: readonly string[];
  readonly fingerprint: string;
  /** The bytes of an image, which are not written to. */
  image(i: number): Uint8Array | Promise<Uint8Array>;
  close(): Promise<void>;
}

export interface ArrayOptions extends DecodeOptions {
  readonly log?: ((line: string) => void) | undefined;
  /** Holds what was resized; nothing else needs it. */
  readonly store?:
    | ((set: { readonly version: string; readonly n: number }) => Promise<PixelStore | undefined>)
    | undefined;
}

/**
 * A data set of arrays. Images of the right size are taken as they are; grey ones that are a little smaller stand in the
 * middle of black, such sets being drawn on black; others become a square as those of files do. Grey is repeated for three
 * channels, and one channel is the luminance.
 */
export async function openArrays(images: RawImages, options: ArrayOptions): Promise<Dataset> {
  const { n, height, width, classes } = images;
  const { imageSize, channels } = options;
  const imageBytes = channels * imageSize ** 2;
  const resizes = fitOf(images, options) === 'resize';
  const store = resizes ? await options.store?.({ version: images.fingerprint, n }) : undefined;
  const inClasses = classes.length > 1 ? ` in ${classes.length} classes` : '';
  return {
    name: images.name,
    description: `${n} images of ${width}×${height}${inClasses} from ${images.where}`,
    size: n,
    ...{ channels, frames: 1, imageSize, classes, resize: options.resize },
    fingerprint: images.fingerprint,
    skipped: [],
    async read(indices, out) {
      checkRead(indices, out, { size: n, imageBytes });
      await forEachParallel(indices.length, DECODES_IN_FLIGHT, async (i) => {
        const index = indices[i] ?? 0;
        const place = out.subarray(i * imageBytes, (i + 1) * imageBytes);
        if (store?.read(index, place) === true) return;
        const made = await fitted(await images.image(index), images, options);
        // Grey for three channels is made once.
        for (let at = 0; at < imageBytes; at += made.length) place.set(made, at);
        store?.put(index, place.slice());
      });
    },
    label: (index) => images.labels[index] ?? 0,
    async close() {
      await store?.close();
      await images.close();
    },
  };
}

/** What has to be done to the images. */
function fitOf(
  { height, width, channels }: RawImages,
  { imageSize, channels: wanted }: DecodeOptions,
): 'none' | 'pad' | 'resize' {
  const longest = Math.max(height, width);
  if (channels !== 1 && channels !== wanted) return 'resize';
  if (height === imageSize && width === imageSize) return 'none';
  const pads = channels === 1 && imageSize >= longest && imageSize <= MAX_PADDING * longest;
  return pads ? 'pad' : 'resize';
}

/** An image as planar bytes [channels or 1, imageSize, imageSize]. */
async function fitted(
  bytes: Uint8Array,
  images: RawImages,
  options: DecodeOptions,
): Promise<Uint8Array> {
  const { width, height, channels, planar } = images;
  const { imageSize } = options;
  switch (fitOf(images, options)) {
    case 'none':
      return planar ? bytes : toPlanar(bytes, channels);
    case 'pad':
      return padded(bytes, images, imageSize);
    case 'resize': {
      const raw = { width, height, channels };
      const pixels = planar ? interleaved(bytes, channels) : bytes;
      return decodeImage(pixels, {
        ...{ imageSize, raw, resize: options.resize },
        channels: channels === 1 ? 1 : options.channels,
      });
    }
  }
}

/** Bytes [channels, pixels] → [pixels, channels]. */
function interleaved(planar: Uint8Array, channels: number): Uint8Array {
  if (channels === 1) return planar;
  const out = new Uint8Array(planar.length);
  let from = 0;
  for (let c = 0; c < channels; c++) {
    for (let to = c; to < out.length; to += channels) out[to] = planar[from++] ?? 0;
  }
  return out;
}

/** A grey image in the middle of a black square. */
function padded(source: Uint8Array, { width, height }: RawImages, size: number): Uint8Array {
  const target = new Uint8Array(size * size);
  const top = Math.floor((size - height) / 2);
  const left = Math.floor((size - width) / 2);
  for (let y = 0; y < height; y++) {
    const row = source.subarray(y * width, (y + 1) * width);
    target.set(row, (top + y) * size + left);
  }
  return target;
}
