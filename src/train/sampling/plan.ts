import { latentOf, slerp } from '../latents.ts';
import type { LatentOptions } from '../latents.ts';

/** Images to make: what each is made of depends on its index alone, whatever is made with it. */
export interface SamplePlan {
  readonly n: number;
  /** In a picture of all of them; near a square if left out. */
  readonly columns?: number | undefined;
  /** (latentSize) of image i from 0. */
  latent(i: number): Float32Array;
  /** Class of image i; absent for a generator that is told none. */
  readonly label?: ((i: number) => number) | undefined;
  /** What a file of image i is called, without its ending. */
  name(i: number): string;
}

/** Where a plan's latents come from. */
export interface LatentSource extends LatentOptions {
  readonly seed: number;
  /** One image of each of these instead, the first of its seed. */
  readonly seeds?: readonly number[] | undefined;
  /** Index in the seed of the first image. Default 0. */
  readonly first?: number | undefined;
  readonly latentSize: number;
}

const indexName = (i: number) => String(i).padStart(7, '0');

/** Latent i of a source. */
function sourceLatent(source: LatentSource, i: number): Float32Array {
  const { seed, seeds, first = 0, latentSize } = source;
  return seeds === undefined
    ? latentOf(seed, first + i, latentSize, source)
    : latentOf(seeds[i] ?? 0, 0, latentSize, source);
}

/** n images of a source one after the other. */
export function rangePlan(
  source: LatentSource,
  n: number,
  label?: SamplePlan['label'],
): SamplePlan {
  const { seeds, first = 0 } = source;
  return {
    ...{ n, label },
    latent: (i) => sourceLatent(source, i),
    name: (i) => (seeds === undefined ? indexName(first + i) : `seed-${seeds[i] ?? 0}`),
  };
}

/** A row for each of n latents, with a column for each class. */
export function classSweep(source: LatentSource, n: number, classes: number): SamplePlan {
  const { seeds, first = 0 } = source;
  const row = (i: number) => Math.floor(i / classes);
  return {
    ...{ n: n * classes, columns: classes },
    latent: (i) => sourceLatent(source, row(i)),
    label: (i) => i % classes,
    name: (i) => {
      const of = seeds === undefined ? indexName(first + row(i)) : `seed-${seeds[row(i)] ?? 0}`;
      return `${of}-class-${i % classes}`;
    },
  };
}

/**
 * The ways along the sphere (`slerp`) from each of n latents of a source to the next: a row of `steps` images each, both ends
 * among them. `loop`: from the last to the first again, and each end once, as an animation wants it. A class is that of the row.
 */
export function interpolation(
  source: LatentSource,
  {
    n,
    steps,
    loop = false,
    label,
  }: {
    readonly n: number;
    readonly steps: number;
    readonly loop?: boolean;
    readonly label?: SamplePlan['label'];
  },
): SamplePlan {
  const legs = loop ? n : n - 1;
  const last = loop ? steps : steps - 1;
  return {
    ...{ n: legs * steps, columns: steps },
    latent: (i) => {
      const leg = Math.floor(i / steps);
      const [from, to] = [sourceLatent(source, leg), sourceLatent(source, (leg + 1) % n)];
      return slerp(from, to, (i % steps) / last);
    },
    label: label === undefined ? undefined : (i) => label(Math.floor(i / steps)),
    name: indexName,
  };
}
