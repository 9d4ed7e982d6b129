import { closeSync, openSync, readdirSync, rmSync, statSync } from 'node:fs';
import { mkdir, readdir, rm, stat, statfs, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { threadId } from 'node:worker_threads';
import { isTemporary, writeFileAtomic } from '../io/atomic.ts';
import { messageOf } from '../util/errors.ts';
import { type DecodeOptions, DECODER_VERSION } from './decode.ts';
import { fingerprintOf } from './fingerprint.ts';
import type { PixelStore } from './pixels.ts';
import { type Shard, encodeShard, openShard, readImage } from './shard.ts';

export interface StoreOptions extends DecodeOptions {
  /** The cache of all data sets is a folder in this one. */
  readonly cacheDir: string;
  /** What all data sets together may fill: those used longest ago go. */
  readonly limitBytes: number;
  /** What tells the files from any others (`ImageFiles.version`). */
  readonly version: string;
  /** Images in the set. */
  readonly images: number;
  readonly log?: ((line: string) => void) | undefined;
  /** Bytes of a shard. Default 32 MiB. */
  readonly shardBytes?: number | undefined;
}

/** The folder, in a cache folder, that holds one folder a data set. */
const FOLDER = 'pixels';
const ENDING = '.shard';
/** Files kept open at once; a system may allow a process as few as 256. */
const MOST_OPEN = 64;
/** No process takes so long to write a shard. */
const LEFT_BEHIND_MS = 3_600_000;
/** Left free on the disk. */
const SPARE_BYTES = 2 ** 30;

/**
 * The decoded images of a data set on disk, in shards that are written once each and hold pixels and sums alone: the folder
 * is named by a hash of the set, its size, channels and resize. Undefined, with a line to `log`, where they would pass the
 * limit or fill the disk, or where the cache cannot be written.
 *
 * Several processes may write to one: each writes files of its own, whole or not at all. What they write twice is removed
 * at the next opening, as is a shard that is cut or damaged. Images are read by position, not mapped into memory: measured
 * on batches of 64, the system calls cost 0.04 ms more, and a mapped file that is cut kills the process that reads it.
 */
export async function openStore(options: StoreOptions): Promise<PixelStore | undefined> {
  const { cacheDir, limitBytes, images, channels, imageSize, log } = options;
  const imageBytes = channels * imageSize ** 2;
  const need = images * imageBytes;
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  if (need > limitBytes) {
    log?.(
      `the decoded images would fill ${gib(need)}, and the cache may hold ${gib(limitBytes)}: they are decoded in every epoch (--cache-limit)`,
    );
    return undefined;
  }
  const all = join(cacheDir, FOLDER);
  const name = keyOf(options);
  const folder = join(all, name);
  try {
    await mkdir(folder, { recursive: true });
    const now = new Date();
    await utimes(folder, now, now);
    await evict(all, { keep: name, room: limitBytes - need });
    const shards = openShards(folder, { imageBytes, images, log });
    const there = shards.reduce((sum, shard) => sum + shard.images.length, 0) * imageBytes;
    const { bavail, bsize } = await statfs(folder);
    if (bavail * bsize < need - there + SPARE_BYTES) {
      log?.(
        `the decoded images would fill ${gib(need - there)} of the ${gib(bavail * bsize)} that are free in ${all}: they are decoded in every epoch`,
      );
      return undefined;
    }
    return new ShardStore(folder, shards, { ...options, imageBytes });
  } catch (error) {
    log?.(`the cache of decoded images cannot be used (${messageOf(error)})`);
    return undefined;
  }
}

/** The name of a set's folder: nothing of its files can be read from it. */
function keyOf({ version, imageSize, channels, resize = 'cover' }: StoreOptions): string {
  const texts = ['pixels', String(DECODER_VERSION), version, String(imageSize), String(channels)];
  return fingerprintOf([...texts, resize]).slice(0, 40);
}

/** Removes the folders of other sets, those used longest ago first, until they fit into the room. */
async function evict(all: string, { keep, room }: { keep: string; room: number }): Promise<void> {
  const others = await Promise.all(
    (await readdir(all))
      .filter((name) => name !== keep)
      .map(async (name) => {
        const path = join(all, name);
        // Another process may have removed it by now.
        const used = (await stat(path).catch(() => undefined))?.mtimeMs ?? 0;
        return { path, used, bytes: await bytesIn(path) };
      }),
  );
  let bytes = others.reduce((sum, one) => sum + one.bytes, 0);
  for (const one of others.sort((a, b) => a.used - b.used)) {
    if (bytes <= room) return;
    await rm(one.path, { recursive: true, force: true }).catch(() => undefined);
    bytes -= one.bytes;
  }
}

async function bytesIn(folder: string): Promise<number> {
  const names = await readdir(folder).catch(() => []);
  const sizes = await Promise.all(
    names.map(async (name) => (await stat(join(folder, name)).catch(() => undefined))?.size ?? 0),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** The shards of a folder; those that are not whole are removed, and those that say nothing new. */
function openShards(
  folder: string,
  set: { imageBytes: number; images: number; log?: StoreOptions['log'] },
): Shard[] {
  const shards: Shard[] = [];
  const held = new Set<number>();
  let damaged = 0;
  for (const name of readdirSync(folder).sort()) {
    const path = join(folder, name);
    if (isTemporary(name) && statSync(path).mtimeMs < Date.now() - LEFT_BEHIND_MS) rmSync(path);
    if (!name.endsWith(ENDING)) continue;
    try {
      const shard = openShard(path, set.imageBytes);
      if (shard.images.some((image) => image >= set.images))
        throw new Error('it is of another set');
      if (shard.images.every((image) => held.has(image))) {
        rmSync(path, { force: true });
        continue;
      }
      for (const image of shard.images) held.add(image);
      shards.push(shard);
    } catch {
      damaged += 1;
      rmSync(path, { force: true });
    }
  }
  if (damaged > 0) {
    set.log?.(
      `${damaged} damaged ${damaged === 1 ? 'file' : 'files'} of decoded images removed: those images are decoded again`,
    );
  }
  return shards;
}

let written = 0;

class ShardStore implements PixelStore {
  private readonly folder: string;
  private readonly options: StoreOptions & { readonly imageBytes: number };
  private readonly shards: (Shard | undefined)[];
  /** Of each image: number of its shard + 1 and its slot there; 0 for none. */
  private readonly shardOf: Uint32Array;
  private readonly slotOf: Uint32Array;
  private held = 0;
  /** Put here, and not in a file yet. */
  private waiting = new Map<number, Uint8Array>();
  /** On their way into a file. */
  private readonly leaving = new Map<number, Uint8Array>();
  /** Is there a write that has yet to begin? It takes all that waits by then. */
  private queued = false;
  private writing: Promise<void> = Promise.resolve();
  private full = false;
  /** Open files by shard, the one used last at the end. */
  private readonly open = new Map<number, number>();

  constructor(
    folder: string,
    shards: readonly Shard[],
    options: StoreOptions & { readonly imageBytes: number },
  ) {
    this.folder = folder;
    this.options = options;
    this.shards = [];
    this.shardOf = new Uint32Array(options.images);
    this.slotOf = new Uint32Array(options.images);
    for (const shard of shards) this.take(shard);
  }

  has(image: number): boolean {
    return this.shardOf[image] !== 0 || this.waiting.has(image) || this.leaving.has(image);
  }

  read(image: number, out: Uint8Array): boolean {
    const near = this.waiting.get(image) ?? this.leaving.get(image);
    if (near !== undefined) {
      out.set(near);
      return true;
    }
    const number = (this.shardOf[image] ?? 0) - 1;
    const shard = this.shards[number];
    if (shard === undefined) return false;
    try {
      if (readImage(this.fileOf(number, shard), shard, this.slotOf[image] ?? 0, out)) return true;
      throw new Error('its bytes are not those that were written');
    } catch (error) {
      this.drop(number, shard, messageOf(error));
      return false;
    }
  }

  put(image: number, pixels: Uint8Array): void {
    if (this.full || this.has(image)) return;
    this.waiting.set(image, pixels);
    const { imageBytes, shardBytes = 2 ** 25, images } = this.options;
    const all = this.held + this.waiting.size + this.leaving.size === images;
    const due = all || this.waiting.size * imageBytes >= shardBytes;
    // What comes while a shard is written makes one more, however much it is.
    if (due && !this.queued) void this.flush();
  }

  async room(): Promise<void> {
    const { imageBytes, shardBytes = 2 ** 25 } = this.options;
    const unwritten = (this.waiting.size + this.leaving.size) * imageBytes;
    if (unwritten > 3 * shardBytes) await this.flush();
  }

  flush(): Promise<void> {
    if (this.queued) return this.writing;
    this.queued = true;
    this.writing = this.writing.then(() => {
      this.queued = false;
      return this.write();
    });
    return this.writing;
  }

  async close(): Promise<void> {
    await this.flush();
    for (const fd of this.open.values()) closeSync(fd);
    this.open.clear();
  }

  private take(shard: Shard): void {
    this.shards.push(shard);
    for (const [slot, image] of shard.images.entries()) {
      if (this.shardOf[image] === 0) this.held += 1;
      this.shardOf[image] = this.shards.length;
      this.slotOf[image] = slot;
    }
  }

  /** Writes what is waiting into one shard; on an error nothing more is kept, and what was waiting is let go. */
  private async write(): Promise<void> {
    if (this.waiting.size === 0) return;
    const entries = [...this.waiting].sort(([a], [b]) => a - b);
    this.waiting = new Map();
    for (const [image, pixels] of entries) this.leaving.set(image, pixels);
    const name = `${Date.now().toString(36)}-${process.pid}-${threadId}-${written++}${ENDING}`;
    const path = join(this.folder, name);
    try {
      // Whoever makes room in the cache, or empties it, may have removed the folder.
      await mkdir(this.folder, { recursive: true });
      await writeFileAtomic(path, encodeShard(entries));
      this.take(openShard(path, this.options.imageBytes));
    } catch (error) {
      this.full = true;
      this.options.log?.(`decoded images are no longer kept: ${messageOf(error)}`);
    }
    for (const [image] of entries) this.leaving.delete(image);
  }

  private fileOf(number: number, shard: Shard): number {
    const fd = this.open.get(number) ?? openSync(shard.path, 'r');
    // The one used last goes to the end.
    this.open.delete(number);
    this.open.set(number, fd);
    const [oldest] = this.open;
    if (this.open.size > MOST_OPEN && oldest !== undefined) {
      closeSync(oldest[1]);
      this.open.delete(oldest[0]);
    }
    return fd;
  }

  /** Lets go of a shard that is gone or damaged: its images are decoded again. */
  private drop(number: number, shard: Shard, reason: string): void {
    const fd = this.open.get(number);
    if (fd !== undefined) closeSync(fd);
    this.open.delete(number);
    this.shards[number] = undefined;
    for (const image of shard.images) {
      if (this.shardOf[image] !== number + 1) continue;
      this.shardOf[image] = 0;
      this.held -= 1;
    }
    rmSync(shard.path, { force: true });
    this.options.log?.(
      `a file of decoded images cannot be read (${reason}): its ${shard.images.length} images are decoded again`,
    );
  }
}
