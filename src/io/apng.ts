import { crc32 } from 'node:zlib';
import { encodePng } from './png.ts';
import type { Picture } from './png.ts';

/** The bytes that every PNG begins with. */
const SIGNATURE_BYTES = 8;
const DELAY_UNIT = 1000;

/** A part of a PNG file: four letters, and what they announce. */
interface Chunk {
  readonly type: string;
  readonly data: Uint8Array;
}

/**
 * An animated PNG of pictures of one size, over and over without end: PNG, third edition (W3C 2025), §11.3.6. A viewer that
 * knows no animation shows the first. Each is a whole picture, compressed by itself. Throws a RangeError for no picture and
 * for unequal ones.
 */
export function encodeApng(pictures: readonly Picture[], { delayMs }: { delayMs: number }): Buffer {
  const [first] = pictures;
  if (first === undefined) throw new RangeError('encodeApng: there is no picture');
  const { width, height, channels } = first;
  const chunks: Chunk[] = [];
  let sequence = 0;
  for (const [i, picture] of pictures.entries()) {
    if (picture.width !== width || picture.height !== height || picture.channels !== channels) {
      throw new RangeError(
        `encodeApng: picture ${i} is ${picture.width}×${picture.height} with ${picture.channels} channels, the first ${width}×${height} with ${channels}`,
      );
    }
    const all = chunksOf(encodePng(picture.pixels, picture));
    const data = all.filter(({ type }) => type === 'IDAT');
    const control = { type: 'fcTL', data: frameControl(sequence++, picture, delayMs) };
    if (i === 0) {
      const head = all.filter(({ type }) => type !== 'IDAT' && type !== 'IEND');
      chunks.push(...head, { type: 'acTL', data: words(pictures.length, 0) }, control, ...data);
      continue;
    }
    chunks.push(control);
    for (const part of data) {
      chunks.push({ type: 'fdAT', data: Buffer.concat([words(sequence++), part.data]) });
    }
  }
  chunks.push({ type: 'IEND', data: new Uint8Array(0) });
  return Buffer.concat([signature, ...chunks.map(encodeChunk)]);
}

const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

/** The chunks of a PNG file in their order. */
export function chunksOf(png: Uint8Array): Chunk[] {
  const bytes = Buffer.from(png.buffer, png.byteOffset, png.byteLength);
  const chunks: Chunk[] = [];
  for (let at = SIGNATURE_BYTES; at < bytes.length;) {
    const length = bytes.readUInt32BE(at);
    const type = bytes.toString('latin1', at + 4, at + 8);
    chunks.push({ type, data: bytes.subarray(at + 8, at + 8 + length) });
    at += length + 12;
  }
  return chunks;
}

/** Length, type, data, CRC of the last two. */
function encodeChunk({ type, data }: Chunk): Uint8Array {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  return Buffer.concat([words(data.length), body, words(crc32(body))]);
}

/** fcTL: the whole canvas is replaced, and kept until the next does so. */
function frameControl(sequence: number, { width, height }: Picture, delayMs: number): Uint8Array {
  const delay = Buffer.alloc(6);
  delay.writeUInt16BE(delayMs, 0);
  delay.writeUInt16BE(DELAY_UNIT, 2);
  return Buffer.concat([words(sequence, width, height, 0, 0), delay]);
}

/** u32, the highest byte first. */
function words(...values: number[]): Uint8Array {
  const out = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => out.writeUInt32BE(value, 4 * i));
  return out;
}
