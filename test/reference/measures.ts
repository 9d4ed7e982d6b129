// What a training step measures of itself: the length of its gradients, and how its images differ.
import type { Data, Round } from './naive.ts';

/** √(Σ x²) */
export function norm(x: Data, r: Round): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum = r(sum + r(x[i]! * x[i]!));
  return r(Math.sqrt(sum));
}

/** The mean square distance of two different images of a batch of n, pair by pair. */
export function meanSquareDistance(images: Data, n: number, r: Round): number {
  const size = images.length / n;
  let sum = 0;
  for (let a = 0; a < n; a++) {
    for (let b = 0; b < a; b++) {
      let square = 0;
      for (let i = 0; i < size; i++) {
        const off = r(images[a * size + i]! - images[b * size + i]!);
        square = r(square + r(off * off));
      }
      sum = r(sum + square);
    }
  }
  return r(sum / ((n * (n - 1)) / 2));
}

/** The root of the mean square distance of made images, by that of real ones. */
export function diversity(real: Data, fake: Data, n: number, r: Round): number {
  return r(Math.sqrt(r(meanSquareDistance(fake, n, r) / meanSquareDistance(real, n, r))));
}
