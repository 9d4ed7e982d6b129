import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import sharp, { type Color } from 'sharp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Dataset, type DatasetOptions, openDataset } from '../../src/data/dataset.ts';
import { sha256 } from '../../src/data/fingerprint.ts';
import type { FilesOptions } from '../../src/data/files.ts';
import { openFolder } from '../../src/data/folder.ts';
import { Loader } from '../../src/data/loader.ts';
import { UserError } from '../../src/util/errors.ts';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-folder-'));
});
afterEach(() => rm(folder, { recursive: true }));

const SOURCES =
  '--data takes a folder of images, a zip or tar of images, a folder of IDX or CIFAR files, a .npz or .npy, ' +
  'fashion-mnist, avatars, avatars:STYLE,STYLE or moving-shapes';

function open(options: Partial<DatasetOptions> = {}): Promise<Dataset> {
  return openDataset(folder, { imageSize: 8, channels: 3, cacheDir: folder, ...options });
}

async function put(file: string, bytes: Uint8Array | string): Promise<void> {
  await mkdir(dirname(join(folder, file)), { recursive: true });
  await writeFile(join(folder, file), bytes);
}

type Format = 'png' | 'jpeg' | 'webp';

function encoded(format: Format, background: Color, width = 20, height = 12): Promise<Buffer> {
  return sharp({ create: { width, height, channels: 3, background } })
    .toFormat(format)
    .toBuffer();
}

/** Noise does not compress, so that a cut takes pixels away. */
function noise(format: Format): Promise<Buffer> {
  const raw = Uint8Array.from({ length: 40 * 40 * 3 }, (_, i) => Math.imul(i, 2654435761) >>> 24);
  return sharp(raw, { raw: { width: 40, height: 40, channels: 3 } })
    .toFormat(format)
    .toBuffer();
}

/** The first pixel of each channel of image `index`. */
async function firstPixel(set: Dataset, index: number): Promise<number[]> {
  const plane = set.imageSize ** 2;
  const out = new Uint8Array(set.channels * plane);
  await set.read([index], out);
  return Array.from({ length: set.channels }, (_, c) => out[c * plane]!);
}

