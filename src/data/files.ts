import { UserError, messageOf } from '../util/errors.ts';
import { errorCode } from '../io/errno.ts';
import { printable } from '../util/quote.ts';
import type { Classes } from './classes.ts';
import type { DataProgress, Dataset, SkippedFile } from './dataset.ts';
import { type DecodeOptions, type Resize, decodeImage } from './decode.ts';
import { checkRead } from './memory.ts';
import { DECODES_IN_FLIGHT, forEachParallel } from './parallel.ts';
import { MemoryPixels, type PixelStore } from './pixels.ts';

const EXTENSIONS: readonly string[] = ['.png', '.jpg', '.jpeg', '.webp'];

/** Encoded images under numbers, wherever they lie: in a folder, or in an archive that is read in place. */
export interface ImageFiles {
  /** Of the set. */
  readonly name: string;
  /** The source as the user wrote it. */
  readonly where: string;
  /** Paths inside, with forward slashes, in the order of their code units; one at least. */
  readonly files: readonly string[];
  /** Bytes of each; −1 where they cannot be known. */
  readonly sizes: Float64Array;
  readonly classes: Classes;
  /** Of the paths and sizes: a set that is moved or packed stays the same. */
  readonly fingerprint: string;
  /** Another wherever a file may have been written since: what is made of the files is kept by it. */
  readonly version: string;
  /** The bytes of a file. Rejects with a `UserError`, or with why the file is bad. */
  bytes(file: number): Promise<Uint8Array>;
  close(): Promise<void>;
  /** Keeps the listing in a run's folder, where going on with the run finds it. */
  saveIndex?(run: string): Promise<void>;
}

/** Is this, by its name, an image that we decode? */
export function isImageName(path: string): boolean {
  return EXTENSIONS.includes(extensionOf(path));
}

/** The ending of a path in lower case with its dot, or nothing. */
export function extensionOf(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1);
  const dot = name.lastIndexOf('.');
  return dot > 0 ? name.slice(dot).toLowerCase() : '';
}

/** The line for a source without an image, with what else is in it by extension. */
export function noImages(where: string, others: ReadonlyMap<string, number>): string {
  const kinds = [...others].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const total = kinds.reduce((sum, [, n]) => sum + n, 0);
  const list = kinds
    .slice(0, 5)
    .map(([ext, n]) => `${n} ${ext === '' ? 'with no extension' : ext}`);
  if (kinds.length > 5) list.push('…');
  const found = total === 0 ? 'no files' : `${total} other files (${list.join(', ')})`;
  return `no images in ${where}: looked for ${EXTENSIONS.join(' ')} there and in its subfolders, found ${found}`;
}

export interface FilesOptions extends DecodeOptions {
  readonly strict?: boolean | undefined;
  readonly onProgress?: ((progress: DataProgress) => void) | undefined;
  readonly log?: ((line: string) => void) | undefined;
  /** Holds decoded images between epochs and runs. Without it they stay in memory where all of them fit. */
  readonly store?: PixelStore | undefined;
  /** What fits in memory. Default 512 MiB. */
  readonly memoryBytes?: number | undefined;
  /** Up to this many images are all decoded at opening, so that bad files are known before the first step. Default 20,000. */
  readonly checkUpTo?: number | undefined;
}

/** A data set of encoded images. Throws a `UserError` where none can be decoded, or one cannot and `strict` is set. */
export async function openFiles(source: ImageFiles, options: FilesOptions): Promise<Dataset> {
  const set = new FilesDataset(source, options);
  if (source.files.length <= (options.checkUpTo ?? 20_000)) await set.checkAll();
  return set;
}

/** What reading a file answers where the file itself is at fault. */
const faultsOfFile = new Set([
  ...['ENOENT', 'EACCES', 'EPERM', 'EISDIR', 'ENOTDIR', 'ELOOP'],
  ...['ENXIO', 'EINVAL', 'ENAMETOOLONG', 'EFBIG'],
]);

/**
 * What is wrong with a file that gave an error. Throws the error itself where the disk or the network is at fault: that passes,
 * and the image must not be taken for a bad one.
 */
function reasonOf(error: unknown): string {
  const code = errorCode(error) ?? (error instanceof Error ? errorCode(error.cause) : undefined);
  const ofSystem = code !== undefined && /^E[A-Z0-9]+$/.test(code);
  if (ofSystem && !faultsOfFile.has(code)) throw error;
  return messageOf(error);
}

class FilesDataset implements Dataset {
  readonly name: string;
  readonly fingerprint: string;
  readonly channels: 1 | 3;
  readonly frames = 1;
  readonly imageSize: number;
  readonly resize: Resize | undefined;
  readonly classes: readonly string[];
  readonly skipped: SkippedFile[] = [];
  private readonly source: ImageFiles;
  private readonly files: readonly string[];
  private readonly options: FilesOptions;
  private readonly imageBytes: number;
  private readonly labels: Uint32Array;
  private readonly bad: Uint8Array;
  private readonly store: PixelStore | undefined;
  /** Index → file number; the identity until bad files are taken out. */
  private order: Uint32Array;

