import { PNG } from 'pngjs';
import { UserError, messageOf } from '../util/errors.ts';
import { ceilDiv } from '../util/shape.ts';

/** Rows of interleaved bytes: `pixels[(y · width + x) · channels + c]`. */
export interface Picture {
  readonly pixels: Uint8Array;
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
}

export interface GridOptions {
  readonly n: number;
  readonly channels: 1 | 3;
  readonly height: number;
  readonly width: number;
  /** Default: near a square, with full rows where n allows it. */
  readonly columns?: number | undefined;
  /** White pixels between the images and round the grid. Default 2. */
  readonly padding?: number | undefined;
}

const GREY = 0;
const RGB = 2;
const PAPER = 255;

/** PNG bytes of 8-bit grey (1 channel) or RGB (3 channels) pixels, interleaved. */
export function encodePng(
  pixels: Uint8Array,
  options: { readonly width: number; readonly height: number; readonly channels: 1 | 3 },
): Uint8Array {
  const { width, height, channels } = options;
  if (!(width >= 1 && height >= 1) || pixels.length !== width * height * channels) {
    throw new RangeError(
      `encodePng: ${width}×${height} with ${channels} channels needs ${width * height * channels} bytes, got ${pixels.length}`,
    );
  }
  const colorType = channels === 1 ? GREY : RGB;
  const png = new PNG({ width, height });
  png.data = Buffer.from(pixels.buffer, pixels.byteOffset, pixels.byteLength);
  return PNG.sync.write(png, { colorType, inputColorType: colorType, inputHasAlpha: false });
}

/**
 * The pixels of a PNG, 8 bits a channel; grey stays one channel, anything else becomes RGB, and transparency is dropped.
 * Throws a `UserError` that begins with `name` for bytes that are no whole PNG.
 */
export function decodePng(bytes: Uint8Array, options: { readonly name?: string } = {}): Picture {
  let png: PNG & { readonly color?: boolean };
  try {
    png = PNG.sync.read(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch (error) {
    const why = messageOf(error);
    throw new UserError(`${options.name ?? 'image'} cannot be read as PNG: ${why}`, {
      cause: error,
    });
  }
  const channels = png.color === false ? 1 : 3;
  const { width, height, data } = png;
  const pixels = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < channels; c++) pixels[i * channels + c] = data[i * 4 + c] ?? 0;
  }
  return { pixels, width, height, channels };
}

/** A value of [-1, 1] as a byte: -1 → 0, 1 → 255; what lies outside is clamped, and NaN is 0. */
export function toByte(value: number): number {
  const level = Math.round((value + 1) * 127.5);
  return level > 0 ? Math.min(level, 255) : 0;
}

/**
 * Images [n, channels, height, width] as one picture, row by row from the top left. Floats are taken as [-1, 1]
 * (`toByte`), bytes as they are.
 */
export function imageGrid(images: Float32Array | Uint8Array, options: GridOptions): Picture {
  const { n, channels, height, width, columns = gridColumns(n), padding = 2 } = options;
  if (n < 1 || columns < 1 || images.length !== n * channels * height * width) {
    throw new RangeError(
      `imageGrid: [${n}, ${channels}, ${height}, ${width}] in ${columns} columns needs ` +
        `${n * channels * height * width} values, got ${images.length}`,
    );
  }
  const across = Math.min(columns, n);
  const fullWidth = padding + across * (width + padding);
  const fullHeight = padding + ceilDiv(n, across) * (height + padding);
  const pixels = new Uint8Array(fullWidth * fullHeight * channels).fill(PAPER);
  const asByte = images instanceof Uint8Array ? (value: number) => value : toByte;
  let from = 0;
  for (let i = 0; i < n; i++) {
    const left = padding + (i % across) * (width + padding);
    const top = padding + Math.floor(i / across) * (height + padding);
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < height; y++) {
        let to = ((top + y) * fullWidth + left) * channels + c;
        for (let x = 0; x < width; x++, to += channels) pixels[to] = asByte(images[from++] ?? 0);
      }
    }
  }
  return { pixels, width: fullWidth, height: fullHeight, channels };
}

/** The fewest columns from √n to 2√n that leave no gap in the last row, or else ⌈√n⌉: 64 → 8, 32 → 8, 7 → 3. */
export function gridColumns(n: number): number {
  const root = Math.ceil(Math.sqrt(n));
  for (let columns = root; columns * columns <= 4 * n; columns++) {
    if (n % columns === 0) return columns;
  }
  return root;
}
