import { readFile, readdir, realpath, stat } from 'node:fs/promises';
import { basename, extname, join, resolve } from 'node:path';
import { UserError, messageOf } from '../util/errors.ts';
import { fileError } from '../io/errno.ts';
import type { DataProgress, Dataset, SkippedFile } from './dataset.ts';
import { type DecodeOptions, decodeImage } from './decode.ts';
import { fingerprintOf } from './fingerprint.ts';
import { checkRead } from './memory.ts';
import { DECODES_IN_FLIGHT, forEachParallel } from './parallel.ts';

const EXTENSIONS = new Set(['.png', '.jpg', '.jpeg', '.webp']);
const LOOSE = '.';

export interface FolderOptions extends DecodeOptions {
  readonly strict?: boolean;
  readonly onProgress?: (progress: DataProgress) => void;
  readonly log?: (line: string) => void;
  /** Decoded images stay in memory when all of them fit. Default 512 MiB. */
  readonly memoryBytes?: number;
  /** Up to this many images are all decoded at opening, so that bad files are known before the first step. Default 20,000. */
  readonly checkUpTo?: number;
}

/**
 * Every PNG, JPEG and WebP below `folder`, in the order of their paths. The top-level subfolders are the classes where
 * there is more than one (images beside them form a class named "."). Files and folders whose names begin with a dot
 * are passed over; symbolic links are followed.
 */
export async function openFolder(folder: string, options: FolderOptions): Promise<Dataset> {
  const { images, others } = await listImages(folder);
  if (images.length === 0) throw new UserError(noImages(folder, others));
  const fingerprint = await fingerprintOfFiles(folder, images);
  const set = new FolderDataset(folder, images, { ...options, fingerprint });
  if (images.length <= (options.checkUpTo ?? 20_000)) await set.checkAll();
  return set;
}

class FolderDataset implements Dataset {
  readonly name: string;
  readonly fingerprint: string;
  readonly channels: 1 | 3;
  readonly frames = 1;
  readonly imageSize: number;
  readonly classes: readonly string[];
  readonly skipped: SkippedFile[] = [];
  private readonly folder: string;
  private readonly files: readonly string[];
  private readonly options: FolderOptions;
  private readonly imageBytes: number;
  private readonly labels: Uint32Array;
  private readonly bad: Uint8Array;
  /** Decoded images by file number, where all fit. */
  private readonly memory: Uint8Array | undefined;
  private readonly inMemory: Uint8Array;
  /** Index → file number; the identity until bad files are taken out. */
  private order: Uint32Array;

  constructor(
    folder: string,
    files: readonly string[],
    options: FolderOptions & { readonly fingerprint: string },
  ) {
    this.name = basename(resolve(folder));
    this.fingerprint = options.fingerprint;
    this.folder = folder;
    this.files = files;
    this.options = options;
    this.channels = options.channels;
    this.imageSize = options.imageSize;
    this.imageBytes = options.channels * options.imageSize ** 2;
    const tops = files.map((file) =>
      file.includes('/') ? file.slice(0, file.indexOf('/')) : LOOSE,
    );
    const folders = [...new Set(tops)].sort();
    const classed = folders.filter((top) => top !== LOOSE).length > 1;
    this.classes = classed ? folders : [this.name];
    this.labels = Uint32Array.from(tops, (top) => (classed ? folders.indexOf(top) : 0));
    this.bad = new Uint8Array(files.length);
    this.inMemory = new Uint8Array(files.length);
    const bytes = files.length * this.imageBytes;
    this.memory = bytes <= (options.memoryBytes ?? 2 ** 29) ? new Uint8Array(bytes) : undefined;
    this.order = Uint32Array.from({ length: files.length }, (_, i) => i);
  }

  get size(): number {
    return this.order.length;
  }

  get description(): string {
    const classes = this.classes.length > 1 ? ` in ${this.classes.length} classes` : '';
    const skipped = this.skipped.length > 0 ? `, ${this.skipped.length} skipped` : '';
    return `${this.size} images${classes} from ${this.folder}${skipped}`;
  }

  async read(indices: Uint32Array | readonly number[], out: Uint8Array): Promise<void> {
    checkRead(indices, out, { size: this.size, imageBytes: this.imageBytes });
    await forEachParallel(indices.length, DECODES_IN_FLIGHT, async (i) => {
      out.set(await this.firstGood(this.order[indices[i] ?? 0] ?? 0), i * this.imageBytes);
    });
  }

  label(index: number): number {
    let file = this.order[index] ?? 0;
    for (let n = this.files.length; n > 0 && this.bad[file] === 1; n--) file = this.after(file);
    return this.labels[file] ?? 0;
  }

  /** Decodes everything once and takes the bad files out of the order. */
  async checkAll(): Promise<void> {
    const total = this.files.length;
    let done = 0;
    const reasons = new Map<number, string>();
    await forEachParallel(total, DECODES_IN_FLIGHT, async (file) => {
      try {
        await this.decode(file);
      } catch (error) {
        reasons.set(file, messageOf(error));
      }
      this.options.onProgress?.({ stage: 'decoding images', done: ++done, total });
    });
    for (const [file, reason] of [...reasons].sort(([a], [b]) => a - b)) this.skip(file, reason);
    if (this.skipped.length === 0) return;
    if (this.skipped.length === total) throw new UserError(this.allBroken());
    const what = `${this.skipped.length} of ${total} images in ${this.folder} cannot be decoded`;
    if (this.options.strict === true) {
      throw new UserError(`${what}: ${this.listSkipped()}; remove them, or leave out --strict`);
    }
    this.order = this.order.filter((file) => this.bad[file] === 0);
    this.options.log?.(`${what} and are skipped: ${this.listSkipped()}`);
  }