  constructor(source: ImageFiles, options: FilesOptions) {
    this.name = source.name;
    this.fingerprint = source.fingerprint;
    this.source = source;
    this.files = source.files;
    this.options = options;
    this.channels = options.channels;
    this.imageSize = options.imageSize;
    this.resize = options.resize;
    this.imageBytes = options.channels * options.imageSize ** 2;
    this.classes = source.classes.names;
    this.labels = source.classes.labels;
    const { length } = this.files;
    this.bad = new Uint8Array(length);
    const fits = length * this.imageBytes <= (options.memoryBytes ?? 2 ** 29);
    this.store = options.store ?? (fits ? new MemoryPixels(length, this.imageBytes) : undefined);
    this.order = Uint32Array.from({ length }, (_, i) => i);
  }

  get size(): number {
    return this.order.length;
  }

  get description(): string {
    const classes = this.classes.length > 1 ? ` in ${this.classes.length} classes` : '';
    const skipped = this.skipped.length > 0 ? `, ${this.skipped.length} skipped` : '';
    return `${this.size} images${classes} from ${this.source.where}${skipped}`;
  }

  async read(indices: Uint32Array | readonly number[], out: Uint8Array): Promise<void> {
    checkRead(indices, out, { size: this.size, imageBytes: this.imageBytes });
    const missing: number[] = [];
    const place = (i: number) => out.subarray(i * this.imageBytes, (i + 1) * this.imageBytes);
    const fileOf = (i: number) => this.order[indices[i] ?? 0] ?? 0;
    for (let i = 0; i < indices.length; i++) {
      if (this.store?.read(fileOf(i), place(i)) !== true) missing.push(i);
    }
    await forEachParallel(missing.length, DECODES_IN_FLIGHT, (m) =>
      this.readGood(fileOf(missing[m] ?? 0), place(missing[m] ?? 0)),
    );
  }

  label(index: number): number {
    let file = this.order[index] ?? 0;
    for (let n = this.files.length; n > 0 && this.bad[file] === 1; n--) file = this.after(file);
    return this.labels[file] ?? 0;
  }

  listedLabel(index: number): number {
    return this.labels[this.order[index] ?? 0] ?? 0;
  }

  saveIndex(run: string): Promise<void> {
    return this.source.saveIndex?.(run) ?? Promise.resolve();
  }

  async close(): Promise<void> {
    await this.store?.close();
    await this.source.close();
  }

  /** Decodes once what no store holds, and takes the bad files out of the order. */
  async checkAll(): Promise<void> {
    const total = this.files.length;
    const unknown = [...this.files.keys()].filter((file) => this.store?.has(file) !== true);
    let done = total - unknown.length;
    const reasons = new Map<number, string>();
    const scratch = new Uint8Array(this.imageBytes);
    await forEachParallel(unknown.length, DECODES_IN_FLIGHT, async (i) => {
      const file = unknown[i] ?? 0;
      try {
        await this.decode(file, scratch);
      } catch (error) {
        reasons.set(file, reasonOf(error));
      }
      this.options.onProgress?.({ stage: 'decoding images', done: ++done, total });
    });
    await this.store?.flush();
    for (const [file, reason] of [...reasons].sort(([a], [b]) => a - b)) this.skip(file, reason);
    if (this.skipped.length === 0) return;
    if (this.skipped.length === total) throw new UserError(this.allBroken());
    const what = `${this.skipped.length} of ${total} images in ${this.source.where} cannot be decoded`;
    if (this.options.strict === true) {
      throw new UserError(`${what}: ${this.listSkipped()}; remove them, or leave out --strict`);
    }
    this.order = this.order.filter((file) => this.bad[file] === 0);
    this.options.log?.(`${what} and are skipped: ${this.listSkipped()}`);
  }

  /** The image of a file or, where it is bad, of the next good one: the same in every run, because badness stays. */
  private async readGood(file: number, out: Uint8Array): Promise<void> {
    for (let n = this.files.length; n > 0; n--, file = this.after(file)) {
      if (this.bad[file] === 1) continue;
      if (this.store?.read(file, out) === true) return;
      try {
        await this.decode(file, out);
        return;
      } catch (error) {
        this.reject(file, reasonOf(error));
      }
    }
    throw new UserError(this.allBroken());
  }

  /** A bad file met while training. */
  private reject(file: number, reason: string): void {
    const what = `${printable(this.files[file] ?? '')} in ${this.source.where} cannot be decoded (${reason})`;
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
    this.skipped.push({ file: printable(this.files[file] ?? ''), reason });
  }

  private after(file: number): number {
    return (file + 1) % this.files.length;
  }

  private async decode(file: number, out: Uint8Array): Promise<void> {
    const bytes = await this.source.bytes(file);
    if (bytes.length === 0) throw new Error('the file is empty');
    const pixels = await decodeImage(bytes, this.options);
    out.set(pixels);
    this.store?.put(file, pixels);
    await this.store?.room?.();
  }

  private allBroken(): string {
    const { file, reason } = this.skipped[0] ?? { file: '', reason: '' };
    return (
      `none of the ${this.files.length} images in ${this.source.where} can be decoded; ` +
      `the first, ${file}: ${reason}`
    );
  }

  private listSkipped(): string {
    const shown = this.skipped.slice(0, 5).map(({ file, reason }) => `${file} (${reason})`);
    const more = this.skipped.length - shown.length;
    return shown.join(', ') + (more > 0 ? ` and ${more} more` : '');
  }
}
