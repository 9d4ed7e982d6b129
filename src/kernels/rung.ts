import type { Choice, Sizes } from '../gpu/choices.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { narrow, widen } from './cast.ts';
import type { Kernel, Tile } from './kernel.ts';
import type { Precision } from './precision.ts';

/** One step of a ladder: one idea more than the rung before it. */
export interface Rung<D, A> {
  /** Its file in kernels/, without the ending: `matmul/3_registers`. */
  readonly name: string;
  /** What it launches. */
  readonly kernels: readonly Kernel[];
  /** True if the device can run it and it serves these sizes. */
  fits(gpu: Gpu, dims: D): boolean;
  /** Every tile that is legal for these sizes on this device; the default first, never none where the rung fits. */
  tiles(gpu: Gpu, dims: D): readonly Tile[];
  /** Launches it, in the default tile if none is given. */
  run(gpu: Gpu, args: A, tile?: Tile): void;
}

/** One operation, all the ways in which we can do it, and what each costs at least. */
export interface Ladder<D extends object, A, O extends string = string> {
  /** `matmul`, `conv-forward`, … */
  readonly name: string;
  /** Simplest first. */
  readonly rungs: readonly Rung<D, A>[];
  /** Names of rungs in the order in which this adapter's class prefers them; the first that fits runs. */
  preferred(gpu: Gpu, dims: D): readonly string[];
  /** The sizes in `args`, and nothing else of it. */
  dimsOf(args: A): D;
  /** Elements of each operand, outputs last; what a bench or a tuner must allocate. */
  operands(dims: D): Readonly<Record<O, number>>;
  /** Which of the operands are written. */
  readonly outputs: readonly O[];
  /** Arguments over storages named as in `operands`. */
  argsOf(dims: D, storages: Readonly<Record<O, Storage>>): A;
  /** Floating-point operations of the operation, whatever the rung: 2 a multiply-add. */
  flops(dims: D): number;
  /** Bytes that the operation must move at least: every operand once. */
  bytes(dims: D): number;
  /** Of a ladder that serves tensors of f16: the operands that `stored: f16` speaks of. The others are f32 always. */
  readonly halves?: readonly O[];
  /**
   * Of such a ladder: the same work over operands of f32, with `swap` telling the storage that takes the place of each of
   * `halves`. By it a rung of f32 serves tensors of f16, between copies.
   */
  inFloats?(args: A, swap: (operand: O, storage: Storage) => Storage): A;
}

/** A rung and the tile to run it in. */
export interface Picked<D, A> {
  readonly rung: Rung<D, A>;
  readonly tile: Tile;
  /** The rung serves f32 alone, and the tensors are f16: `runPicked` copies them. */
  readonly widened: boolean;
}

/** Names an operation of given sizes in a tuning cache, in whichever order they are given. */
export function choiceKey(ladder: { readonly name: string }, dims: object): string {
  const sizes = Object.entries(dims as Sizes).map(([name, value]) => `${name}=${value}`);
  return `${ladder.name} ${sizes.sort().join(' ')}`;
}

/** The rung of that name. Throws if the ladder has none. */
export function rungNamed<D extends object, A>(ladder: Ladder<D, A>, name: string): Rung<D, A> {
  const rung = ladder.rungs.find((r) => r.name === name);
  if (rung === undefined) throw new Error(`the ladder ${ladder.name} has no rung ${name}`);
  return rung;
}

/** What was measured to be fastest for these sizes on this adapter; else what its class prefers. */
export function choose<D extends object, A>(gpu: Gpu, ladder: Ladder<D, A>, dims: D): Picked<D, A> {
  const key = choiceKey(ladder, dims);
  const measured = pickTuned(gpu, ladder, { dims, choice: gpu.choices.tuned(key) });
  const pick = measured ?? pickDefault(gpu, ladder, dims);
  const choice = { rung: pick.rung.name, tile: pick.tile };
  const asked = { ladder: ladder.name, sizes: dims as Sizes, choice };
  gpu.choices.note(key, { ...asked, tuned: measured !== undefined });
  return pick;
}

