import { UserError } from '../util/errors.ts';
import { HostRng, philox4x32Into, seedKey } from '../util/philox.ts';
import { balancedOrder } from './balance.ts';
import type { Dataset } from './dataset.ts';

/** Last word of Philox's counter: what a random number decides. */
const SHUFFLE = 0x5348;
const FLIP = 0x464c;

export interface LoaderOptions {
  readonly batch: number;
  readonly seed: number;
  /** Mirror each image left to right with probability ½, decided by (seed, epoch, image). Default false. */
  readonly flip?: boolean;
  /** Each class as often as any other, `balancedOrder`. Default false. */
  readonly balanced?: boolean;
  /** Batches read ahead of the one asked for. Default 2. */
  readonly prefetch?: number;
}

export interface Batch {
  /** [batch, channels, imageSize, imageSize], or of clips [batch, channels, frames, imageSize, imageSize]: bytes, the caller's to keep. */
  readonly images: Uint8Array;
  /** [batch] */
  readonly labels: Uint32Array;
  /** [batch], positions in the data set */
  readonly indices: Uint32Array;
  /** Batches since the beginning of training. */
  readonly index: number;
  readonly epoch: number;
}

/** Where the next batch begins, and what it was that was being read: plain JSON for a checkpoint. */
export interface LoaderState {
  readonly epoch: number;
  /** Images of this epoch already handed out. */
  readonly cursor: number;
  readonly seed: number;
  readonly batch: number;
  readonly size: number;
  /** The data set's fingerprint; absent in states of before there was one. */
  readonly data?: string | undefined;
  /** Present where the order is balanced. */
  readonly balanced?: boolean | undefined;
}

/**
 * Batches of a data set in random order without end. The order of an epoch is a Philox permutation of (seed, epoch), so the
 * position is two integers and any of them can be taken up again to the same bytes. The images of an epoch that do not
 * fill a batch are left out; a set smaller than a batch is run through several times for one. Some batches are read ahead
 * of the one that is asked for: by another thread, where the set is of `openThreaded`.
 */
export class Loader {
  /** Batches of an epoch. */
  readonly batchesPerEpoch: number;
  private readonly dataset: Dataset;
  private readonly batch: number;
  private readonly seed: number;
  private readonly flip: boolean;
  private readonly prefetch: number;
  /** [size], where the order is balanced: as listed, so the same after a resume and after a rollback */
  private readonly labels: Uint32Array | undefined;
  private waited = 0;
  private taken = 0;
  /** Serial number of the next batch to hand out; that of the next to read is `queue.length` further. */
  private position = 0;
  private queue: Promise<Batch>[] = [];
  private order: { readonly epoch: number; readonly indices: Uint32Array } | undefined;

  constructor(dataset: Dataset, options: LoaderOptions) {
    const { batch, seed, flip = false, balanced = false, prefetch = 2 } = options;
    if (dataset.size < 1) throw new UserError(`${dataset.name} has no images to train on`);
    if (!Number.isSafeInteger(batch) || batch < 1) {
      throw new UserError(`batch is ${batch}; it must be an integer from 1`);
    }
    seedKey(seed);
    this.dataset = dataset;
    this.batch = batch;
    this.seed = seed;
    this.flip = flip;
    this.prefetch = prefetch;
    this.batchesPerEpoch = Math.max(1, Math.floor(dataset.size / batch));
    if (!balanced) return;
    if (dataset.classes.length < 2) {
      throw new UserError(
        `--balanced: ${dataset.name} is of one class; put its images into a folder for each class, or leave --balanced out`,
      );
    }
    const labelOf = (i: number) => dataset.listedLabel?.(i) ?? dataset.label(i);
    this.labels = Uint32Array.from({ length: dataset.size }, (_, i) => labelOf(i));
  }

  /** Milliseconds that callers of `next` have waited for their batches, in all. */
  get waitMs(): number {
    return this.waited;
  }

  /** Those of them since the call before. */
  takeWait(): number {
    const since = this.waited - this.taken;
    this.taken = this.waited;
    return since;
  }

  /** The next batch. Rejects with what went wrong in reading it; the position then stays where it was. */
  async next(): Promise<Batch> {
    const asked = performance.now();
    this.readAhead();
    const first = this.queue.shift();
    const position = this.position++;
    if (first === undefined) throw new Error('the loader read nothing ahead');
    try {
      const batch = await first;
      this.waited += performance.now() - asked;
      return batch;
    } catch (error) {
      this.position = position;
      this.queue = [];
      throw error;
    }
  }

  /** Begins with the next batches, as every call of `next` does, so that the first one is there when it is asked for. */
  readAhead(): void {
    while (this.queue.length <= this.prefetch) {
      const reading = this.readBatch(this.position + this.queue.length);
      // A batch read ahead may fail before anyone asks for it; the error is reported when it is asked for.
      reading.catch(() => undefined);
      this.queue.push(reading);
    }
  }