describe('a folder of images', () => {
  it('reads nested PNG, JPEG and WebP of any case, in the order of their paths', async () => {
    await put('b/z.PNG', await encoded('png', '#ff0000'));
    await put('b/a.Jpg', await encoded('jpeg', '#00ff00'));
    await put('a/deep/er/x.webp', await encoded('webp', '#0000ff'));
    await put('B.jpeg', await encoded('jpeg', '#ffffff'));
    await put('.hidden/x.png', 'not looked at');
    await put('._b.png', 'not looked at');
    await put('notes.txt', 'not looked at');
    const set = await open();
    expect(set.size).toBe(4);
    expect(set.name).toBe(basename(folder));
    expect(set.skipped).toEqual([]);
    const near = (rgb: number[]) => rgb.map((v) => expect.closeTo(v, -0.7));
    expect(await firstPixel(set, 0)).toEqual(near([255, 255, 255]));
    expect(await firstPixel(set, 1)).toEqual(near([0, 0, 255]));
    expect(await firstPixel(set, 2)).toEqual(near([0, 255, 0]));
    expect(await firstPixel(set, 3)).toEqual([255, 0, 0]);
  });

  it('has the fingerprint of its paths and sizes, wherever it lies', async () => {
    const fingerprint = async (of = folder) =>
      (await openFolder(of, { imageSize: 8, channels: 3 })).fingerprint;
    await put('a/1.png', await encoded('png', '#123456'));
    await put('b/2.png', await noise('png'));
    await put('notes.txt', '');
    const first = await fingerprint();
    const moved = await mkdtemp(join(tmpdir(), 'wgsagan-folder-'));
    await cp(folder, moved, { recursive: true });
    expect(await fingerprint(moved)).toBe(first);
    await put('notes.txt', 'another text');
    expect(await fingerprint()).toBe(first);
    await put('b/2.png', await encoded('png', '#123456'));
    expect(await fingerprint()).not.toBe(first);
    await rename(join(moved, 'a', '1.png'), join(moved, 'a', '3.png'));
    expect(await fingerprint(moved)).not.toBe(first);
    await rm(moved, { recursive: true });
  });

  it('hashes bytes of any number, a part at a time', () => {
    const bytes = Uint8Array.from({ length: 100 }, (_, i) => i);
    const whole = createHash('sha256').update(bytes).digest('hex');
    for (const part of [1, 7, 100, undefined]) expect(sha256(bytes, part)).toBe(whole);
  });

  it('takes top-level folders as classes where there are several', async () => {
    const image = await encoded('png', '#123456');
    await put('cats/1.png', image);
    await put('cats/more/2.png', image);
    expect((await open()).classes).toEqual([basename(folder)]);
    await put('dogs/1.png', image);
    await put('empty/readme.txt', '');
    const set = await open();
    expect(set.classes).toEqual(['cats', 'dogs']);
    expect([0, 1, 2].map((i) => set.label(i))).toEqual([0, 0, 1]);
    expect(set.description).toBe(`3 images in 2 classes from ${folder}`);
    await put('0.png', image);
    const loose = await open();
    expect(loose.classes).toEqual(['.', 'cats', 'dogs']);
    expect([0, 1, 2, 3].map((i) => loose.label(i))).toEqual([0, 1, 1, 2]);
  });

  it('crops at the centre, lays transparency on white, and writes planes', async () => {
    // Red | green | blue thirds of 24×8: the centre square is green alone.
    const thirds = Uint8Array.from({ length: 24 * 8 * 3 }, (_, i) =>
      Math.floor(((i / 3) % 24) / 8) === i % 3 ? 255 : 0,
    );
    const raw = { width: 24, height: 8, channels: 3 as const };
    await put('1.png', await sharp(thirds, { raw }).png().toBuffer());
    const clear = { r: 0, g: 0, b: 0, alpha: 0 };
    const create = { width: 9, height: 9, channels: 4 as const, background: clear };
    await put('2.png', await sharp({ create }).png().toBuffer());
    const set = await open();
    const out = new Uint8Array(2 * 192);
    await set.read([1, 0], out);
    const white = new Uint8Array(192).fill(255);
    expect(out.subarray(0, 192)).toEqual(white);
    const green = Uint8Array.from({ length: 192 }, (_, i) => (Math.floor(i / 64) === 1 ? 255 : 0));
    // The centre's neighbours do not bleed in: the scale is 1.
    expect(out.subarray(192)).toEqual(green);
  });

  it('turns photographs upright', async () => {
    // Orientation 6: the camera's left is the picture's top. Left half black, right half white.
    const halves = Uint8Array.from({ length: 16 * 16 * 3 }, (_, i) => ((i / 3) % 16 < 8 ? 0 : 255));
    const raw = { width: 16, height: 16, channels: 3 as const };
    const jpeg = await sharp(halves, { raw }).withMetadata({ orientation: 6 }).jpeg().toBuffer();
    await put('1.jpg', jpeg);
    const out = new Uint8Array(192);
    await (await open()).read([0], out);
    expect([out[0]! < 20, out[7]! < 20, out[56]! > 235, out[63]! > 235]).toEqual(
      Array(4).fill(true),
    );
  });

  it('makes one channel the luminance, and three out of grey and 16 bits', async () => {
    await put('1.png', await encoded('png', '#ff0000'));
    const grey16 = Buffer.from(new Uint16Array(81).fill(0x8080).buffer);
    const raw = { width: 9, height: 9, channels: 1 as const, depth: 'ushort' as const };
    await put('2.png', await sharp(grey16, { raw }).toColourspace('grey16').png().toBuffer());
    const grey = await open({ channels: 1 });
    const [red = 0] = await firstPixel(grey, 0);
    expect(red).toBeGreaterThan(50);
    expect(red).toBeLessThan(140);
    expect(await firstPixel(grey, 1)).toEqual([128]);
    expect(await firstPixel(await open(), 1)).toEqual([128, 128, 128]);
  });

  it('follows symbolic links, also those that go round in a circle', async () => {
    await put('set/1.png', await encoded('png', '#112233'));
    await symlink(folder, join(folder, 'set', 'round'));
    await symlink(join(folder, 'none'), join(folder, 'dangling.png'));
    await symlink(join(folder, 'set', '1.png'), join(folder, 'link.png'));
    expect((await open()).size).toBe(2);
  });

  it('reports progress', async () => {
    for (const i of [1, 2, 3]) await put(`${i}.png`, await encoded('png', '#445566'));
    const seen: string[] = [];
    await open({ onProgress: (p) => seen.push(`${p.stage} ${p.done}/${p.total}`) });
    expect(seen).toEqual(['decoding images 1/3', 'decoding images 2/3', 'decoding images 3/3']);
  });
});

