import {
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Dataset, openDataset } from '../../src/data/dataset.ts';
import { listFolder } from '../../src/data/folder.ts';
import { openStore } from '../../src/data/shard-store.ts';

const imageBytes = 3 * 4 * 4;
let folder = '';
let lines: string[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-cache-'));
  lines = [];
});
afterEach(() => rm(folder, { recursive: true }));

const log = (line: string) => lines.push(line);
const image = (i: number) => Uint8Array.from({ length: imageBytes }, (_, k) => i + k);

function store(options: Partial<Parameters<typeof openStore>[0]> = {}) {
  const set = { imageSize: 4, channels: 3, version: 'set', images: 5 } as const;
  return openStore({
    ...set,
    cacheDir: folder,
    limitBytes: 1000,
    shardBytes: 2 * imageBytes,
    log,
    ...options,
  });
}

/** The store's shards, the only files that it may leave. */
async function shards(): Promise<string[]> {
  const all = await readdir(folder, { recursive: true, withFileTypes: true });
  return all
    .filter((e) => e.isFile())
    .map((e) => join(e.parentPath, e.name))
    .sort();
}

function held(from: Awaited<ReturnType<typeof store>>): (number | undefined)[] {
  const out = new Uint8Array(imageBytes);
  return [0, 1, 2, 3, 4].map((i) => {
    if (from?.read(i, out) !== true) return undefined;
    expect(out).toEqual(image(out[0]!));
    return out[0];
  });
}

async function filled(images: readonly number[]): Promise<void> {
  const first = await store();
  for (const i of images) first?.put(i, image(i));
  await first?.close();
}

describe('a store of decoded images', () => {
  it('keeps them for the next opening, before and after they are in a file', async () => {
    const first = await store();
    for (const i of [3, 0]) first?.put(i, image(i));
    await first?.flush();
    first?.put(4, image(4));
    expect(held(first)).toEqual([0, undefined, undefined, 3, 4]);
    await first?.close();
    expect(await shards()).toHaveLength(2);
    const second = await store();
    expect([0, 1, 2, 3, 4].map((i) => second?.has(i))).toEqual([true, false, false, true, true]);
    expect(held(second)).toEqual([0, undefined, undefined, 3, 4]);
    await second?.close();
    expect(lines).toEqual([]);
  });

  it('is another for other files, sizes, channels and resizes', async () => {
    await filled([0]);
    for (const other of [
      { version: 'b' },
      { imageSize: 2 },
      { channels: 1 },
      { resize: 'crop' },
    ] as const) {
      expect((await store(other))?.has(0)).toBe(false);
    }
    expect((await store())?.has(0)).toBe(true);
  });

  it('is whole again after a shard was cut, changed in its head, table or pixels, or replaced', async () => {
    const damages: ((path: string) => Promise<void>)[] = [
      (path) => truncate(path, 40),
      (path) => truncate(path, 0),
      ...[3, 9, 14, 18, 25].map((at) => async (path: string) => {
        const bytes = await readFile(path);
        bytes[at]! ^= 0x40;
        await writeFile(path, bytes);
      }),
      (path) => writeFile(path, Buffer.alloc(500, 255)),
    ];
    for (const damage of damages) {
      await filled([0, 1]);
      const [path = ''] = await shards();
      await damage(path);
      lines = [];
      const again = await store();
      expect(again?.has(0)).toBe(false);
      expect(lines).toEqual([
        '1 damaged file of decoded images removed: those images are decoded again',
      ]);
      await again?.close();
    }
    await filled([0, 1]);
    const [path = ''] = await shards();
    const bytes = await readFile(path);
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(path, bytes);
    lines = [];
    const pixels = await store();
    expect(held(pixels)).toEqual([0, undefined, undefined, undefined, undefined]);
    expect(lines[0]).toMatch(
      /its bytes are not those that were written\): its 2 images are decoded again$/,
    );
    await pixels?.close();
    expect(await shards()).toEqual([]);
  });

  it('outlives its files while it is open', async () => {
    await filled([0, 1]);
    const open = await store();
    for (const path of await shards()) await truncate(path, 30);
    expect(held(open)).toEqual(Array(5).fill(undefined));
    open?.put(0, image(0));
    expect(held(open)[0]).toBe(0);
    await open?.close();
  });

  it('is filled by two at once, and what both wrote is kept once', async () => {
    const [a, b] = await Promise.all([store(), store()]);
    for (const i of [0, 1, 2, 3, 4]) {
      a?.put(i, image(i));
      b?.put(4 - i, image(4 - i));
    }
    await Promise.all([a?.close(), b?.close()]);
    const twice = (await shards()).length;
    const third = await store();
    expect(held(third)).toEqual([0, 1, 2, 3, 4]);
    await third?.close();
    expect((await shards()).length).toBeLessThan(twice);
    expect(lines).toEqual([]);
  });

  it('removes the sets used longest ago, and refuses one that can never fit', async () => {
    for (const [i, version] of ['old', 'older', 'new'].entries()) {
      const one = await store({ version });
      for (const k of [0, 1, 2, 3, 4]) one?.put(k, image(k));
      await one?.close();
      const [seconds = 0] = [[100, 50, 200][i]];
      const newest = (await readdir(join(folder, 'pixels'))).map((n) => join(folder, 'pixels', n));
      if (i === 0) await utimes(newest[0]!, seconds, seconds);
    }
    const before = (await shards()).length;
    const last = await store({ version: 'last', limitBytes: 2 * 5 * imageBytes + 200 });
    expect(last).toBeDefined();
    expect((await shards()).length).toBeLessThan(before);
    expect((await store({ version: 'old' }))?.has(0)).toBe(false);
    expect(await store({ limitBytes: 5 * imageBytes - 1 })).toBeUndefined();
    expect(lines).toEqual([
      'the decoded images would fill 0.0 GiB, and the cache may hold 0.0 GiB: they are decoded in every epoch (--cache-limit)',
    ]);
  });

  it('is done without where the folder cannot be made', async () => {
    await writeFile(join(folder, 'file'), '');
    expect(await store({ cacheDir: join(folder, 'file') })).toBeUndefined();
    expect(lines).toEqual([
      expect.stringMatching(/^the cache of decoded images cannot be used \(/),
    ]);
  });
});

