import { mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Dataset, type DatasetOptions, openDataset } from '../../src/data/dataset.ts';
import { Loader } from '../../src/data/loader.ts';
import { openThreaded } from '../../src/data/threaded.ts';
import { UserError } from '../../src/util/errors.ts';
import { writeImages } from '../support/images.ts';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-threaded-'));
});
afterEach(() => rm(folder, { recursive: true }));

const options = (more: Partial<DatasetOptions> = {}): DatasetOptions => ({
  ...{ imageSize: 16, channels: 3, cacheDir: join(folder, 'cache') },
  ...more,
});

/** What a data set says and holds, read as training does. */
async function contents(set: Dataset) {
  const loader = new Loader(set, { batch: 4, seed: 3, flip: true });
  const batches = [];
  for (let i = 0; i < 5; i++) batches.push(await loader.next());
  const { name, description, size, channels, frames, imageSize, fingerprint, classes } = set;
  const labels = Array.from({ length: size }, (_, i) => set.label(i));
  const said = { name, description, size, channels, frames, imageSize, fingerprint, classes };
  await loader.close();
  await set.close?.();
  return { ...said, resize: set.resize, labels, skipped: [...set.skipped], batches };
}

describe('a data set in a thread of its own', { timeout: 120_000 }, () => {
  it.each([
    ['decoded at opening, one file bad', {}],
    ['with a cache on disk', { cacheBytes: 2 ** 30 }],
  ])('gives what it gives in this one: files, %s', async (_, more) => {
    const images = join(folder, 'images');
    await writeImages(images, 12);
    await writeFile(join(images, 'b', 'bad.png'), 'no image');
    const [here, there]: string[][] = [[], []];
    const log = (lines: string[]) => (line: string) => void lines.push(line);
    const progress: number[] = [];
    const expected = await contents(
      await openDataset(images, options({ ...more, log: log(here!), cacheDir: join(folder, 'c') })),
    );
    const actual = await contents(
      await openThreaded(
        images,
        options({ ...more, log: log(there!), onProgress: ({ done }) => progress.push(done) }),
      ),
    );
    expect(actual).toEqual(expected);
    expect(actual.skipped).toHaveLength(1);
    expect(there).toEqual(here);
    expect(progress.at(-1)).toBe(13);
  });

  it('gives what it gives in this one: clips', async () => {
    const clips = options({ frames: 4, clips: 6 });
    expect(await contents(await openThreaded('moving-shapes', clips))).toEqual(
      await contents(await openDataset('moving-shapes', clips)),
    );
  });

  it("gives the user's mistakes as such, and ends", async () => {
    const missing = openThreaded(join(folder, 'nowhere'), options());
    await expect(missing).rejects.toThrow(UserError);
    await expect(missing).rejects.toThrow(/no such folder or file/);
  });

  it('keeps the listing in a run, and finds it there', async () => {
    await writeImages(join(folder, 'images'), 4);
    const set = await openThreaded(join(folder, 'images'), options());
    await set.saveIndex?.(folder);
    await set.close?.();
    expect(await readdir(folder)).toContain('data-index.gz');
  });

  it('refuses what no data set has, and anything once it is closed', async () => {
    await writeImages(join(folder, 'images'), 4);
    const set = await openThreaded(join(folder, 'images'), options());
    await expect(set.read([4], new Uint8Array(3 * 16 * 16))).rejects.toThrow(RangeError);
    await set.close?.();
    await expect(set.read([0], new Uint8Array(3 * 16 * 16))).rejects.toThrow(/has ended/);
  });

  it('tells of a file that goes bad while it trains, and whose label took its place', async () => {
    const images = join(folder, 'images');
    const files = (await writeImages(images, 8)).sort();
    const lines: string[] = [];
    const log = (line: string) => void lines.push(line);
    const set = await openThreaded(images, options({ cacheBytes: 2 ** 30, log }));
    const last = files.filter((file) => file.startsWith('a/')).length - 1;
    expect([set.classes, set.label(last)]).toEqual([['.', 'a', 'b'], 1]);
    for (const file of await readdir(folder, { recursive: true })) {
      if (file.endsWith('.shard')) await truncate(join(folder, file), 8);
    }
    await rm(join(images, files[last]!));
    const [out, next] = [new Uint8Array(3 * 16 * 16), new Uint8Array(3 * 16 * 16)];
    await set.read([last], out);
    await set.read([last + 1], next);
    expect(out).toEqual(next);
    expect([set.label(last), set.label(last + 1)]).toEqual([2, 2]);
    expect(set.listedLabel?.(last)).toBe(1);
    expect(set.skipped.map(({ file }) => file)).toEqual([files[last]]);
    expect(set.description).toMatch(/1 skipped/);
    expect(lines.join('\n')).toMatch(/the next good image takes its place/);
    await set.close?.();
  });
});