describe('files that cannot be decoded', () => {
  it.each(['png', 'jpeg', 'webp'] as const)('finds a truncated %s', async (format) => {
    await put('a.png', await encoded('png', '#aaaaaa'));
    const whole = await noise(format);
    await put(`bad.${format}`, whole.subarray(0, Math.floor(0.8 * whole.length)));
    const set = await open();
    expect([set.size, set.skipped.map((s) => s.file)]).toEqual([1, [`bad.${format}`]]);
  });

  it('names and counts what is skipped, and closes the gap', async () => {
    const jpeg = await noise('jpeg');
    await put('1.png', await encoded('png', '#111111'));
    await put('2.png', 'no picture');
    await put('3.png', await encoded('png', '#333333'));
    await put('sub/4.jpg', jpeg.subarray(0, jpeg.length / 2));
    await put('sub/5.png', '');
    const lines: string[] = [];
    const set = await open({ log: (line) => lines.push(line) });
    expect(set.skipped).toEqual([
      { file: '2.png', reason: 'unsupported image format' },
      { file: 'sub/4.jpg', reason: 'premature end of JPEG image' },
      { file: 'sub/5.png', reason: 'the file is empty' },
    ]);
    expect(lines).toEqual([
      `3 of 5 images in ${folder} cannot be decoded and are skipped: 2.png (unsupported image format), ` +
        'sub/4.jpg (premature end of JPEG image), sub/5.png (the file is empty)',
    ]);
    expect(set.description).toBe(`2 images from ${folder}, 3 skipped`);
    expect(await firstPixel(set, 1)).toEqual([0x33, 0x33, 0x33]);
    await expect(firstPixel(set, 2)).rejects.toThrow('read: index 2 of a data set of 2');
  });

  it('are fatal when strict', async () => {
    await put('1.png', await encoded('png', '#111111'));
    await put('2.png', 'no picture');
    await expect(open({ strict: true })).rejects.toThrow(
      new UserError(
        `1 of 2 images in ${folder} cannot be decoded: 2.png (unsupported image format); ` +
          'remove them, or leave out --strict',
      ),
    );
  });

  it('lists at most five', async () => {
    await put('0.png', await encoded('png', '#111111'));
    for (let i = 1; i <= 7; i++) await put(`${i}.png`, '');
    const lines: string[] = [];
    await open({ log: (line) => lines.push(line) });
    expect(lines[0]).toMatch(/5\.png \(the file is empty\) and 2 more$/);
  });

  it('are all there is', async () => {
    await put('1.png', 'no picture');
    await put('2.png', '');
    await expect(open()).rejects.toThrow(
      new UserError(
        `none of the 2 images in ${folder} can be decoded; the first, 1.png: unsupported image format`,
      ),
    );
  });
});

