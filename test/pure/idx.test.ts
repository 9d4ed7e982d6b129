import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openDataset } from '../../src/data/dataset.ts';
import { openFashionMnist, parseIdxImages, parseIdxLabels } from '../../src/data/idx.ts';
import { UserError } from '../../src/util/errors.ts';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-idx-'));
});
afterEach(() => rm(folder, { recursive: true }));

function idx(magic: number, dims: readonly number[], data: ArrayLike<number>): Uint8Array {
  const out = new Uint8Array(4 + 4 * dims.length + data.length);
  const view = new DataView(out.buffer);
  [magic, ...dims].forEach((n, i) => {
    view.setUint32(4 * i, n);
  });
  out.set(data, 4 + 4 * dims.length);
  return out;
}

const IMAGES = 'train-images-idx3-ubyte';
const LABELS = 'train-labels-idx1-ubyte';

/** Three images of 28×28, image i filled with 10 (i + 1) but for a white top left pixel; labels 2, 0, 1. */
function pixels(n = 3): Uint8Array {
  return Uint8Array.from({ length: n * 784 }, (_, i) =>
    i % 784 === 0 ? 255 : 10 * (Math.floor(i / 784) + 1),
  );
}

async function writeSet(gz = false): Promise<void> {
  const pack = (bytes: Uint8Array) => (gz ? gzipSync(bytes) : bytes);
  const ending = gz ? '.gz' : '';
  await writeFile(join(folder, IMAGES + ending), pack(idx(0x803, [3, 28, 28], pixels())));
  await writeFile(join(folder, LABELS + ending), pack(idx(0x801, [3], [2, 0, 1])));
}

function open(imageSize = 32, channels: 1 | 3 = 1, log?: (line: string) => void) {
  const extra = log === undefined ? {} : { log };
  return openDataset(folder, { imageSize, channels, cacheDir: join(folder, 'cache'), ...extra });
}

describe('an IDX folder', () => {
  it('has the fingerprint of its pixels, packed or not', async () => {
    const fingerprint = async () => (await open()).fingerprint;
    await writeSet();
    const plain = await fingerprint();
    expect(plain).toMatch(/^[0-9a-f]{64}$/);
    await rm(join(folder, IMAGES));
    await writeSet(true);
    expect(await fingerprint()).toBe(plain);
    const other = pixels();
    other[1000]! ^= 1;
    await writeFile(join(folder, `${IMAGES}.gz`), gzipSync(idx(0x803, [3, 28, 28], other)));
    expect(await fingerprint()).not.toBe(plain);
  });

  it.each([false, true])('is known by its file names (gzip: %s) and padded 28 → 32', async (gz) => {
    await writeSet(gz);
    const set = await open();
    expect([set.size, set.channels, set.imageSize]).toEqual([3, 1, 32]);
    expect(set.classes).toEqual(['0', '1', '2']);
    expect([0, 1, 2].map((i) => set.label(i))).toEqual([2, 0, 1]);
    expect(set.description).toBe(`3 images of 28×28 in 3 classes from ${folder}`);
    const out = new Uint8Array(2 * 1024).fill(77);
    await set.read([2, 0], out);
    const at = (image: number, y: number, x: number) => out[image * 1024 + y * 32 + x];
    expect([at(0, 0, 0), at(0, 1, 16), at(0, 16, 1), at(0, 30, 16)]).toEqual([0, 0, 0, 0]);
    expect([at(0, 2, 2), at(0, 2, 3), at(0, 29, 29), at(1, 2, 2), at(1, 29, 2)]).toEqual([
      ...[255, 30, 30, 255, 10],
    ]);
  });

  it('repeats grey for three channels', async () => {
    await writeSet();
    const grey = new Uint8Array(1024);
    await (await open(32, 1)).read([1], grey);
    const rgb = new Uint8Array(3 * 1024);
    await (await open(32, 3)).read([1], rgb);
    expect([...rgb]).toEqual([...grey, ...grey, ...grey]);
  });

  it('is resized where padding would be wide, or the image is larger', async () => {
    await writeSet();
    for (const size of [64, 16]) {
      const out = new Uint8Array(size * size);
      await (await open(size)).read([1], out);
      const middle = out[(size / 2) * size + size / 2];
      expect([middle, out[size * size - 1], out[size - 1]]).toEqual([20, 20, 20]);
      // The white corner pixel covers a third of an output pixel at size 16, on a ground of 20.
      expect(out[0]).toBeGreaterThan(60);
    }
  });

  it('prefers the training images, and does without labels', async () => {
    await writeFile(join(folder, 't10k-images-idx3-ubyte'), idx(0x803, [1, 28, 28], pixels(1)));
    const lines: string[] = [];
    const test = await open(32, 1, (line) => lines.push(line));
    expect([test.size, test.classes.length, test.label(0)]).toEqual([1, 1, 0]);
    expect(lines).toEqual([
      `${folder} has no t10k-labels-idx1-ubyte[.gz]: all images are one class`,
    ]);
    await writeSet();
    expect((await open()).size).toBe(3);
  });

  it('refuses several sets, mismatched labels and broken gzip', async () => {
    await writeSet();
    await cp(join(folder, IMAGES), join(folder, 'other-train-images-idx3-ubyte'));
    await expect(open()).rejects.toThrow(
      new UserError(
        `${folder} has several IDX image files (other-${IMAGES}, ${IMAGES}); keep one of them in a folder of its own`,
      ),
    );
    await rm(join(folder, 'other-train-images-idx3-ubyte'));
    await writeFile(join(folder, LABELS), idx(0x801, [2], [0, 1]));
    await expect(open()).rejects.toThrow(
      new UserError(
        `${join(folder, LABELS)} counts 2 labels, but ${IMAGES} counts 3 images; they belong to different sets`,
      ),
    );
    await rm(join(folder, IMAGES));
    const whole = gzipSync(idx(0x803, [3, 28, 28], pixels()));
    await writeFile(join(folder, `${IMAGES}.gz`), whole.subarray(0, whole.length - 9));
    await expect(open()).rejects.toThrow(
      new UserError(
        `${join(folder, `${IMAGES}.gz`)} is not a whole gzip file: unexpected end of file`,
      ),
    );
  });

  it('refuses an output of the wrong size and an index outside', async () => {
    await writeSet();
    const set = await open();
    await expect(set.read([0], new Uint8Array(5))).rejects.toThrow(
      'read: 1 images of 1024 bytes do not fit an output of 5',
    );
    await expect(set.read([3], new Uint8Array(1024))).rejects.toThrow(
      'read: index 3 of a data set of 3',
    );
  });
});

