import { Worker } from 'node:worker_threads';
// A thread may load sharp only where the main thread has: glibc takes the library away with the thread that brought it.
import 'sharp';
import { UserError } from '../util/errors.ts';
import type { DataProgress, Dataset, DatasetOptions, SkippedFile } from './dataset.ts';
import { checkRead } from './memory.ts';

/** What the thread can be asked for. */
export interface Calls {
  open(source: string, options: ThreadOptions): Opened;
  read(indices: Uint32Array): Read;
  saveIndex(run: string): void;
  close(): void;
}

/** To the thread; the answer has the same number. */
export interface Request {
  readonly id: number;
  readonly call: keyof Calls;
  readonly args: readonly unknown[];
}

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

/** From the thread. */
export type Answer =
  | { readonly kind: 'done'; readonly id: number; readonly value: unknown }
  | {
      readonly kind: 'failed';
      readonly id: number;
      readonly message: string;
      /** Is it a `UserError`? */
      readonly ofUser: boolean;
    }
  | { readonly kind: 'progress'; readonly progress: DataProgress }
  | { readonly kind: 'log'; readonly line: string };

/**
 * `openDataset` in a thread of its own: files are listed, read and decoded, and the cache of decoded images is read and
 * written, while this thread goes on; what comes here are finished batches. Same bytes, labels and errors.
 */
export async function openThreaded(source: string, options: DatasetOptions): Promise<Dataset> {
  const { onProgress, log, ...rest } = options;
  const thread = new DataThread({ onProgress, log });
  try {
    return new ThreadedDataset(thread, await thread.ask('open', source, rest));
  } catch (error) {
    await thread.end();
    throw error;
  }
}

interface Listeners {
  readonly onProgress: DatasetOptions['onProgress'] | undefined;
  readonly log: DatasetOptions['log'] | undefined;
}

/** Compiled, a module is its own thread; from source it needs tsx as this one did. */
function startThread(): Worker {
  const here = import.meta.url;
  if (here.endsWith('.js')) return new Worker(new URL('data-thread.js', here));
  const tsx = import.meta.resolve('tsx/esm/api');
  const register = `data:text/javascript,import { register } from '${tsx}'; register();`;
  return new Worker(new URL('data-thread.ts', here), { execArgv: ['--import', register] });
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Questions and answers. The process lives on for a thread only while it owes an answer. */
class DataThread {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private asked = 0;
  private gone: Error | undefined;

  constructor({ onProgress, log }: Listeners) {
    this.worker = startThread();
    this.worker.unref();
    this.worker.on('message', (answer: Answer) => {
      if (answer.kind === 'progress') onProgress?.(answer.progress);
      else if (answer.kind === 'log') log?.(answer.line);
      else this.settle(answer);
    });
    this.worker.on('error', (error: Error) => {
      this.fail(new Error(`the thread that reads the images failed: ${error.message}`));
    });
    this.worker.on('exit', () => {
      this.fail(new Error('the thread that reads the images has ended'));
    });
  }

  ask<C extends keyof Calls>(
    call: C,
    ...args: Parameters<Calls[C]>
  ): Promise<ReturnType<Calls[C]>> {
    if (this.gone !== undefined) return Promise.reject(this.gone);
    const request: Request = { id: this.asked++, call, args };
    if (this.waiting.size === 0) this.worker.ref();
    const answer = new Promise((resolve, reject) => {
      this.waiting.set(request.id, { resolve, reject });
      this.worker.postMessage(request);
    });
    return answer as Promise<ReturnType<Calls[C]>>;
  }

  async end(): Promise<void> {
    await this.worker.terminate();
  }

  private settle(answer: Answer & { kind: 'done' | 'failed' }): void {
    const waiting = this.waiting.get(answer.id);
    this.waiting.delete(answer.id);
    if (this.waiting.size === 0) this.worker.unref();
    if (answer.kind === 'done') waiting?.resolve(answer.value);
    else waiting?.reject(new (answer.ofUser ? UserError : Error)(answer.message));
  }

  /** Once: what comes first is the reason. */
  private fail(reason: Error): void {
    this.gone ??= reason;
    for (const { reject } of this.waiting.values()) reject(this.gone);
    this.waiting.clear();
  }
}

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
  }

  get description(): string {
    return this.said;
  }

  async read(indices: Uint32Array | readonly number[], out: Uint8Array): Promise<void> {
    const imageBytes = this.channels * this.frames * this.imageSize ** 2;
    checkRead(indices, out, { size: this.size, imageBytes });
    const wanted = Uint32Array.from(indices);
    const read = await this.thread.ask('read', wanted);
    out.set(read.images);
    for (const [i, index] of wanted.entries()) this.labels[index] = read.labels[i] ?? 0;
    this.skipped.push(...read.skipped);
    this.said = read.description;
  }

  label(index: number): number {
    return this.labels[index] ?? 0;
  }

  async saveIndex(run: string): Promise<void> {
    await this.thread.ask('saveIndex', run);
  }

  async close(): Promise<void> {
    try {
      await this.thread.ask('close');
    } finally {
      await this.thread.end();
    }
  }
}
