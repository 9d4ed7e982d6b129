import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { PNG } from 'pngjs';
import sharp from 'sharp';

/** Sizes, formats and places of a folder of images: none square, two nested, one of each format in each place. */
const formats = ['png', 'jpg', 'webp'] as const;
const places = ['', 'a', 'a/deep', 'b'] as const;

/** A disc on a plain ground; colours, place and radius follow from `i`. */
function disc(i: number, width: number, height: number): string {
  const hue = (i * 47) % 360;
  const [x, y] = [width * (0.35 + 0.05 * (i % 7)), height * (0.35 + 0.06 * (i % 6))];
  const radius = Math.min(width, height) * (0.18 + 0.03 * (i % 4));
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">` +
    `<rect width="100%" height="100%" fill="hsl(${(hue + 180) % 360},40%,80%)"/>` +
    `<circle cx="${x}" cy="${y}" r="${radius}" fill="hsl(${hue},80%,40%)"/></svg>`
  );
}

/** Writes `n` images of different sizes as PNG, JPEG and WebP, in subfolders too. Returns their paths inside. */
export async function writeImages(folder: string, n: number): Promise<string[]> {
  const files: string[] = [];
  for (let i = 0; i < n; i++) {
    const [width, height] = [40 + 9 * (i % 5), 36 + 11 * (i % 4)];
    const format = formats[i % formats.length]!;
    const file = join(places[i % places.length]!, `image-${i}.${format}`);
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    await sharp(Buffer.from(disc(i, width, height))).toFile(join(folder, file));
    files.push(file);
  }
  return files;
}

export interface IdxFolder {
  readonly n?: number;
  readonly gzip?: boolean;
  /** First four bytes of the image file; 0x00000803 is right. */
  readonly magic?: number;
}

/** Writes a Fashion-MNIST-like folder: 28×28 grey squares in ten classes. */
export function writeIdx(folder: string, options: IdxFolder = {}): void {
  const { n = 40, gzip = false, magic = 0x0803 } = options;
  const side = 28;
  const images = Buffer.alloc(16 + n * side * side);
  [magic, n, side, side].forEach((word, i) => images.writeUInt32BE(word, 4 * i));
  const labels = Buffer.alloc(8 + n);
  [0x0801, n].forEach((word, i) => labels.writeUInt32BE(word, 4 * i));
  for (let i = 0; i < n; i++) {
    labels[8 + i] = i % 10;
    const inset = 4 + (i % 8);
    for (let y = inset; y < side - inset; y++) {
      const row = 16 + (i * side + y) * side;
      images.fill(120 + 3 * (i % 40), row + inset, row + side - inset);
    }
  }
  mkdirSync(folder, { recursive: true });
  const write = (name: string, bytes: Buffer) => {
    writeFileSync(
      join(folder, gzip ? `${name}.gz` : name),
      gzip ? gzipSync(bytes, { level: 1 }) : bytes,
    );
  };
  write('train-images-idx3-ubyte', images);
  write('train-labels-idx1-ubyte', labels);
}

export interface Tile {
  readonly mean: number;
  readonly std: number;
  /** RGBA of the tile, row by row. */
  readonly pixels: Uint8Array;
}

/** The tiles of a square grid as `wgsagan` draws it: two white pixels between and around them. Decoded by pngjs alone. */
export function readGrid(path: string, imageSize: number): { side: number; tiles: Tile[] } {
  const png = PNG.sync.read(readFileSync(path));
  const padding = 2;
  const columns = (png.width - padding) / (imageSize + padding);
  const rows = (png.height - padding) / (imageSize + padding);
  if (!Number.isInteger(columns) || !Number.isInteger(rows)) {
    throw new Error(`${path} is ${png.width}×${png.height}: no grid of ${imageSize}-pixel images`);
  }
  const tiles: Tile[] = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const pixels = new Uint8Array(4 * imageSize * imageSize);
      for (let y = 0; y < imageSize; y++) {
        const top = padding + row * (imageSize + padding) + y;
        const from = 4 * (top * png.width + padding + column * (imageSize + padding));
        pixels.set(png.data.subarray(from, from + 4 * imageSize), 4 * y * imageSize);
      }
      const values = pixels.filter((_v, i) => i % 4 < 3);
      const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
      tiles.push({ mean, std: Math.sqrt(variance), pixels });
    }
  }
  return { side: columns, tiles };
}

/** Mean absolute difference of two tiles, in levels of 255. */
export function tileDistance(a: Tile, b: Tile): number {
  return a.pixels.reduce((sum, v, i) => sum + Math.abs(v - b.pixels[i]!), 0) / a.pixels.length;
}
