import type { Choice, Sizes } from '../gpu/choices.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Kernel, Tile } from './kernel.ts';

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
}

/** A rung and the tile to run it in. */
export interface Picked<D, A> {
  readonly rung: Rung<D, A>;
  readonly tile: Tile;
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
  if (rung === undefined || !rung.fits(gpu, dims)) return undefined;
  const same = JSON.stringify(choice.tile);
  const tile = rung.tiles(gpu, dims).find((t) => JSON.stringify(t) === same);
  return tile === undefined ? undefined : { rung, tile };
}

export function pickDefault<D extends object, A>(
  gpu: Gpu,
  ladder: Ladder<D, A>,
  dims: D,
): Picked<D, A> {
  for (const name of ladder.preferred(gpu, dims)) {
    const rung = rungNamed(ladder, name);
    const tile = rung.fits(gpu, dims) ? rung.tiles(gpu, dims)[0] : undefined;
    if (tile !== undefined) return { rung, tile };
  }
  throw new Error(`no rung of ${ladder.name} fits ${choiceKey(ladder, dims)}`);
}

/** Runs the operation by the chosen rung. */
export function climb<D extends object, A>(gpu: Gpu, ladder: Ladder<D, A>, args: A): void {
  const { rung, tile } = choose(gpu, ladder, ladder.dimsOf(args));
  rung.run(gpu, args, tile);
}
