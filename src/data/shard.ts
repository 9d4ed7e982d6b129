import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { crc32 } from 'node:zlib';

/**
 * A file of decoded images, never changed once it is written:
 *
 *     "wgspix01"                                     8 bytes
 *     count, bytes of an image, CRC-32 of the table  3 × u32, little-endian
 *     table: number of the image, CRC-32 of its bytes, count × 2 × u32
 *     the images, in the order of the table
 */
const MAGIC = 'wgspix01';
const HEAD_BYTES = 20;
const ROW_BYTES = 8;

/** What a shard holds. */
export interface Shard {
  readonly path: string;
  readonly imageBytes: number;
  /** [count], numbers of the images in it */
  readonly images: Uint32Array;
  /** [count], CRC-32 of the bytes of each */
  readonly sums: Uint32Array;
}

/** Where an image lies in a shard's file. */
export function offsetIn(shard: Shard, slot: number): number {
  return HEAD_BYTES + ROW_BYTES * shard.images.length + slot * shard.imageBytes;
}

/** The bytes of a shard, in parts. */
export function* encodeShard(
  images: readonly (readonly [image: number, pixels: Uint8Array])[],
): Generator<Uint8Array> {
  const head = Buffer.alloc(HEAD_BYTES + ROW_BYTES * images.length);
  for (const [slot, [image, pixels]] of images.entries()) {
    head.writeUInt32LE(image, HEAD_BYTES + ROW_BYTES * slot);
    head.writeUInt32LE(crc32(pixels), HEAD_BYTES + ROW_BYTES * slot + 4);
  }
  head.write(MAGIC, 'latin1');
  head.writeUInt32LE(images.length, 8);
  head.writeUInt32LE(images[0]?.[1].length ?? 0, 12);
  head.writeUInt32LE(crc32(head.subarray(HEAD_BYTES)), 16);
  yield head;
  for (const [, pixels] of images) yield pixels;
}

/** What a shard of images of `imageBytes` holds; throws for a file that is cut, damaged or none of ours. */
export function openShard(path: string, imageBytes: number): Shard {
  const fd = openSync(path, 'r');
  try {
    const head = readWhole(fd, HEAD_BYTES, 0);
    const count = head.readUInt32LE(8);
    const { size } = fstatSync(fd);
    const whole = size === HEAD_BYTES + count * (ROW_BYTES + imageBytes);
    if (head.toString('latin1', 0, 8) !== MAGIC || head.readUInt32LE(12) !== imageBytes || !whole) {
      throw new Error('it is cut short or damaged');
    }
    const table = readWhole(fd, ROW_BYTES * count, HEAD_BYTES);
    if (crc32(table) !== head.readUInt32LE(16)) throw new Error('its table is damaged');
    const column = (offset: number) =>
      Uint32Array.from({ length: count }, (_, slot) =>
        table.readUInt32LE(ROW_BYTES * slot + offset),
      );
    return { path, imageBytes, images: column(0), sums: column(4) };
  } finally {
    closeSync(fd);
  }
}

function readWhole(fd: number, bytes: number, at: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  if (readSync(fd, buffer, 0, bytes, at) !== bytes) throw new Error('it is cut short');
  return buffer;
}

/** Reads an image of a shard through its open file; false where its bytes are no longer those that were written. */
export function readImage(fd: number, shard: Shard, slot: number, out: Uint8Array): boolean {
  const { imageBytes, sums } = shard;
  const read = readSync(fd, out, 0, imageBytes, offsetIn(shard, slot));
  return read === imageBytes && crc32(out) === sums[slot];
}
