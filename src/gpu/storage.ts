import type { PipelineSpec } from './pipelines.ts';
import type { Block } from './pool.ts';

/**
 * Where a tensor's bytes are. In eager mode and for everything that outlives a step the block is real at once;
 * while a program is captured it is only promised, and the program's memory plan puts it somewhere.
 */
export class Storage {
  readonly id: number;
  readonly bytes: number;
  readonly label: string;
  /** Absent while the storage belongs to a captured program's plan. */
  block: Block | undefined;
  /** Writes so far, by launches and from the host: tells whether a tensor kept for a gradient is still what it was. */
  version = 0;
  /** What it spans, if it was made of storages that lie side by side: a write to it is a write to each. */
  readonly parts: readonly Storage[];

  constructor(
    id: number,
    bytes: number,
    label: string,
    block: Block | undefined,
    parts: readonly Storage[] = [],
  ) {
    this.id = id;
    this.bytes = bytes;
    this.label = label;
    this.block = block;
    this.parts = parts;
  }

  /** Counts a write. */
  touch(): void {
    this.version += 1;
    for (const part of this.parts) part.touch();
  }
}

/** What a launch belongs to. */
export interface Where {
  /** The part of a step, as the trainer names it: `D`, `G`. */
  readonly scope: string;
  readonly phase: 'forward' | 'backward' | 'optimizer';
  /** The module that computes, by its path; a word for what is in no module: `loss`, `noise`. */
  readonly layer: string;
}

/** Scope and phase in one: `D backward`. */
export function passOf({ scope, phase }: Where): string {
  return scope === '' ? phase : `${scope} ${phase}`;
}

/** What one kernel launch needs; the unit of eager execution, of programs, of the profiler and of `explain`. */
export interface Dispatch {
  readonly spec: PipelineSpec;
  /** One storage a binding, in binding order. */
  readonly storages: readonly Storage[];
  /** The whole of a buffer of its own: a launch is encoded from the buffer, which costs less than from a view. */
  readonly immediates: Uint32Array;
  readonly grid: readonly [number, number, number];
  /** Floating-point operations of this launch, as its kernel counts them. */
  readonly flops: number;
  /** Bytes that must cross memory at least once, as its kernel counts them. */
  readonly traffic: number;
  /** The dims by name, for reports. */
  readonly dims: Readonly<Record<string, number>>;
  readonly where: Where;
}
