import { UserError } from '../util/errors.ts';
import { roundUp } from '../util/shape.ts';

/** A stretch of one GPUBuffer. Without guards `offset` is 0 and the block is the whole buffer. */
export interface Block {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly offset: number;
  /** Usable bytes: the size class, at least what was asked for. */
  readonly capacity: number;
  /** A stretch of another block, which owns the bytes: the pool neither counts it nor takes it back. */
  readonly isPart?: boolean;
}

export interface PoolStats {
  /** Bytes handed out and not yet released. */
  readonly liveBytes: number;
  /** The most that `liveBytes` has ever been. */
  readonly peakBytes: number;
  /** Bytes of every GPUBuffer that exists, in use or waiting. */
  readonly heldBytes: number;
  readonly liveBlocks: number;
  /** GPUBuffers created since the pool was opened. */
  readonly created: number;
}

const smallest = 256;
/** Guard bands are this long on each side (a multiple of every offset alignment). */
export const guardBytes = 256;
export const guardWord = 0x7fc0_dead;
/** A NaN with a payload: an output that a kernel forgot to write cannot look right. */
const poisonWord = 0x7fc0_beef;

/** Eight size classes an octave: at most 12.5 % of a block is wasted, and blocks are found again. */
export function sizeClass(bytes: number): number {
  if (bytes <= smallest) return smallest;
  const octave = 2 ** Math.floor(Math.log2(bytes));
  return roundUp(bytes, Math.max(smallest, octave / 8));
}

/**
 * Owns every storage buffer of a device. Blocks are kept by size class and used again; nothing is left to the
 * garbage collector. `guard` (tests only) puts bands round each block and poisons it when it is handed out.
 */
export class BufferPool {
  readonly #device: GPUDevice;
  readonly #guard: boolean;
  readonly #submitPending: () => void;
  readonly #free = new Map<number, Block[]>();
  readonly #all = new Set<Block>();
  #budgetBytes: number;
  #live = 0;
  #peak = 0;
  #held = 0;
  #liveBlocks = 0;
  #created = 0;

  /** `submitPending` submits what is encoded and may use released blocks; called before one is destroyed or poisoned. */
  constructor(
    device: GPUDevice,
    options: { budgetBytes: number; guard?: boolean; submitPending?: () => void },
  ) {
    this.#device = device;
    this.#guard = options.guard ?? false;
    this.#submitPending = options.submitPending ?? (() => undefined);
    this.#budgetBytes = options.budgetBytes;
  }

  get budgetBytes(): number {
    return this.#budgetBytes;
  }

  set budgetBytes(bytes: number) {
    this.#budgetBytes = bytes;
  }

  /** A block of at least `bytes`. Throws a `UserError` when the budget would be passed. */
  acquire(bytes: number, label: string): Block {
    const capacity = sizeClass(bytes);
    const block = this.#free.get(capacity)?.pop() ?? this.#create(capacity, label);
    this.#live += capacity;
    this.#liveBlocks += 1;
    this.#peak = Math.max(this.#peak, this.#live);
    if (this.#guard) this.#poison(block);
    return block;
  }

  release(block: Block): void {
    if (block.isPart === true) return;
    const list = this.#free.get(block.capacity);
    if (list === undefined) this.#free.set(block.capacity, [block]);
    else list.push(block);
    this.#live -= block.capacity;
    this.#liveBlocks -= 1;
  }

  /** Destroys the buffers that nobody uses. */
  trim(): void {
    this.#submitPending();
    for (const list of this.#free.values()) {
      for (const block of list) {
        block.buffer.destroy();
        this.#all.delete(block);
        this.#held -= block.capacity;
      }
    }
    this.#free.clear();
  }

  destroy(): void {
    for (const block of this.#all) block.buffer.destroy();
    this.#all.clear();
    this.#free.clear();
    this.#live = 0;
    this.#held = 0;
    this.#liveBlocks = 0;
  }

  stats(): PoolStats {
    return {
      liveBytes: this.#live,
      peakBytes: this.#peak,
      heldBytes: this.#held,
      liveBlocks: this.#liveBlocks,
      created: this.#created,
    };
  }

  /** Every block that exists, for the guard check. */
  blocks(): IterableIterator<Block> {
    return this.#all.values();
  }

  #create(capacity: number, label: string): Block {
    if (this.#held + capacity > this.#budgetBytes) {
      this.trim();
      if (this.#held + capacity > this.#budgetBytes) {
        throw new UserError(
          `out of memory: ${label} needs ${mib(capacity)}, ${mib(this.#live)} are in use and the budget is ${mib(this.#budgetBytes)}; try a smaller --batch`,
        );
      }
    }
    const buffer = this.#device.createBuffer({
      label,
      size: capacity + (this.#guard ? 2 * guardBytes : 0),
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    const block = { id: this.#created, buffer, offset: this.#guard ? guardBytes : 0, capacity };
    this.#created += 1;
    this.#held += capacity;
    this.#all.add(block);
    return block;
  }

  #poison(block: Block): void {
    const words = new Uint32Array((block.capacity + 2 * guardBytes) / 4).fill(poisonWord);
    words.fill(guardWord, 0, guardBytes / 4);
    words.fill(guardWord, (guardBytes + block.capacity) / 4);
    this.#submitPending();
    this.#device.queue.writeBuffer(block.buffer, 0, words);
  }
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
