import { dotTiles, tileCount } from './dots.ts';
import type { OnWork, Rows, Tile } from './dots.ts';

/** Each is a share from 0 to 1, but for density, which may be above. */
export interface NeighbourMeasures {
  /** Share of made images within the reach of a real one: are they like real ones? */
  readonly precision: number;
  /** Share of real images within the reach of a made one: are all kinds of them made? */
  readonly recall: number;
  /** How many real images reach a made one, over k, on average: precision that one outlier cannot lift. */
  readonly density: number;
  /** Share of real images with a made one in their reach: recall that is measured by the reach of real ones alone. */
  readonly coverage: number;
}

/** Neighbours that make an image's reach: Kynkäänniemi et al. 2019 take 3, Naeem et al. 2020 take 5. */
const reach = { recall: 3, coverage: 5 } as const;

/**
 * Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1: within means ≤) and density and coverage (Naeem et al. 2020,
 * eqs. 3 and 4: <). An image's reach is the distance to its k-th nearest neighbour in its own set, itself left out.
 * Throws a RangeError for sets of no more than 5 images.
 */
export function neighbourMeasures(real: Rows, made: Rows, onWork?: OnWork): NeighbourMeasures {
  const fewest = Math.max(...Object.values(reach)) + 1;
  if (Math.min(real.n, made.n) < fewest) {
    throw new RangeError(`neighbours are counted among ${fewest} images at least`);
  }
  const total =
    tileCount(real, real, { upper: true }) +
    tileCount(made, made, { upper: true }) +
    tileCount(real, made);
  let done = 0;
  const step = () => onWork?.(++done, total);
  const ofReal = reaches(real, step);
  const ofMade = reaches(made, step);
  const [lengthsA, lengthsB] = [lengthsOf(real), lengthsOf(made)];
  const precise = new Uint8Array(made.n);
  const recalled = new Uint8Array(real.n);
  const covered = new Uint8Array(real.n);
  let within = 0;
  for (const tile of dotTiles(real, made)) {
    eachDistance(tile, lengthsA, lengthsB, (i, j, distance) => {
      if (distance <= (ofReal.recall[i] as number)) precise[j] = 1;
      if (distance <= (ofMade.recall[j] as number)) recalled[i] = 1;
      if (distance >= (ofReal.coverage[i] as number)) return;
      within += 1;
      covered[i] = 1;
    });
    step();
  }
  return {
    precision: share(precise),
    recall: share(recalled),
    density: within / (reach.coverage * made.n),
    coverage: share(covered),
  };
}

const share = (flags: Uint8Array) => flags.reduce((sum, flag) => sum + flag, 0) / flags.length;

/** |x|² of each row: summed as its product with itself in a tile, so that a row is at no distance from its like. */
function lengthsOf({ n, d, data }: Rows): Float64Array {
  return Float64Array.from({ length: n }, (_u, i) => {
    let sum = 0;
    for (let k = i * d; k < (i + 1) * d; k++) sum += (data[k] as number) * (data[k] as number);
    return sum;
  });
}

/** Squared distances, by |x|² + |y|² − 2·x·y. */
function eachDistance(
  { i0, j0, rows, columns, values }: Tile,
  lengthsA: Float64Array,
  lengthsB: Float64Array,
  see: (i: number, j: number, squared: number) => void,
): void {
  for (let i = i0; i < i0 + rows; i++) {
    const length = lengthsA[i] as number;
    for (let j = j0; j < j0 + columns; j++) {
      const product = values[(i - i0) * columns + j - j0] as number;
      see(i, j, Math.max(0, length + (lengthsB[j] as number) - 2 * product));
    }
  }
}

/** Squared reaches of every row, for both numbers of neighbours. */
function reaches(set: Rows, step: () => void): Record<keyof typeof reach, Float64Array> {
  const k = reach.coverage;
  const nearest = new Float64Array(set.n * k).fill(Infinity);
  /** Keeps the k smallest of a row in ascending order. */
  const keep = (row: number, distance: number) => {
    let at = (row + 1) * k - 1;
    if (distance >= (nearest[at] as number)) return;
    for (; at > row * k && (nearest[at - 1] as number) > distance; at--) {
      nearest[at] = nearest[at - 1] as number;
    }
    nearest[at] = distance;
  };
  const lengths = lengthsOf(set);
  for (const tile of dotTiles(set, set, { upper: true })) {
    const diagonal = tile.i0 === tile.j0;
    eachDistance(tile, lengths, lengths, (i, j, distance) => {
      if (diagonal && i === j) return;
      keep(i, distance);
      if (!diagonal) keep(j, distance);
    });
    step();
  }
  const column = (of: number) =>
    Float64Array.from({ length: set.n }, (_u, i) => nearest[i * k + of - 1] as number);
  return { recall: column(reach.recall), coverage: column(reach.coverage) };
}