describe('an IDX file that is wrong', () => {
  const images = (bytes: Uint8Array) => () => parseIdxImages(bytes, { name: 'x' });
  const labels = (bytes: Uint8Array) => () => parseIdxLabels(bytes, { name: 'x' });

  it.each([
    [
      'labels for images',
      images(idx(0x801, [4], [1, 2, 3, 4])),
      'x has the wrong magic number: found 0x00000801 (labels: bytes in 1 dimension), expected 0x00000803 (images: bytes in 3 dimensions)',
    ],
    [
      'floats for labels',
      labels(idx(0xd01, [1], [0, 0, 0, 0])),
      'x has the wrong magic number: found 0x00000d01 (neither images nor labels), expected 0x00000801 (labels: bytes in 1 dimension)',
    ],
    [
      'PNG bytes',
      images(Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 1, 2)),
      'x has the wrong magic number: found 0x89504e47 (neither images nor labels), expected 0x00000803 (images: bytes in 3 dimensions)',
    ],
    [
      'an empty file',
      images(new Uint8Array(0)),
      'x is cut short: an IDX header of images: bytes in 3 dimensions has 16 bytes, but the file has 0',
    ],
    [
      'missing pixels',
      images(idx(0x803, [4, 2, 3], new Uint8Array(17))),
      'x is cut short: its header counts 4 images of 2×3, but the file holds 2 (17 bytes after the header, not 24)',
    ],
    [
      'too many pixels',
      images(idx(0x803, [1, 2, 3], new Uint8Array(12))),
      'x is too long: its header counts 1 images of 2×3, but the file holds 2 (12 bytes after the header, not 6)',
    ],
    [
      'a count that overflows',
      images(idx(0x803, [0xffffffff, 0xffffffff, 0xffffffff], [])),
      'x is cut short: its header counts 4294967295 images of 4294967295×4294967295, but the file holds 0 (0 bytes after the header, not 7.9228162458924105e+28)',
    ],
    [
      'no images',
      images(idx(0x803, [0, 28, 28], [])),
      'x holds no pixels: it counts 0 images of 28×28',
    ],
    [
      'missing labels',
      labels(idx(0x801, [5], [1, 2])),
      'x is cut short: its header counts 5 labels, but the file holds 2',
    ],
  ])('is refused for %s', (_, parse, message) => {
    expect(parse).toThrow(UserError);
    expect(parse).toThrow(new UserError(message));
  });

  it('never fails otherwise than by UserError', () => {
    const start = idx(0x803, [2, 3, 3], new Uint8Array(18));
    const damage = fc.array(fc.tuple(fc.nat(33), fc.nat(255)), { maxLength: 3 });
    fc.assert(
      fc.property(damage, fc.nat(34), (changes, length) => {
        const bytes = start.slice(0, length);
        for (const [at, value] of changes) if (at < length) bytes[at] = value;
        try {
          const { n, height, width, pixels: kept } = parseIdxImages(bytes, { name: 'x' });
          expect(kept.length).toBe(n * height * width);
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
        }
      }),
    );
  });
});

describe('fashion-mnist', () => {
  it('has its class names', async () => {
    const root = join(folder, 'debian');
    await mkdir(root);
    await writeSet(true);
    for (const file of [IMAGES, LABELS])
      await cp(join(folder, `${file}.gz`), join(root, `${file}.gz`));
    const set = await openFashionMnist({ imageSize: 32, channels: 1, root });
    expect(set.name).toBe('fashion-mnist');
    expect(set.classes).toEqual(['T-shirt/top', 'Trouser', 'Pullover']);
  });

  it('says how to install it', async () => {
    for (const root of [join(folder, 'none'), folder]) {
      await expect(openFashionMnist({ imageSize: 32, channels: 1, root })).rejects.toThrow(
        new UserError(
          `fashion-mnist is not installed: ${root} has no IDX files; run apt-get install dataset-fashion-mnist, ` +
            'or give --data a folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz',
        ),
      );
    }
  });
});
