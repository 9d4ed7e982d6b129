import { HostRng } from '../src/util/philox.ts';
import { budget, f32, f64, maxAbs, storedAsHalf } from '../test/reference/naive.ts';
import type { Budget } from '../test/reference/naive.ts';
import type { Entry, Inputs, Oracle } from './oracles/oracle.ts';

/** Multiply-adds that the host spends on one case's expected values, in each precision. */
const defaultWork = 2e7;
/** Fewer units than this say too little, however dear one is; more are not looked at, however cheap. */
const [fewest, most] = [4, 512];

/** A kernel that computes something else than it should: a measurement of it would say nothing. */
export class WrongKernelError extends Error {}

/** What some entries of the outputs must be, and by how much they may miss it. */
export interface Expected {
  readonly places: ReadonlyMap<string, readonly number[]>;
  readonly values: ReadonlyMap<string, readonly number[]>;
  readonly budgets: ReadonlyMap<string, Budget>;
  /** Entries in all. */
  readonly count: number;
}

/** All units if the host has time for them, else the first, the last and random ones in between. */
export function chooseUnits(units: number, cost: number, work = defaultWork): number[] {
  const wanted = Math.min(most, Math.max(fewest, Math.floor(work / Math.max(1, cost))));
  if (units <= wanted) return Array.from({ length: units }, (_, i) => i);
  const rng = new HostRng(2);
  const chosen = new Set([0, units - 1]);
  while (chosen.size < wanted) chosen.add(rng.int(units));
  return [...chosen].sort((a, b) => a - b);
}

/**
 * The expected values in float64, and for each output the tolerance of the tests: twice the error of a plain float32 loop
 * over the same entries, with a floor and what WGSL grants its built-ins.
 *
 * Where operands are f16, or may be rounded to it (2⁻¹¹ of each), the inputs are such as f16 holds: rounding them changes
 * nothing, and a product of two of them is exact in f32. What is left is an f32 sum, for which that tolerance stands, and,
 * of the outputs in `halves`, one more rounding as they are stored. What tensor cores may lose as they add, and what a rung
 * loses that rounds on its way, as a fused attention does with its weights, the oracle tells by an entry's `slack`.
 */
export function expectedOf(
  oracle: Oracle,
  dims: object,
  inputs: Inputs,
  { work, halves = new Set() }: { work?: number; halves?: ReadonlySet<string> } = {},
): Expected {
  const units = chooseUnits(oracle.units(dims), oracle.cost(dims), work);
  const exact = units.flatMap((u) => oracle.unit(dims, inputs, u, f64));
  const naive = units.flatMap((u) => oracle.unit(dims, inputs, u, f32));
  const places = new Map<string, number[]>();
  const values = new Map<string, number[]>();
  const budgets = new Map<string, Budget>();
  for (const output of new Set(exact.map((entry) => entry.output))) {
    const of = (entries: readonly Entry[]) => entries.filter((entry) => entry.output === output);
    const expected = of(exact);
    const value = expected.map((entry) => entry.value);
    const allowance = expected.reduce((slack, entry) => Math.max(slack, entry.slack ?? 0), 0);
    const scale = expected.reduce((most, { scale = 0 }) => Math.max(most, scale), maxAbs(value));
    const loop = of(naive).map((entry) => entry.value);
    places.set(
      output,
      expected.map((entry) => entry.at),
    );
    values.set(output, value);
    const float = budget(value, loop, { allowance, scale });
    budgets.set(output, halves.has(output) ? storedAsHalf(float) : float);
  }
  return { places, values, budgets, count: exact.length };
}

/** What the worst entry is off by, if anything is wrong: undefined for a right result. */
export function complaintAbout(
  outputs: ReadonlyMap<string, Float32Array>,
  expected: Expected,
): string | undefined {
  for (const [output, data] of outputs) {
    const hole = data.findIndex(Number.isNaN);
    if (hole >= 0) return `${output}[${hole}] is NaN or was never written`;
    const places = expected.places.get(output) ?? [];
    const values = expected.values.get(output) ?? [];
    const { abs = 0, rel = 0 } = expected.budgets.get(output) ?? {};
    let worst = { excess: 0, text: '' };
    places.forEach((place, i) => {
      const [found, wanted] = [data[place] ?? NaN, values[i] ?? NaN];
      const error = Math.abs(found - wanted);
      const allowed = abs + rel * Math.abs(wanted);
      if (error <= allowed) return;
      const excess = Number.isFinite(error) ? error - allowed : Infinity;
      if (excess <= worst.excess) return;
      const text =
        `${output}[${place}] is ${found}, expected ${wanted} ` +
        `(error ${error.toPrecision(3)}, allowed ${allowed.toPrecision(3)})`;
      worst = { excess, text };
    });
    if (worst.text !== '') return worst.text;
  }
  return undefined;
}
