// Animated PNGs: their chunks in order, each with its CRC, every frame whole, the first for viewers that know no animation.
import { crc32 } from 'node:zlib';
import { PNG } from 'pngjs';
import { describe, expect, test } from 'vitest';
import { chunksOf, encodeApng } from '../../src/io/apng.ts';
import { decodePng, imageGrid, toByte } from '../../src/io/png.ts';
import type { Picture } from '../../src/io/png.ts';
import { movingOf, stillOf } from '../../src/train/grids.ts';

const [width, height] = [5, 3];
const pictures = ([1, 3] as const).map((channels) =>
  Array.from({ length: 3 }, (_u, t): Picture => ({
    ...{ width, height, channels },
    pixels: Uint8Array.from(
      { length: width * height * channels },
      (_v, i) => (37 * i + 91 * t) % 256,
    ),
  })),
);
const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** A PNG of a header and data, put together by hand. */
function still(header: Uint8Array, data: readonly Uint8Array[]): Buffer {
  const chunk = (type: string, body: Uint8Array) => {
    const [head, tail] = [Buffer.alloc(8), Buffer.alloc(4)];
    head.writeUInt32BE(body.length, 0);
    head.write(type, 4, 'latin1');
    tail.writeUInt32BE(crc32(Buffer.concat([Buffer.from(type), body])), 0);
    return Buffer.concat([head, body, tail]);
  };
  const end = chunk('IEND', new Uint8Array(0));
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', Buffer.concat(data)), end]);
}

describe.each(pictures)('an animation of $channels channels', (...frames) => {
  const bytes = encodeApng(frames, { delayMs: 125 });
  const chunks = chunksOf(bytes);

  test('is a PNG of its first frame to a reader that knows no animation', () => {
    expect(decodePng(bytes)).toEqual(frames[0]);
    expect(PNG.sync.read(bytes).width).toBe(width);
  });

  test('has one control chunk a frame, numbered with the data', () => {
    const types = chunks.map(({ type }) => type);
    expect(types.filter((type) => type !== 'gAMA')).toEqual([
      ...['IHDR', 'acTL', 'fcTL', 'IDAT', 'fcTL', 'fdAT', 'fcTL', 'fdAT', 'IEND'],
    ]);
    const of = (wanted: RegExp) =>
      chunks.filter(({ type }) => wanted.test(type)).map(({ data }) => Buffer.from(data));
    const [control] = of(/acTL/);
    expect([control!.readUInt32BE(0), control!.readUInt32BE(4)]).toEqual([3, 0]);
    expect(of(/fcTL|fdAT/).map((data) => data.readUInt32BE(0))).toEqual([0, 1, 2, 3, 4]);
    for (const data of of(/fcTL/)) {
      expect(data).toHaveLength(26);
      expect([4, 8, 12, 16].map((at) => data.readUInt32BE(at))).toEqual([width, height, 0, 0]);
      expect([data.readUInt16BE(20), data.readUInt16BE(22)]).toEqual([125, 1000]);
    }
  });

  test('has the checksum of every chunk', () => {
    for (let at = 8; at < bytes.length;) {
      const length = bytes.readUInt32BE(at);
      expect(bytes.readUInt32BE(at + 8 + length)).toBe(
        crc32(bytes.subarray(at + 4, at + 8 + length)),
      );
      at += 12 + length;
    }
  });

  test('holds every frame whole', () => {
    const header = chunks[0]!.data;
    const later = chunks.filter(({ type }) => type === 'fdAT');
    later.forEach(({ data }, i) => {
      expect(decodePng(still(header, [data.subarray(4)]))).toEqual(frames[i + 1]);
    });
    expect(later).toHaveLength(2);
  });
});

test('no frame, and frames of two sizes, are refused', () => {
  expect(() => encodeApng([], { delayMs: 1 })).toThrow('there is no picture');
  const [first] = pictures[0]!;
  const wide = { ...first!, width: 3, height: 5 };
  expect(() => encodeApng([first!, wide], { delayMs: 1 })).toThrow(
    'picture 1 is 3×5 with 1 channels, the first 5×3 with 1',
  );
});

test('clips are a row each in a strip, and move together in a grid', () => {
  const config = { channels: 3, frames: 2, imageSize: 2 } as const;
  // A level a plane: [clip, channel, frame].
  const levels = Float32Array.from({ length: 2 * 3 * 2 * 4 }, (_u, i) => Math.floor(i / 4) / 6 - 1);
  const level = (clip: number, c: number, t: number) => toByte(((clip * 3 + c) * 2 + t) / 6 - 1);
  const at = ({ pixels, width: w }: Picture, y: number, x: number) => [
    ...pixels.subarray((y * w + x) * 3, (y * w + x) * 3 + 3),
  ];
  const strip = stillOf(levels, 2, config);
  expect([strip.width, strip.height]).toEqual([2 + 2 * 4, 2 + 2 * 4]);
  for (const clip of [0, 1]) {
    for (const t of [0, 1]) {
      const wanted = [0, 1, 2].map((c) => level(clip, c, t));
      expect(at(strip, 2 + 4 * clip, 2 + 4 * t)).toEqual(wanted);
    }
  }
  const moving = movingOf(levels, 2, config);
  const first = decodePng(moving);
  expect([0, 1].map((clip) => at(first, 2, 2 + 4 * clip))).toEqual(
    [0, 1].map((clip) => [0, 1, 2].map((c) => level(clip, c, 0))),
  );
  // Stills are what they were.
  const size = { n: 4, channels: 3, height: 2, width: 2 } as const;
  expect(stillOf(levels, 4, { ...config, frames: 1 })).toEqual(imageGrid(levels, size));
});