  /** The position of the next batch, whatever was read ahead. */
  state(): LoaderState {
    const epoch = Math.floor(this.position / this.batchesPerEpoch);
    const cursor = (this.position % this.batchesPerEpoch) * this.batch;
    const { size, fingerprint: data } = this.dataset;
    const balanced = this.labels === undefined ? {} : { balanced: true };
    return { epoch, cursor, seed: this.seed, batch: this.batch, size, data, ...balanced };
  }

  /** Goes on from a state. Throws a `UserError` where the same batches cannot follow. */
  restore(state: LoaderState): void {
    const { name, size, fingerprint } = this.dataset;
    if (state.size !== size) {
      throw new UserError(
        `${name} has ${size} images now and had ${state.size} when the run was saved; the order of images ` +
          'cannot be continued, so put the files back or start a new run',
      );
    }
    if (state.data !== undefined && state.data !== fingerprint) {
      throw new UserError(
        `the images in ${name} are not those the run was trained on, though there are ${size} of them as before; ` +
          'put them back or start a new run',
      );
    }
    for (const key of ['seed', 'batch'] as const) {
      if (state[key] === this[key]) continue;
      throw new UserError(
        `${key} is ${this[key]} now and was ${state[key]} when the run was saved; go on with ${state[key]} or start a new run`,
      );
    }
    if ((state.balanced ?? false) !== (this.labels !== undefined)) {
      const [now, then] = this.labels === undefined ? ['off', 'on'] : ['on', 'off'];
      throw new UserError(
        `--balanced is ${now} now and was ${then} when the run was saved: the order of images is another; go on as before or start a new run`,
      );
    }
    const inEpoch = state.cursor / this.batch;
    const whole = [state.epoch, inEpoch].every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!whole || inEpoch >= this.batchesPerEpoch) {
      throw new UserError(
        `the saved position in the data is damaged: epoch ${state.epoch}, image ${state.cursor} of ${size}`,
      );
    }
    this.position = state.epoch * this.batchesPerEpoch + inEpoch;
    this.queue = [];
  }

  /** Forgets what was read ahead, once it has arrived: nothing touches the files afterwards. */
  async close(): Promise<void> {
    const pending = this.queue;
    this.queue = [];
    await Promise.allSettled(pending);
  }

  private async readBatch(index: number): Promise<Batch> {
    const epoch = Math.floor(index / this.batchesPerEpoch);
    const begin = (index % this.batchesPerEpoch) * this.batch;
    const indices = this.orderOf(epoch).slice(begin, begin + this.batch);
    const images = new Uint8Array(this.batch * this.imageBytes);
    await this.dataset.read(indices, images);
    if (this.flip) this.flipSome(images, indices, epoch);
    const labels = indices.map((i) => this.dataset.label(i));
    return { images, labels, indices, index, epoch };
  }

  /** Every index once, or several permutations end to end where one does not fill a batch; or a balanced order. */
  private orderOf(epoch: number): Uint32Array {
    if (this.order?.epoch === epoch) return this.order.indices;
    const { size } = this.dataset;
    const rng = new HostRng(this.seed, { stream: [epoch, SHUFFLE] });
    if (this.labels !== undefined) {
      const n = this.batchesPerEpoch * this.batch;
      this.order = { epoch, indices: balancedOrder(this.labels, n, rng) };
      return this.order.indices;
    }
    const rounds = Math.max(1, Math.ceil(this.batch / size));
    const indices = new Uint32Array(rounds * size);
    for (let round = 0; round < rounds; round++) indices.set(rng.permutation(size), round * size);
    this.order = { epoch, indices };
    return indices;
  }

  /** Of one image, or of one clip. */
  private get imageBytes(): number {
    const { channels, frames, imageSize } = this.dataset;
    return channels * frames * imageSize ** 2;
  }

  /** A clip is mirrored in all of its frames or in none. */
  private flipSome(images: Uint8Array, indices: Uint32Array, epoch: number): void {
    const width = this.dataset.imageSize;
    const { imageBytes } = this;
    const [k0, k1] = seedKey(this.seed);
    const words = new Uint32Array(4);
    for (const [i, image] of indices.entries()) {
      philox4x32Into(words, 0, image, 0, epoch, FLIP, k0, k1);
      if ((words[0] ?? 0) < 2 ** 31) continue;
      for (let row = i * imageBytes; row < (i + 1) * imageBytes; row += width) {
        // Twice as fast as a view of each row, reversed.
        for (let left = row, right = row + width - 1; left < right; left++, right--) {
          const pixel = images[left] ?? 0;
          images[left] = images[right] ?? 0;
          images[right] = pixel;
        }
      }
    }
  }
}
