import { gridColumns } from '../io/png.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { classSweep, interpolation, rangePlan } from '../train/sampling/plan.ts';
import type { SamplePlan } from '../train/sampling/plan.ts';
import type { SampleIdentity } from '../train/sampling/stream.ts';
import { gridLabels } from '../train/sampler.ts';
import { UserError } from '../util/errors.ts';
import { classNumber } from './generator.ts';

/** Which images `sample` makes. */
export interface PlanFlags {
  readonly run: string;
  readonly n?: number;
  readonly first?: number;
  readonly seed?: number;
  readonly seeds?: readonly number[];
  readonly truncation?: number;
  readonly class?: string;
  readonly sweep?: boolean;
  readonly interpolate?: number;
}

/** Where the images go: one picture, an animation of them, or a file each. */
export type PlanShape = 'grid' | 'moving' | 'each';

/** ψ below which too many numbers would be drawn again, and above which hardly any is. */
const truncations = { least: 0.02, most: 5 } as const;

/** Refuses flags that cannot be meant together, before anything is opened. */
export function checkPlanFlags(flags: PlanFlags): void {
  const { seeds, truncation, interpolate } = flags;
  const clash = (one: keyof PlanFlags, other: keyof PlanFlags, why: string) => {
    if (flags[one] === undefined || flags[other] === undefined) return;
    throw new UserError(`--${one} and --${other} cannot be given together: ${why}`);
  };
  for (const other of ['seed', 'n', 'first'] as const) {
    clash('seeds', other, 'seeds says which images are made');
  }
  clash('sweep', 'class', 'a sweep goes over every class');
  clash('sweep', 'interpolate', 'a sweep has a column a class');
  const { least, most } = truncations;
  if (truncation !== undefined && !(truncation >= least && truncation <= most)) {
    throw new UserError(`--truncation is ${truncation}: expected ${least} to ${most}`);
  }
  if (interpolate === undefined) return;
  if (interpolate < 2) {
    throw new UserError(
      `--interpolate is ${interpolate}: expected 2 or more images from end to end`,
    );
  }
  const ends = seeds?.length ?? flags.n ?? 2;
  if (ends < 2)
    throw new UserError(
      `--interpolate needs two ends or more; --${seeds ? 'seeds' : 'n'} gives one`,
    );
}

/** How many latents are drawn if --n does not say. */
const usual = { range: 64, sweep: 8, interpolation: 5 } as const;

/** The images that are asked for. Throws a `UserError` for classes that there are not. */
export function planOf(flags: PlanFlags, checkpoint: Checkpoint, shape: PlanShape): SamplePlan {
  const { run, seed = 1, seeds, first, truncation, interpolate } = flags;
  const { classes, latentSize } = checkpoint.config;
  const asked = flags.class === undefined ? undefined : classNumber(flags.class, run, checkpoint);
  const source = { seed, seeds, first, truncation, latentSize };
  const count = (n: number) => seeds?.length ?? flags.n ?? n;
  if (flags.sweep === true) {
    if (classes === 0) {
      throw new UserError(`--sweep goes over classes: ${run} was trained without --conditional`);
    }
    return classSweep(source, count(usual.sweep), classes);
  }
  const fixed = asked === undefined ? undefined : () => asked;
  const told = (label: (i: number) => number) => fixed ?? (classes === 0 ? undefined : label);
  if (interpolate !== undefined) {
    const label = told((row) => row % classes);
    const loop = shape === 'moving';
    return interpolation(source, {
      n: count(usual.interpolation),
      steps: interpolate,
      loop,
      label,
    });
  }
  const n = count(usual.range);
  // A grid has rows of each class; of single files each has a class that does not depend on how many there are.
  const rows = shape === 'grid' && classes > 0 ? gridLabels(n, gridColumns(n), classes) : undefined;
  return rangePlan(
    source,
    n,
    told((i) => rows?.[i] ?? ((first ?? 0) + i) % classes),
  );
}

/** What the images are, beside the generator and their indices. */
export function planIdentity(flags: PlanFlags): SampleIdentity {
  const { seed = 1, seeds, first = 0, truncation, sweep, interpolate } = flags;
  return {
    ...(seeds === undefined ? { seed } : { seeds }),
    ...{ truncation, class: flags.class, interpolate },
    // Files of a range are named by the indices of their images, others from 0.
    ...(interpolate === undefined ? {} : { first }),
    layout: sweep === true ? 'sweep' : interpolate === undefined ? 'range' : 'interpolation',
  };
}