describe('a folder too large to check at opening', () => {
  const lazily = (options: Partial<FilesOptions> = {}) =>
    openFolder(folder, { imageSize: 8, channels: 1, checkUpTo: 0, ...options });

  it('puts the next good image in the place of a bad one, with its class', async () => {
    await put('a/1.png', await encoded('png', '#111111'));
    await put('a/2.png', 'no picture');
    await put('a/3.png', '');
    await put('b/4.png', await encoded('png', '#444444'));
    await put('b/5.png', '');
    const lines: string[] = [];
    const set = await lazily({ log: (line) => lines.push(line) });
    expect([set.size, set.skipped.length]).toEqual([5, 0]);
    const out = new Uint8Array(5 * 64);
    await set.read([0, 1, 2, 3, 4], out);
    const levels = [0, 1, 2, 3, 4].map((i) => out[i * 64]);
    expect(levels).toEqual([0x11, 0x44, 0x44, 0x44, 0x11]);
    expect([0, 1, 2, 3, 4].map((i) => set.label(i))).toEqual([0, 1, 1, 1, 0]);
    expect(set.skipped.map((s) => s.file).sort()).toEqual(['a/2.png', 'a/3.png', 'b/5.png']);
    expect(lines).toContainEqual(
      expect.stringMatching(
        /^a\/2\.png in .* cannot be decoded \(unsupported image format\); the next good image takes its place \(\d skipped so far\)$/,
      ),
    );
    await set.read([1, 2, 4], out.subarray(0, 3 * 64));
    expect(lines.length).toBe(3);
  });

  it.each([false, true])(
    'has one order whether bad files are known or not, as after a rollback: balanced %s',
    async (balanced) => {
      for (let i = 0; i < 6; i++) {
        await put(
          `a/${i}.png`,
          i % 2 === 1 ? 'no picture' : await encoded('png', `#${i}1${i}1${i}1`),
        );
        await put(`b/${i}.png`, await encoded('png', `#${i}9${i}9${i}9`));
      }
      await put('a/6.png', '');
      const take = async (loader: Loader, n: number) => {
        const batches = [];
        for (let i = 0; i < n; i++) batches.push(await loader.next());
        await loader.close();
        return batches;
      };
      const how = { batch: 5, seed: 3, balanced };
      const set = await lazily();
      const uninterrupted = new Loader(set, how);
      await take(uninterrupted, 3);
      const state = uninterrupted.state();
      const expected = await take(uninterrupted, 9);
      expect(set.skipped.length).toBe(4);
      for (const again of [set, await lazily()]) {
        const loader = new Loader(again, how);
        loader.restore(state);
        expect(await take(loader, 9)).toEqual(expected);
      }
    },
  );

  it('stops at a bad one when strict, and where nothing is good', async () => {
    await put('1.png', 'no picture');
    const strict = await lazily({ strict: true });
    await expect(strict.read([0], new Uint8Array(64))).rejects.toThrow(
      new UserError(
        `1.png in ${folder} cannot be decoded (unsupported image format); remove it, or leave out --strict`,
      ),
    );
    await expect((await lazily()).read([0], new Uint8Array(64))).rejects.toThrow(
      `none of the 1 images in ${folder} can be decoded; the first, 1.png: unsupported image format`,
    );
  });

  it('decodes once where the set fits in memory, and every time where it does not', async () => {
    const out = new Uint8Array(64);
    for (const [memoryBytes, second] of [
      [64, 0x11],
      [63, 0x22],
    ] as const) {
      await put('1.png', await encoded('png', '#111111'));
      const set = await lazily({ memoryBytes });
      await set.read([0], out);
      expect(out[0]).toBe(0x11);
      await put('1.png', await encoded('png', '#222222'));
      await set.read([0], out);
      expect(out[0]).toBe(second);
    }
  });
});

describe('a source that is no data', () => {
  const from = (source: string) =>
    openDataset(source, { imageSize: 8, channels: 3, cacheDir: folder });

  it('is a folder that does not exist', async () => {
    const none = join(folder, 'none');
    await expect(from(none)).rejects.toThrow(
      new UserError(`no such folder or file: ${none}; ${SOURCES}`),
    );
    await expect(from('')).rejects.toThrow(new UserError(`--data is empty; ${SOURCES}`));
  });

  it('is a file of no kind that is read', async () => {
    await put('a.txt', '');
    const file = join(folder, 'a.txt');
    await expect(from(file)).rejects.toThrow(
      new UserError(`${file} is a file of no kind that is read here; ${SOURCES}`),
    );
  });

  it('is a folder with no images', async () => {
    const looked = 'looked for .png .jpg .jpeg .webp there and in its subfolders';
    await expect(open()).rejects.toThrow(
      new UserError(`no images in ${folder}: ${looked}, found no files`),
    );
    for (const file of ['a.txt', 'b.TXT', 'sub/c.gif', 'Makefile']) await put(file, '');
    await expect(open()).rejects.toThrow(
      new UserError(
        `no images in ${folder}: ${looked}, found 4 other files (2 .txt, 1 with no extension, 1 .gif)`,
      ),
    );
  });

  it('is asked for at an impossible size', async () => {
    await expect(open({ imageSize: 0 })).rejects.toThrow(
      new UserError('image size is 0; it must be an integer from 1'),
    );
  });
});
