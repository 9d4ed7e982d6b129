import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openAvatars, parseAvatarStyles } from '../../src/data/avatars.ts';
import { type Dataset, openDataset } from '../../src/data/dataset.ts';
import { loadStyle } from '../../src/data/styles.ts';
import { UserError } from '../../src/util/errors.ts';

let folder = '';
let lines: string[] = [];
let drawn = 0;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-avatars-'));
  lines = [];
  drawn = 0;
});
afterEach(() => rm(folder, { recursive: true }));

function open(n: number, channels: 1 | 3 = 3, cacheDir = join(folder, 'cache')): Promise<Dataset> {
  return openDataset('avatars:thumbs', {
    imageSize: 32,
    channels,
    cacheDir,
    avatars: n,
    onProgress: ({ stage, total }) => {
      expect([stage, total]).toEqual(['drawing avatars', n]);
      drawn++;
    },
    log: (line) => lines.push(line),
  });
}

async function all(set: Dataset): Promise<Uint8Array> {
  const out = new Uint8Array(set.size * set.channels * set.imageSize ** 2);
  await set.read(
    Array.from({ length: set.size }, (_, i) => i),
    out,
  );
  return out;
}

describe('avatars', () => {
  it('are drawn once, kept in one file, and are the same when drawn again', async () => {
    const first = await all(await open(10));
    expect(drawn).toBe(10);
    expect(await readdir(join(folder, 'cache'))).toEqual([
      'avatars-thumbs-n10-32x32x3-v1.safetensors',
    ]);
    const cached = await open(10);
    expect(drawn).toBe(10);
    expect(await all(cached)).toEqual(first);
    expect([cached.name, cached.size, cached.classes]).toEqual(['avatars', 10, ['thumbs']]);
    expect(cached.description).toBe('10 avatars, style thumbs');
    expect(await all(await open(10, 3, join(folder, 'elsewhere')))).toEqual(first);
    expect(drawn).toBe(20);
    expect(lines).toEqual([]);
  });

  it('show a figure with a face on plain ground, no two alike', async () => {
    const n = 40;
    const images = await all(await open(n));
    const at = (i: number, y: number, x: number) =>
      [0, 1, 2].map((c) => images[((i * 3 + c) * 32 + y) * 32 + x]!);
    const seen = new Set<string>();
    const colours = new Set<string>();
    for (let i = 0; i < n; i++) {
      const corners = [at(i, 0, 0), at(i, 0, 31)];
      expect(corners).toEqual([
        [0xf1, 0xf4, 0xdc],
        [0xf1, 0xf4, 0xdc],
      ]);
      colours.add(at(i, 29, 16).join());
      // Eyes and mouth: near-white pixels in the middle, well inside the coloured head.
      let white = 0;
      for (let y = 6; y < 30; y++) {
        for (let x = 6; x < 26; x++) if (Math.min(...at(i, y, x)) > 240) white++;
      }
      expect(white, `image ${i}`).toBeGreaterThan(4);
      expect(white, `image ${i}`).toBeLessThan(150);
      seen.add(images.subarray(i * 3072, (i + 1) * 3072).join());
    }
    expect(seen.size).toBe(n);
    expect(colours.size).toBeGreaterThanOrEqual(6);
  });

  it('are luminance with one channel, in a file of their own', async () => {
    const colour = await all(await open(3));
    const set = await open(3, 1);
    const grey = await all(set);
    expect([set.channels, grey.length]).toEqual([1, 3 * 1024]);
    expect(await readdir(join(folder, 'cache'))).toHaveLength(2);
    expect(grey[0]).toBeGreaterThan(235);
    expect(grey[0]).not.toBe(colour[2 * 1024]);
  });

  it.each(['a flipped pixel', 'a cut'])('are drawn again after %s in the file', async (damage) => {
    const first = await all(await open(4));
    const path = join(folder, 'cache', 'avatars-thumbs-n4-32x32x3-v1.safetensors');
    const bytes = await readFile(path);
    bytes[bytes.length - 100]! ^= 1;
    const cut = damage === 'a cut';
    await writeFile(path, cut ? bytes.subarray(0, 5000) : bytes);
    expect(await all(await open(4))).toEqual(first);
    expect(drawn).toBe(8);
    expect(lines).toEqual([
      cut
        ? expect.stringMatching(
            /^avatar cache .* is cut short: its header says 12288 bytes of tensors, but the file holds \d+; the avatars are drawn again$/,
          )
        : `avatar cache ${path} is damaged; the avatars are drawn again`,
    ]);
    await open(4);
    expect(drawn).toBe(8);
  });

  it('need no cache folder that can be written', async () => {
    await writeFile(join(folder, 'file'), '');
    const set = await open(2, 3, join(folder, 'file', 'cache'));
    expect(set.size).toBe(2);
    expect(lines.at(-1)).toMatch(
      /^cannot write .*avatars-thumbs-n2-32x32x3-v1\.safetensors: a part of the path is a file, not a folder \(ENOTDIR\); the avatars will be drawn again next time$/,
    );
  });

  it('are of two styles unless one is named, the style as the class', async () => {
    const cacheDir = join(folder, 'cache');
    const set = await openDataset('avatars', { imageSize: 32, channels: 3, cacheDir, avatars: 4 });
    expect(set.classes).toEqual(['thumbs', 'pixel-art']);
    expect(set.description).toBe('4 avatars, styles thumbs, pixel-art');
    expect([0, 1, 2, 3].map((i) => set.label(i))).toEqual([0, 1, 0, 1]);
  });

  it('must be as many as styles', async () => {
    const options = { styles: ['thumbs'], n: 0, imageSize: 32, channels: 3 as const };
    await expect(openAvatars({ ...options, cacheDir: folder })).rejects.toThrow(
      new UserError('0 avatars of 1 styles; there must be one of each at least'),
    );
  });
});

describe('avatar styles', () => {
  it('are read from the source', () => {
    expect(parseAvatarStyles('avatars')).toEqual(['thumbs', 'pixel-art']);
    expect(parseAvatarStyles('avatars:thumbs,pixel-art')).toEqual(['thumbs', 'pixel-art']);
    expect(parseAvatarStyles('./avatars')).toBeUndefined();
  });

  it('must be known, and named once', () => {
    const known =
      'glass, identicon, initials, lorelei, lorelei-neutral, notionists, notionists-neutral, ' +
      'open-peeps, pixel-art, pixel-art-neutral, rings, shapes, thumbs';
    expect(() => parseAvatarStyles('avatars:thumbs,micah')).toThrow(
      new UserError(`unknown avatar style "micah"; there are ${known}`),
    );
    expect(() => parseAvatarStyles('avatars:')).toThrow('unknown avatar style ""');
    expect(() => parseAvatarStyles('avatars:thumbs,thumbs')).toThrow(
      new UserError('avatar style thumbs is named twice'),
    );
  });

  it('name the package that is missing', async () => {
    await expect(loadStyle('no-such-style')).rejects.toThrow(
      new UserError(
        'avatar style no-such-style needs the package @dicebear/no-such-style; ' +
          'run npm install @dicebear/no-such-style@9.4.3',
      ),
    );
  });

  it('draw the same SVG for the same seed', async () => {
    const draw = await loadStyle('thumbs');
    expect(draw('thumbs-3', 128)).toBe(draw('thumbs-3', 128));
    expect(draw('thumbs-3', 128)).not.toBe(draw('thumbs-4', 128));
    expect(draw('thumbs-3', 128)).toContain('scale(1.5)');
  });
});
