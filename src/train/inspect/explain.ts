import type { AdapterSummary } from '../../gpu/adapter.ts';
import type { Program } from '../../gpu/program.ts';
import { passOf } from '../../gpu/storage.ts';
import type { Dispatch, Storage } from '../../gpu/storage.ts';
import { UserError } from '../../util/errors.ts';
import { didYouMean } from '../../util/nearest.ts';
import type { TrainConfig } from '../options.ts';

export interface BoundBuffer {
  /** The variable of the kernel. */
  readonly binding: string;
  readonly access: 'read' | 'read_write';
  /** What was put there. */
  readonly tensor: string;
  readonly bytes: number;
  /** The planned buffer that holds it; null for what outlives a step: weights, state, images. */
  readonly slot: number | null;
}

export interface ExplainedEntry {
  readonly index: number;
  readonly pass: string;
  readonly layer: string;
  readonly kernel: string;
  readonly tile: Readonly<Record<string, number | string>>;
  readonly grid: readonly [number, number, number];
  /** What the immediates hold, by the names of the kernel. */
  readonly immediates: Readonly<Record<string, number>>;
  readonly buffers: readonly BoundBuffer[];
  readonly flops: number;
  readonly bytes: number;
}

/** A tensor of the step, and the launches that touch it first and last (one past the end: it is an output). */
export interface PlannedTensor {
  readonly tensor: string;
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

export interface PlannedSlot {
  readonly bytes: number;
  /** In the order in which they live there. */
  readonly tensors: readonly PlannedTensor[];
}

/** A captured step as data: what runs, in which order, in which memory. */
export interface Explanation {
  readonly adapter: string;
  readonly preset: string;
  readonly batch: number;
  readonly entries: readonly ExplainedEntry[];
  readonly memory: {
    readonly plannedBytes: number;
    readonly unplannedBytes: number;
    /** The most bytes alive at one launch. */
    readonly liveBytes: number;
    readonly slots: readonly PlannedSlot[];
  };
}

export function explainProgram(
  program: Program,
  { adapter, config }: { adapter: AdapterSummary; config: TrainConfig },
): Explanation {
  const slotOf = slotFinder(program);
  const { plannedBytes, unplannedBytes, liveBytes, slots, lives } = program.memory;
  return {
    adapter: adapter.name,
    preset: config.preset,
    batch: config.batch,
    entries: program.entries.map(({ dispatch }, index) => explainLaunch(dispatch, index, slotOf)),
    memory: {
      ...{ plannedBytes, unplannedBytes, liveBytes },
      slots: slots.map((bytes, slot) => ({
        bytes,
        tensors: lives
          .filter((life) => slotOf(life.storage) === slot)
          .map(({ storage, first, last }) => {
            return { tensor: storage.label, bytes: storage.bytes, first, last };
          }),
      })),
    },
  };
}

type SlotFinder = (storage: Storage) => number | null;

/** Finds slots by the buffers behind them, so that a tensor which lies inside another one's memory is found too. */
function slotFinder({ memory }: Program): SlotFinder {
  const slots = new Map<number, number>();
  for (const [{ block }, slot] of memory.slotOf) if (block !== undefined) slots.set(block.id, slot);
  return ({ block }) => (block === undefined ? null : (slots.get(block.id) ?? null));
}

function explainLaunch(dispatch: Dispatch, index: number, slotOf: SlotFinder): ExplainedEntry {
  const { spec, storages, grid, flops, traffic, where } = dispatch;
  return {
    index,
    pass: passOf(where),
    layer: where.layer,
    kernel: spec.name,
    tile: spec.constants,
    grid,
    immediates: readImmediates(dispatch),
    buffers: storages.map((storage, i) => ({
      binding: spec.tensors[i] ?? '',
      access: spec.access[i] ?? 'read',
      tensor: storage.label,
      bytes: storage.bytes,
      slot: slotOf(storage),
    })),
    flops,
    bytes: traffic,
  };
}

/** The words that the launch will be given, read as the kernel reads them. */
function readImmediates({ spec, immediates }: Dispatch): Record<string, number> {
  const view = new DataView(immediates.buffer, immediates.byteOffset, immediates.byteLength);
  const values = spec.immediates.map(({ name, type }, i) => {
    if (type === 'f32') return [name, view.getFloat32(4 * i, true)] as const;
    return [
      name,
      type === 'i32' ? view.getInt32(4 * i, true) : view.getUint32(4 * i, true),
    ] as const;
  });
  return Object.fromEntries(values);
}

/**
 * The launch of a number, or the first of a kernel. Throws a `UserError` that says what there is where neither is in the
 * program.
 */
export function findEntry(entries: readonly ExplainedEntry[], wanted: string): ExplainedEntry {
  const found = /^\d+$/.test(wanted)
    ? entries[Number(wanted)]
    : entries.find(({ kernel }) => kernel === wanted);
  if (found !== undefined) return found;
  if (/^\d+$/.test(wanted)) {
    throw new UserError(
      `--entry ${wanted} is past the end: the step has launches 0 to ${entries.length - 1}`,
    );
  }
  const kernels = [...new Set(entries.map(({ kernel }) => kernel))];
  throw new UserError(
    `--entry ${wanted} is no launch's number and no kernel of this step${didYouMean(wanted, kernels)}`,
  );
}
