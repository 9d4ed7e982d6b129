// A thread may load sharp only where the main thread has: glibc takes the library away with the thread that brought it.
import 'sharp';
import { Thread } from '../io/thread.ts';
import type { DataProgress, Dataset, DatasetOptions, SkippedFile } from './dataset.ts';
import { checkRead } from './memory.ts';

/** What the thread can be asked for. */
export interface DataCalls {
  open(source: string, options: ThreadOptions): Promise<Opened>;
  read(indices: Uint32Array): Promise<Read>;
  saveIndex(run: string): Promise<void>;
  close(): Promise<void>;
}

/** What it tells of its own. */
export type DataEvent = { readonly progress: DataProgress } | { readonly line: string };

/** A function cannot be sent: what it would be called with comes back as an event. */
export type ThreadOptions = Omit<DatasetOptions, 'onProgress' | 'log'>;

/** What a data set says of itself, at its opening. */
export interface Opened extends Pick<
  Dataset,
  | 'name'
  | 'description'
  | 'size'
  | 'channels'
  | 'frames'
  | 'imageSize'
  | 'fingerprint'
  | 'resize'
  | 'classes'
  | 'skipped'
> {
  /** [size] */
  readonly labels: Uint32Array;
}

export interface Read {
  /** [indices.length, …], as of `Dataset.read` */
  readonly images: Uint8Array;
  /** [indices.length] */
  readonly labels: Uint32Array;
  readonly description: string;
  /** Those met since the answer before. */
  readonly skipped: readonly SkippedFile[];
}

/**
 * `openDataset` in a thread of its own: files are listed, read and decoded, and the cache of decoded images is read and
 * written, while this thread goes on; what comes here are finished batches. Same bytes and labels; an error has its message
 * and kind.
 */
export async function openThreaded(source: string, options: DatasetOptions): Promise<Dataset> {
  const { onProgress, log, ...rest } = options;
  const module = new URL('data-thread', import.meta.url);
  const thread: DataThread = new Thread(module, 'reads the images', (event) => {
    if ('line' in event) log?.(event.line);
    else onProgress?.(event.progress);
  });
  try {
    return new ThreadedDataset(thread, await thread.ask('open', [source, rest]));
  } catch (error) {
    await thread.end();
    throw error;
  }
}

type DataThread = Thread<DataCalls, DataEvent>;

class ThreadedDataset implements Dataset {
  readonly name: string;
  readonly size: number;
  readonly channels: 1 | 3;
  readonly frames: number;
  readonly imageSize: number;
  readonly fingerprint: string;
  readonly resize: Dataset['resize'];
  readonly classes: readonly string[];
  readonly skipped: SkippedFile[];
  private readonly thread: DataThread;
  private readonly labels: Uint32Array;
  /** [size], as they were at opening, when no file in the order was known to be bad */
  private readonly listed: Uint32Array;
  private said: string;

  constructor(thread: DataThread, opened: Opened) {
    this.thread = thread;
    this.name = opened.name;
    this.said = opened.description;
    this.size = opened.size;
    this.channels = opened.channels;
    this.frames = opened.frames;
    this.imageSize = opened.imageSize;
    this.fingerprint = opened.fingerprint;
    this.resize = opened.resize;
    this.classes = opened.classes;
    this.skipped = [...opened.skipped];
    this.labels = opened.labels;
    this.listed = opened.labels.slice();
  }

  get description(): string {
    return this.said;
  }

  async read(indices: Uint32Array | readonly number[], out: Uint8Array): Promise<void> {
    const imageBytes = this.channels * this.frames * this.imageSize ** 2;
    checkRead(indices, out, { size: this.size, imageBytes });
    const wanted = Uint32Array.from(indices);
    const read = await this.thread.ask('read', [wanted]);
    out.set(read.images);
    for (const [i, index] of wanted.entries()) this.labels[index] = read.labels[i] ?? 0;
    this.skipped.push(...read.skipped);
    this.said = read.description;
  }

  label(index: number): number {
    return this.labels[index] ?? 0;
  }

  listedLabel(index: number): number {
    return this.listed[index] ?? 0;
  }

  async saveIndex(run: string): Promise<void> {
    await this.thread.ask('saveIndex', [run]);
  }

  async close(): Promise<void> {
    // A thread that failed has told whoever waited for it, and has nothing left to write.
    if (this.thread.ended) return;
    try {
      await this.thread.ask('close', []);
    } finally {
      await this.thread.end();
    }
  }
}