  /** The image of a file or, where it is bad, of the next good one: the same in every run, because badness stays. */
  private async firstGood(file: number): Promise<Uint8Array> {
    for (let n = this.files.length; n > 0; n--, file = this.after(file)) {
      if (this.bad[file] === 1) continue;
      try {
        return await this.decode(file);
      } catch (error) {
        this.reject(file, messageOf(error));
      }
    }
    throw new UserError(this.allBroken());
  }

  /** A bad file met while training. */
  private reject(file: number, reason: string): void {
    const what = `${this.files[file] ?? ''} in ${this.folder} cannot be decoded (${reason})`;
    if (this.options.strict === true) {
      throw new UserError(`${what}; remove it, or leave out --strict`);
    }
    if (this.bad[file] === 1) return;
    this.skip(file, reason);
    const count = `${this.skipped.length} skipped so far`;
    this.options.log?.(`${what}; the next good image takes its place (${count})`);
  }

  private skip(file: number, reason: string): void {
    this.bad[file] = 1;
    this.skipped.push({ file: this.files[file] ?? '', reason });
  }

  private after(file: number): number {
    return (file + 1) % this.files.length;
  }

  private async decode(file: number): Promise<Uint8Array> {
    const begin = file * this.imageBytes;
    if (this.memory !== undefined && this.inMemory[file] === 1) {
      return this.memory.subarray(begin, begin + this.imageBytes);
    }
    const path = join(this.folder, this.files[file] ?? '');
    let bytes: Uint8Array;
    try {
      bytes = await readFile(path);
    } catch (error) {
      throw fileError(error, 'read', path);
    }
    if (bytes.length === 0) throw new Error('the file is empty');
    const pixels = await decodeImage(bytes, this.options);
    this.memory?.set(pixels, begin);
    this.inMemory[file] = 1;
    return pixels;
  }

  private allBroken(): string {
    const { file, reason } = this.skipped[0] ?? { file: '', reason: '' };
    return (
      `none of the ${this.files.length} images in ${this.folder} can be decoded; ` +
      `the first, ${file}: ${reason}`
    );
  }

  private listSkipped(): string {
    const shown = this.skipped.slice(0, 5).map(({ file, reason }) => `${file} (${reason})`);
    const more = this.skipped.length - shown.length;
    return shown.join(', ') + (more > 0 ? ` and ${more} more` : '');
  }
}

/** Of paths inside the folder and sizes in bytes: a set that is moved stays the same, and nothing is read. */
async function fingerprintOfFiles(folder: string, files: readonly string[]): Promise<string> {
  const sizes = new Float64Array(files.length);
  await forEachParallel(files.length, DECODES_IN_FLIGHT, async (i) => {
    const found = await stat(join(folder, files[i] ?? '')).catch(() => undefined);
    sizes[i] = found?.size ?? -1;
  });
  return fingerprintOf(files.map((file, i) => `${file}\0${sizes[i]}`));
}

/** Paths of the images below `folder`, sorted by code units, and how many other files there are by extension. */
async function listImages(
  folder: string,
): Promise<{ images: string[]; others: Map<string, number> }> {
  const images: string[] = [];
  const others = new Map<string, number>();
  const walk = async (inside: string, ancestors: readonly string[]): Promise<void> => {
    const path = join(folder, inside);
    const real = await realpath(path);
    if (ancestors.includes(real)) return;
    for (const entry of await readdir(path, { withFileTypes: true })) {
      if (entry.name.startsWith('.')) continue;
      const name = inside === '' ? entry.name : `${inside}/${entry.name}`;
      const target = entry.isSymbolicLink()
        ? await stat(join(folder, name)).catch(() => undefined)
        : entry;
      if (target === undefined) continue;
      if (target.isDirectory()) await walk(name, [...ancestors, real]);
      else if (target.isFile()) {
        const extension = extname(entry.name).toLowerCase();
        if (EXTENSIONS.has(extension)) images.push(name);
        else others.set(extension, (others.get(extension) ?? 0) + 1);
      }
    }
  };
  try {
    await walk('', []);
  } catch (error) {
    throw fileError(error, 'read', folder);
  }
  return { images: images.sort(), others };
}

function noImages(folder: string, others: ReadonlyMap<string, number>): string {
  const kinds = [...others].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const total = kinds.reduce((sum, [, n]) => sum + n, 0);
  const list = kinds
    .slice(0, 5)
    .map(([ext, n]) => `${n} ${ext === '' ? 'with no extension' : ext}`);
  if (kinds.length > 5) list.push('…');
  const found = total === 0 ? 'no files' : `${total} other files (${list.join(', ')})`;
  return `no images in ${folder}: looked for ${[...EXTENSIONS].join(' ')} there and in its subfolders, found ${found}`;
}
