import { mkdir, mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { fileURLToPath } from 'node:url';
import { zipSync } from 'fflate';
import sharp from 'sharp';
import { pack } from 'tar-stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Dataset, type DatasetOptions, openDataset } from '../../src/data/dataset.ts';
import { UserError } from '../../src/util/errors.ts';
import { snapshot } from '../support/files.ts';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-sources-'));
});
afterEach(() => rm(folder, { recursive: true }));

const golden = (name: string) =>
  fileURLToPath(new URL(`../golden/arrays/${name}`, import.meta.url));
const at = (name: string) => join(folder, name);

async function put(file: string, bytes: Uint8Array | string): Promise<string> {
  await mkdir(dirname(at(file)), { recursive: true });
  await writeFile(at(file), bytes);
  return at(file);
}

function open(source: string, options: Partial<DatasetOptions> = {}): Promise<Dataset> {
  return openDataset(source, { imageSize: 8, channels: 3, cacheDir: at('cache'), ...options });
}

async function complaint(opening: Promise<unknown>): Promise<string> {
  try {
    await opening;
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
  return 'opened';
}

/** All images of a set, one after the other. */
async function pixelsOf(set: Dataset): Promise<Uint8Array> {
  const out = new Uint8Array(set.size * set.channels * set.imageSize ** 2);
  await set.read([...new Array<undefined>(set.size).keys()], out);
  return out;
}

const labelsOf = (set: Dataset) => Array.from({ length: set.size }, (_, i) => set.label(i));

/** Pictures of one colour each, under the paths that a folder, a zip and a tar are made of. */
async function pictures(): Promise<Record<string, Uint8Array>> {
  const png = (background: string) =>
    sharp({ create: { width: 9, height: 12, channels: 3, background } })
      .png()
      .toBuffer();
  return {
    'photos/cats/1.png': await png('#ff0000'),
    'photos/cats/2.png': await png('#00ff00'),
    'photos/dogs/ä 3.png': await png('#0000ff'),
    'photos/dogs/notes.txt': Buffer.from('not looked at'),
    'photos/.hidden/4.png': await png('#ffffff'),
    '__MACOSX/._1.png': Buffer.from('not looked at'),
    '../../climbs.png': await png('#ffffff'),
    'photos/../../../climbs.png': await png('#ffffff'),
  };
}

async function tarOf(files: Readonly<Record<string, Uint8Array>>): Promise<Uint8Array> {
  const tar = pack();
  for (const [name, bytes] of Object.entries(files)) tar.entry({ name }, Buffer.from(bytes));
  tar.finalize();
  const parts: Buffer[] = [];
  for await (const part of tar) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

describe('an archive of images', () => {
  it.each(['zip', 'tar'])(
    'a %s is what the folder in it is, and nothing is written',
    async (kind) => {
      const files = await pictures();
      const inFolder = Object.entries(files).filter(([name]) => /^photos\/[^.]/.test(name));
      for (const [name, bytes] of inFolder) await put(name, bytes);
      const packed = kind === 'zip' ? zipSync(files) : await tarOf(files);
      const source = await put(`Set.${kind}`, packed);
      const before = snapshot(folder);
      const [archive, plain] = [await open(source), await open(at('photos'))];
      expect(archive.description).toBe(`3 images in 2 classes from ${source}`);
      expect([archive.name, archive.classes, labelsOf(archive)]).toEqual([
        ...['Set', ['cats', 'dogs'], [0, 0, 1]],
      ]);
      expect(await pixelsOf(archive)).toEqual(await pixelsOf(plain));
      // A run that was begun with the one goes on with the other.
      expect(archive.fingerprint).toBe(plain.fingerprint);
      await archive.close?.();
      expect(snapshot(folder)).toEqual(before);
    },
  );

  it('a tar has long names, large sizes in base 256 and the last of two files of one name', async () => {
    const { 'photos/cats/1.png': red, 'photos/cats/2.png': green } = await pictures();
    const long = `${'deep/'.repeat(60)}x.png`;
    const tar = Buffer.from(await tarOf({ 'a.png': red!, [long]: red!, 'a/../b': green! }));
    const again = Buffer.from(await tarOf({ 'a.png': green! }));
    // The size again as GNU writes those past 8 GiB, and the checksum that follows from it.
    again.fill(0, 124, 136);
    again.writeUInt8(0x80, 124);
    again.writeUInt32BE(green!.length, 132);
    again.fill(32, 148, 156);
    const sum = again.subarray(0, 512).reduce((total, byte) => total + byte, 0);
    again.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    const set = await open(await put('a.tar', Buffer.concat([tar.subarray(0, -1024), again])));
    const out = await pixelsOf(set);
    expect([set.size, out[0], out[64], out[192], out[256]]).toEqual([2, 0, 255, 255, 0]);
  });

  it('is used as far as it goes, or refused, where it is cut', async () => {
    const files = await pictures();
    const tar = await tarOf(files);
    const lines: string[] = [];
    const log = (line: string) => lines.push(line);
    const cut = await open(await put('cut.tar', tar.subarray(0, 1600)), { log });
    expect(cut.size).toBe(1);
    expect(lines).toEqual([
      `${at('cut.tar')} is cut short or damaged at byte 1024 of 1600: what lies behind is not read`,
    ]);
    expect(await complaint(open(await put('no.tar', Buffer.alloc(2000, 7))))).toBe(
      `${at('no.tar')} cannot be read as a tar: its first header is damaged`,
    );
    const zip = zipSync(files);
    expect(await complaint(open(await put('cut.zip', zip.subarray(0, -30))))).toMatch(
      /cut\.zip cannot be read as a zip: /,
    );
  });

  describe('and the listing of it that a run keeps', () => {
    const long = new Date(1_700_000_000_000);
    const table = Buffer.from('file,label\ncats/1.png,x\ncats/2.png,y\ndogs/ä 3.png,y\n');
    const kinds = {
      zip: (files: Record<string, Uint8Array>) => zipSync(files, { level: 0 }),
      tar: tarOf,
    };
    const index = () => at('data-index.gz');
    const said = (set: Dataset) => [set.fingerprint, set.description, set.classes, labelsOf(set)];
    let lines: string[] = [];
    const log = (line: string) => void lines.push(line);
    const kept = (source: string) => open(source, { run: folder, log });

    it.each(['zip', 'tar'] as const)(
      'is taken while a %s is the same, and no longer',
      async (kind) => {
        lines = [];
        const packed = await kinds[kind]({ ...(await pictures()), 'photos/labels.csv': table });
        const source = await put(`a.${kind}`, packed);
        await utimes(source, long, long);
        const first = await kept(source);
        await first.saveIndex?.(folder);
        // What is listed is not looked at again: a tar is listed by its headers, a zip by the directory at its end.
        const names = Buffer.from(packed);
        const where =
          kind === 'tar' ? names.indexOf('photos/cats/2') : names.lastIndexOf('photos/cats/2');
        names.write('PHOTOS', where, 'latin1');
        await writeFile(source, names);
        await utimes(source, long, long);
        const again = await kept(source);
        expect([said(again), await pixelsOf(again)]).toEqual([said(first), await pixelsOf(first)]);
        expect([first.classes, lines]).toEqual([['x', 'y'], []]);

        await utimes(source, long, new Date(1_700_000_001_000));
        if (kind === 'zip') expect((await kept(source)).fingerprint).not.toBe(first.fingerprint);
        else expect((await kept(source)).size).toBe(1);
        expect(lines[0]).toBe(
          `${source} is not what it was when ${index()} was written; it is listed again`,
        );
      },
    );

    it('is not taken of an archive that was just written, of a folder, or where it is damaged', async () => {
      lines = [];
      const files = await pictures();
      const source = await put('a.tar', await tarOf(files));
      const first = await kept(source);
      await first.saveIndex?.(folder);
      await writeFile(source, await tarOf({ 'b.png': files['photos/cats/1.png']! }));
      expect((await kept(source)).size).toBe(1);

      await utimes(source, long, long);
      await (await kept(source)).saveIndex?.(folder);
      await put('photos/c.png', files['photos/cats/1.png']!);
      const plain = await kept(at('photos'));
      await plain.saveIndex?.(folder);
      const other = await kept(source);
      expect([plain.size, other.size, lines]).toEqual([1, 1, []]);

      await other.saveIndex?.(folder);
      await writeFile(index(), (await readFile(index())).subarray(0, -12));
      expect((await kept(source)).size).toBe(1);
      expect(lines).toEqual([
        expect.stringMatching(/data-index\.gz is damaged \(.*\); .*a\.tar is listed again$/),
      ]);
    });

    it.each([
      ['null', (_head: object, rest: string[]) => ['null', ...rest.slice(1)]],
      [
        'an entry without a place',
        (_head, rest) => ['{"path":"a.png","size":3}', ...rest.slice(1)],
      ],
      ['a table that is none', (head, rest) => [JSON.stringify({ ...head, table: null }), ...rest]],
      ['more than it says', (_head, rest) => [...rest, ...rest]],
      ['a line without an end', (_head, rest) => [...rest, 'x'.repeat(2 ** 21)]],
    ] satisfies [string, (head: object, rest: string[]) => string[]][])(
      'is damaged where it holds %s',
      async (what, changed) => {
        lines = [];
        const source = await put('a.tar', await tarOf(await pictures()));
        await utimes(source, long, long);
        const first = await kept(source);
        await first.saveIndex?.(folder);
        const text = gunzipSync(await readFile(index())).toString();
        const [head = '', ...rest] = text.trimEnd().split('\n');
        const made = changed(JSON.parse(head) as object, rest);
        const all = what.startsWith('a table') ? made : [head, ...made];
        await writeFile(index(), gzipSync(all.join('\n')));
        expect(said(await kept(source))).toEqual(said(first));
        expect(lines).toEqual([expect.stringMatching(/data-index\.gz is damaged \(.*\); /)]);
      },
    );

    it('is not kept of a tar that breaks off, so that the line comes again', async () => {
      lines = [];
      const source = await put('cut.tar', (await tarOf(await pictures())).subarray(0, 1600));
      await utimes(source, long, long);
      for (const times of [1, 2]) {
        await (await kept(source)).saveIndex?.(folder);
        expect(lines).toHaveLength(times);
      }
    });
  });

  it('skips a member whose bytes are not those that were packed', async () => {
    const files = await pictures();
    const zip = zipSync(files, { level: 0 });
    const place = Buffer.from(zip).indexOf(Buffer.from(files['photos/cats/1.png']!));
    zip[place + 50]! ^= 1;
    const set = await open(await put('a.zip', zip));
    expect(set.skipped).toEqual([{ file: 'cats/1.png', reason: 'it is damaged in the zip' }]);
  });

  it('refuses what holds no image, and a compressed tar, with what to do', async () => {
    expect(await complaint(open(await put('a.zip', zipSync({ 'a.txt': Buffer.from('a') }))))).toBe(
      `no images in ${at('a.zip')}: looked for .png .jpg .jpeg .webp there and in its subfolders, found 1 other files (1 .txt)`,
    );
    for (const name of ['a.tar.gz', 'a.tgz']) {
      expect(await complaint(open(await put(name, 'x')))).toBe(
        `${at(name)} is a compressed tar, in which no image can be reached without unpacking those before it; ` +
          'unpack it into a folder, or decompress it to a .tar',
      );
    }
  });
});

describe('labels.csv', () => {
  const table =
    'file,label\r\n"cats/1.png",10\ncats/2.png,"a ""b"", c"\n./dogs/ä 3.png,10\ngone.png,9\n';

  it('names the classes of a folder and of a zip', async () => {
    const files = await pictures();
    for (const name of ['cats/1.png', 'cats/2.png', 'dogs/ä 3.png']) {
      await put(`set/${name}`, files[`photos/${name}`]!);
    }
    const bare = await open(at('set'));
    await put('set/labels.csv', table);
    const plain = await open(at('set'));
    const zip = zipSync({ ...files, 'photos/labels.csv': Buffer.from(table) });
    const packed = await open(await put('a.zip', zip));
    for (const set of [plain, packed]) {
      expect([set.classes, labelsOf(set)]).toEqual([
        ['10', 'a "b", c'],
        [0, 1, 0],
      ]);
    }
    expect(packed.fingerprint).toBe(plain.fingerprint);
    expect(plain.fingerprint).not.toBe(bare.fingerprint);
  });

  it('is refused with its line, and not read where it is another table', async () => {
    const { 'photos/cats/1.png': red } = await pictures();
    await put('set/1.png', red!);
    const path = `${at('set')}/labels.csv`;
    const said = async (text: string) => {
      await put('set/labels.csv', text);
      return complaint(open(at('set')));
    };
    expect(await said('file,label\n1.png\n')).toBe(`${path} line 2 is not file,label: 1.png`);
    expect(await said('file,label\n1.png,"a\n')).toBe(`${path} line 2 is not file,label: 1.png,"a`);
    expect(await said('file,label\n1.png,a\n1.png,b')).toBe(
      `${path} line 3 names 1.png a second time`,
    );
    expect(await said('file,label\n2.png,a\n')).toBe(
      `${path} has no label for 1 of 1 images, such as 1.png; add them, or remove the images`,
    );
    const lines: string[] = [];
    await put('set/labels.csv', 'id,breed\n1,cat\n');
    await open(at('set'), { log: (line) => lines.push(line) });
    expect(lines).toEqual([`${path} is not read: its first line is not file,label`]);
  });
});

describe('CIFAR', () => {
  /** Records whose pixel i is i + record modulo 256. */
  const records = (labels: readonly (readonly number[])[]) =>
    Buffer.concat(
      labels.map((row, r) => Buffer.concat([Buffer.from(row), Buffer.from(plane(3072, r))])),
    );
  const plane = (n: number, first: number) => Uint8Array.from({ length: n }, (_, i) => i + first);

  it('10: its training batches in their order, with the names of its classes', async () => {
    await put('c/data_batch_2.bin', records([[1]]));
    await put('c/data_batch_1.bin', records([[2], [0]]));
    await put('c/test_batch.bin', records([[0]]));
    await put('c/batches.meta.txt', 'airplane\nautomobile\nbird\n\n');
    const set = await open(at('c'), { imageSize: 32 });
    expect([set.classes, labelsOf(set)]).toEqual([
      ['airplane', 'automobile', 'bird'],
      [2, 0, 1],
    ]);
    const expected = [0, 1, 0].flatMap((first) => [...plane(3072, first)]);
    expect(await pixelsOf(set)).toEqual(Uint8Array.from(expected));
    expect((await open(at('c'), { imageSize: 16, channels: 1 })).size).toBe(3);
  });

  it('100: the fine labels', async () => {
    await put(
      'c/train.bin',
      records([
        [19, 3],
        [4, 1],
      ]),
    );
    const set = await open(at('c'), { imageSize: 32 });
    expect([set.classes.length, labelsOf(set)]).toEqual([4, [3, 1]]);
    expect((await pixelsOf(set)).subarray(0, 3)).toEqual(Uint8Array.of(0, 1, 2));
  });

  it('is refused where it is cut, or has more classes than names', async () => {
    const path = await put('c/data_batch_1.bin', records([[2]]).subarray(1));
    expect(await complaint(open(at('c')))).toBe(
      `${path} has 3072 bytes, which is no whole number of CIFAR-10's records of 3073: it is cut short, or no CIFAR-10 file`,
    );
    await put('c/data_batch_1.bin', records([[0], [2]]));
    await put('c/batches.meta.txt', 'airplane\nautomobile\n');
    expect(await complaint(open(at('c')))).toBe(
      `image 1 of ${at('c')} has label 2, but batches.meta.txt names 2 classes; the files are damaged or of another set`,
    );
  });
});

describe('arrays of NumPy', () => {
  /** What test/golden/arrays.py counts, image by image and channel by channel. */
  const counted = (
    index: (image: number, channel: number, pixel: number) => number,
    channels = 3,
  ) =>
    Uint8Array.from(
      { length: 5 * channels * 64 },
      (_, i) =>
        (index(Math.floor(i / (channels * 64)), Math.floor(i / 64) % channels, i % 64) * 7) % 251,
    );

  it.each([
    ['nhwc.npz', counted((n, c, p) => (n * 64 + p) * 3 + c)],
    ['nchw.npz', counted((n, c, p) => (n * 3 + c) * 64 + p)],
    ['grey.npz', counted((n, _c, p) => n * 64 + p)],
  ])('%s is images and labels', async (name, pixels) => {
    const set = await open(golden(name));
    expect(await pixelsOf(set)).toEqual(pixels);
    expect([set.classes, labelsOf(set)]).toEqual([
      ['0', '1', '2'],
      [2, 0, 1, 2, 0],
    ]);
    await set.close?.();
  });

  it('a .npy is images of one class', async () => {
    const set = await open(golden('alone.npy'), { channels: 1 });
    expect(await pixelsOf(set)).toEqual(counted((n, _c, p) => n * 64 + p, 1));
    expect([set.classes, set.size]).toEqual([['alone'], 5]);
  });

  it('what is no images is refused with the reason', async () => {
    expect(await complaint(open(golden('float.npz')))).toBe(
      `images in ${golden('float.npz')} holds <f4, and images are uint8 of 0 to 255; convert it, as by (255 * x).astype('uint8')`,
    );
    expect(await complaint(open(golden('fortran.npz')))).toMatch(
      /^images in .* lies in Fortran's order; save it again through numpy\.ascontiguousarray$/,
    );
    expect(await complaint(open(golden('which.npz')))).toBe(
      `${golden('which.npz')} does not say which array is the images: it has a (5, 8, 8), b (5, 8, 8); save them as images=… and labels=…`,
    );
    const whole = await readFile(golden('alone.npy'));
    expect(await complaint(open(await put('a.npy', whole.subarray(0, -1))))).toBe(
      `${at('a.npy')} is cut short or damaged: its shape (5, 8, 8, 1) is 320 bytes, and 319 follow its head`,
    );
  });
});

describe('--resize', () => {
  it('crop takes the middle as it is, turned upright; a small image is scaled', async () => {
    // Column x of 24×12 is 10 x.
    const raw = Uint8Array.from({ length: 24 * 12 }, (_, i) => (i % 24) * 10);
    const image = sharp(raw, { raw: { width: 24, height: 12, channels: 1 } });
    await put('set/1.png', await image.clone().png().toBuffer());
    await put('set/2.png', await image.clone().withMetadata({ orientation: 6 }).png().toBuffer());
    await put(
      'set/3.png',
      await image.clone().extract({ left: 9, top: 0, width: 4, height: 4 }).png().toBuffer(),
    );
    const crop = await pixelsOf(await open(at('set'), { channels: 1, resize: 'crop' }));
    expect([...crop.subarray(0, 8)]).toEqual([80, 90, 100, 110, 120, 130, 140, 150]);
    // Turned by 90°: the columns are rows.
    expect([crop[64], crop[64 + 7], crop[64 + 8]]).toEqual([80, 80, 90]);
    const cover = await pixelsOf(await open(at('set'), { channels: 1 }));
    expect(cover.subarray(0, 64)).not.toEqual(crop.subarray(0, 64));
    expect(cover.subarray(128)).toEqual(crop.subarray(128));
  });
});