/** A cache may be older than the ladder: a rung that is gone or no longer fits is passed over. */
function pickTuned<D extends object, A>(
  gpu: Gpu,
  ladder: Ladder<D, A>,
  { dims, choice }: { dims: D; choice: Choice | undefined },
): Picked<D, A> | undefined {
  if (choice === undefined) return undefined;
  const rung = ladder.rungs.find((r) => r.name === choice.rung);
  const served = rung && servedSizes(gpu, { ladder, rung, dims });
  if (rung === undefined || served === undefined) return undefined;
  const same = JSON.stringify(choice.tile);
  const tile = rung.tiles(gpu, served).find((t) => JSON.stringify(t) === same);
  return tile === undefined ? undefined : { rung, tile, widened: served !== dims };
}

/**
 * The sizes that a rung is asked to serve: `dims`, or the same in f32 where it fits those alone and the ladder can widen
 * tensors of f16; undefined where it fits neither.
 */
export function servedSizes<D extends object, A>(
  gpu: Gpu,
  { ladder, rung, dims }: { ladder: Ladder<D, A>; rung: Rung<D, A>; dims: D },
): D | undefined {
  if (rung.fits(gpu, dims)) return dims;
  if (ladder.inFloats === undefined || (dims as Precision).stored !== 'f16') return undefined;
  const floats = { ...dims, stored: undefined };
  return rung.fits(gpu, floats) ? floats : undefined;
}

export function pickDefault<D extends object, A>(
  gpu: Gpu,
  ladder: Ladder<D, A>,
  dims: D,
): Picked<D, A> {
  const rungs = ladder.preferred(gpu, dims).map((name) => rungNamed(ladder, name));
  const served = rungs.map((rung) => ({ rung, sizes: servedSizes(gpu, { ladder, rung, dims }) }));
  // What reads the tensors as they lie goes before what needs copies of them.
  const natively = served.filter(({ sizes }) => sizes === dims);
  for (const { rung, sizes } of [...natively, ...served]) {
    const tile = sizes && rung.tiles(gpu, sizes)[0];
    if (tile !== undefined) return { rung, tile, widened: sizes !== dims };
  }
  throw new Error(`no rung of ${ladder.name} fits ${choiceKey(ladder, dims)}`);
}

/** Runs the operation by the chosen rung. */
export function climb<D extends object, A>(gpu: Gpu, ladder: Ladder<D, A>, args: A): void {
  runPicked(gpu, { ladder, args, picked: choose(gpu, ladder, ladder.dimsOf(args)) });
}

/** Runs the operation by a rung; one of f32 on tensors of f16 between copies of them. */
export function runPicked<D extends object, A>(
  gpu: Gpu,
  { ladder, args, picked }: { ladder: Ladder<D, A>; args: A; picked: Picked<D, A> },
): void {
  const { rung, tile, widened } = picked;
  if (!widened || ladder.inFloats === undefined) {
    rung.run(gpu, args, tile);
    return;
  }
  const sizes: Readonly<Record<string, number>> = ladder.operands(ladder.dimsOf(args));
  const copies: Storage[] = [];
  const results: (() => void)[] = [];
  const floats = ladder.inFloats(args, (operand, storage) => {
    const n = sizes[operand] ?? 0;
    const wide = gpu.alloc(4 * n, `${operand} in f32`);
    copies.push(wide);
    if (!ladder.outputs.includes(operand)) widen(gpu, { x: storage, out: wide, n });
    else
      results.push(() => {
        narrow(gpu, { x: wide, out: storage, n });
      });
    return wide;
  });
  rung.run(gpu, floats, tile);
  for (const result of results) result();
  for (const copy of copies) gpu.release(copy);
}