describe('a folder of images and its cache', () => {
  const at = (name: string) => join(folder, 'set', name);
  const png = (background: string) =>
    sharp({ create: { width: 9, height: 9, channels: 3, background } })
      .png()
      .toBuffer();
  const open = (onProgress: () => void): Promise<Dataset> =>
    openDataset(join(folder, 'set'), {
      ...{ imageSize: 4, channels: 3, cacheDir: join(folder, 'c'), cacheBytes: 2 ** 20 },
      onProgress,
      log,
    });

  it('decodes a file once for all runs, again when it was changed, and tells nobody its name', async () => {
    await mkdir(join(folder, 'set'));
    for (const [i, colour] of ['#110000', '#220000', '#330000'].entries()) {
      await writeFile(at(`secret-${i}.png`), await png(colour));
    }
    await writeFile(at('secret-bad.png'), 'no picture');
    let decoded = 0;
    const firsts = async () => {
      decoded = 0;
      const set = await open(() => (decoded += 1));
      const out = new Uint8Array(set.size * imageBytes);
      await set.read([0, 1, 2], out);
      await set.close?.();
      return [0, 1, 2].map((i) => out[i * imageBytes]);
    };
    expect(await firsts()).toEqual([0x11, 0x22, 0x33]);
    expect(decoded).toBe(4);
    const cached = await shards();
    const inCache = cached.filter((path) => path.includes('/c/'));
    expect(inCache).toHaveLength(1);
    for (const path of inCache) {
      expect(path).toMatch(/\/pixels\/[0-9a-f]{40}\/\w+-\d+-\d+-\d+\.shard$/);
      expect((await readFile(path)).includes('secret')).toBe(false);
    }
    expect(await firsts()).toEqual([0x11, 0x22, 0x33]);
    // The bad one alone, for its reason.
    expect(decoded).toBe(1);
    await utimes(at('secret-1.png'), 1e9, 1e9);
    await writeFile(at('secret-1.png'), await png('#990000'));
    expect(await firsts()).toEqual([0x11, 0x99, 0x33]);
    expect(decoded).toBe(4);
  });
});

describe('the listing that a run keeps', () => {
  it('is taken while the folder is the same, and made again with a line when it is not', async () => {
    const set = join(folder, 'set');
    const run = join(folder, 'run');
    await mkdir(join(set, 'a'), { recursive: true });
    await mkdir(run);
    await writeFile(join(set, 'a', '1.png'), 'one');
    await writeFile(join(set, 'a', 'line\nbreak.png'), 'two');
    const long = 1e9;
    const settle = async () => {
      for (const path of [join(set, 'a', '1.png'), join(set, 'a'), set])
        await utimes(path, long, long);
    };
    await settle();
    const listed = await listFolder(set, { run, log });
    await listed.saveIndex?.(run);
    const stages: string[] = [];
    const again = await listFolder(set, {
      run,
      log,
      onProgress: ({ stage }) => stages.push(stage),
    });
    expect([again.files, again.fingerprint, again.version]).toEqual([
      ...[listed.files, listed.fingerprint, listed.version],
    ]);
    expect([lines, stages]).toEqual([[], []]);
    // In place, and of the same size: the folder itself does not tell.
    await writeFile(join(set, 'a', '1.png'), 'eno');
    const changed = await listFolder(set, { run, log });
    expect([changed.fingerprint, changed.version === listed.version]).toEqual([
      listed.fingerprint,
      false,
    ]);
    expect(lines).toEqual([
      `${join(set, 'a', '1.png')} has changed since ${join(run, 'data-index.gz')} was written; ${set} is listed again`,
    ]);
    await settle();
    await writeFile(join(set, 'a', '3.png'), 'three');
    lines = [];
    expect((await listFolder(set, { run, log })).files).toHaveLength(3);
    expect(lines).toEqual([
      `${join(set, 'a')} has changed since ${join(run, 'data-index.gz')} was written; ${set} is listed again`,
    ]);
    const index = await readFile(join(run, 'data-index.gz'));
    await writeFile(join(run, 'data-index.gz'), index.subarray(0, -12));
    lines = [];
    expect((await listFolder(set, { run, log })).files).toHaveLength(3);
    expect(lines[0]).toMatch(/data-index\.gz is damaged \(.*\); .* is listed again$/);
  });
});
