import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import sharp from 'sharp';
import { decodePng, encodePng, gridColumns, imageGrid, toByte } from '../../src/io/png.ts';
import { UserError } from '../../src/util/errors.ts';

describe('encodePng and decodePng', () => {
  it('come back to the same pixels, grey and RGB', () => {
    const picture = fc
      .tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }))
      .chain(([width, height]) =>
        fc.constantFrom(1 as const, 3 as const).chain((channels) => {
          const n = width * height * channels;
          const pixels = fc.uint8Array({ minLength: n, maxLength: n });
          return fc.record({
            pixels,
            width: fc.constant(width),
            height: fc.constant(height),
            channels: fc.constant(channels),
          });
        }),
      );
    fc.assert(
      fc.property(picture, (p) => {
        expect(decodePng(encodePng(p.pixels, p))).toEqual(p);
      }),
    );
  });

  it('writes what another decoder reads', async () => {
    const pixels = Uint8Array.from({ length: 5 * 4 * 3 }, (_, i) => (i * 37) % 256);
    const { data, info } = await sharp(encodePng(pixels, { width: 5, height: 4, channels: 3 }))
      .raw()
      .toBuffer({ resolveWithObject: true });
    expect([info.width, info.height, info.channels]).toEqual([5, 4, 3]);
    expect(new Uint8Array(data)).toEqual(pixels);
  });

  it('reads interlaced, palette and transparent files', async () => {
    const red = { r: 250, g: 10, b: 20, alpha: 0.5 };
    for (const options of [{ progressive: true }, { palette: true }, {}]) {
      const png = await sharp({ create: { width: 3, height: 2, channels: 4, background: red } })
        .png(options)
        .toBuffer();
      const picture = decodePng(png);
      expect([picture.width, picture.height, picture.channels]).toEqual([3, 2, 3]);
      expect([...picture.pixels.subarray(0, 3)]).toEqual([250, 10, 20]);
    }
  });

  it('refuses a wrong number of bytes', () => {
    const size = { width: 2, height: 2, channels: 3 as const };
    expect(() => encodePng(new Uint8Array(11), size)).toThrow(
      'encodePng: 2×2 with 3 channels needs 12 bytes, got 11',
    );
  });

  it('names a file that is no PNG, or not whole', () => {
    const read = (bytes: Uint8Array) => decodePng(bytes, { name: 'grid.png' });
    expect(() => read(new TextEncoder().encode('hello'))).toThrow(UserError);
    expect(() => read(new TextEncoder().encode('hello'))).toThrow(
      /^grid\.png cannot be read as PNG: /,
    );
    const noise = Uint8Array.from({ length: 300 }, (_, i) => (i * i * 31) % 256);
    const png = encodePng(noise, { width: 10, height: 10, channels: 3 });
    expect(() => read(png.subarray(0, png.length - 30))).toThrow(UserError);
  });
});

describe('toByte', () => {
  it('maps [-1, 1] to 0 … 255, rounding and clamping', () => {
    const pairs = [
      [-1, 0],
      [1, 255],
      [0, 128],
      [-1.5, 0],
      [7, 255],
      [-0.999, 0],
      [-0.995, 1],
      [NaN, 0],
      [Infinity, 255],
      [-Infinity, 0],
    ] as const;
    for (const [value, byte] of pairs) expect(toByte(value), String(value)).toBe(byte);
    for (let byte = 0; byte < 256; byte++) expect(toByte(byte / 127.5 - 1)).toBe(byte);
  });
});

describe('imageGrid', () => {
  it('places images row by row with white between and around', () => {
    // Three grey 1×2 images (height 1, width 2) in two columns, padding 1.
    const images = Float32Array.from([-1, 1, 0, 0, 1, -1]);
    const grid = imageGrid(images, {
      n: 3,
      channels: 1,
      height: 1,
      width: 2,
      columns: 2,
      padding: 1,
    });
    expect([grid.width, grid.height, grid.channels]).toEqual([7, 5, 1]);
    const w = 255;
    expect([...grid.pixels]).toEqual([
      ...[w, w, w, w, w, w, w],
      ...[w, 0, 255, w, 128, 128, w],
      ...[w, w, w, w, w, w, w],
      ...[w, 255, 0, w, w, w, w],
      ...[w, w, w, w, w, w, w],
    ]);
  });

  it('interleaves planes, and takes bytes as they are', () => {
    const planes = Uint8Array.from([1, 2, 3, 4, 5, 6]); // [1, 3, 1, 2]
    const grid = imageGrid(planes, { n: 1, channels: 3, height: 1, width: 2, padding: 0 });
    expect([...grid.pixels]).toEqual([1, 3, 5, 2, 4, 6]);
  });

  it('is nearly square, with full rows where it can', () => {
    const columns = [1, 2, 3, 4, 6, 7, 8, 9, 16, 32, 36, 64, 100].map(gridColumns);
    expect(columns).toEqual([1, 2, 3, 2, 3, 3, 4, 3, 4, 8, 6, 8, 10]);
  });

  it('refuses a wrong number of values', () => {
    const options = { n: 2, channels: 3 as const, height: 4, width: 4 };
    expect(() => imageGrid(new Float32Array(95), options)).toThrow(
      'imageGrid: [2, 3, 4, 4] in 2 columns needs 96 values, got 95',
    );
  });
});
