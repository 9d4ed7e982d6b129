/** Rows of numbers, [n, d], in float64. */
export interface Rows {
  readonly n: number;
  readonly d: number;
  readonly data: Float64Array;
}

/** Takes how much of a long computation is done. */
export type OnWork = (done: number, total: number) => void;

/** Rows of floats as float64, each less `shift` (d) and times `scale`; `first` and `n` choose some of them. */
export function rowsOf(
  values: Float32Array,
  d: number,
  part: { first?: number; n?: number; shift?: Float64Array; scale?: number } = {},
): Rows {
  const { first = 0, n = values.length / d - first, shift, scale = 1 } = part;
  const data = new Float64Array(n * d);
  for (let i = 0; i < n; i++) {
    const from = (first + i) * d;
    for (let k = 0; k < d; k++) {
      data[i * d + k] = ((values[from + k] ?? NaN) - (shift?.[k] ?? 0)) * scale;
    }
  }
  return { n, d, data };
}

/** The transpose of some rows, [d, n]. */
export function transposed({ n, d, data }: Rows): Rows {
  const out = new Float64Array(n * d);
  for (let i = 0; i < n; i++) for (let k = 0; k < d; k++) out[k * n + i] = data[i * d + k] ?? 0;
  return { n: d, d: n, data: out };
}

/** Rows of a matrix of products that are worked out at a time: two such blocks of 128 numbers a row fill a small cache. */
const tileRows = 64;

/** Products of rows a with rows b, from row `i0` and `j0` on: `values[(i − i0) · columns + j − j0]` = aᵢ · bⱼ. */
export interface Tile {
  readonly i0: number;
  readonly j0: number;
  readonly rows: number;
  readonly columns: number;
  /** Overwritten by the next tile. */
  readonly values: Float64Array;
}

/**
 * Every product of a row of a with one of b, a tile at a time, so that memory does not grow with their number. Every product
 * is one sum from the first element to the last, wherever its tile lies: equal rows have equal products. `upper`: b is a,
 * and tiles below the diagonal are left out.
 */
export function* dotTiles(a: Rows, b: Rows, { upper = false } = {}): Generator<Tile> {
  const values = new Float64Array(tileRows ** 2);
  for (let i0 = 0; i0 < a.n; i0 += tileRows) {
    const rows = Math.min(tileRows, a.n - i0);
    for (let j0 = upper ? i0 : 0; j0 < b.n; j0 += tileRows) {
      const tile = { i0, j0, rows, columns: Math.min(tileRows, b.n - j0), values };
      fill(tile, a, b);
      yield tile;
    }
  }
}

/** How many tiles there are. */
export function tileCount(a: Rows, b: Rows, { upper = false } = {}): number {
  const [down, across] = [Math.ceil(a.n / tileRows), Math.ceil(b.n / tileRows)];
  return upper ? (down * (down + 1)) / 2 : down * across;
}

/** Two rows with two at a time: each number that is loaded serves twice. */
function fill({ i0, j0, rows, columns, values }: Tile, a: Rows, b: Rows): void {
  const { d } = a;
  const [x, y] = [a.data, b.data];
  for (let i = 0; i < rows; i += 2) {
    // The last of an odd number of rows is worked out twice, to the same sum.
    const more = i + 1 < rows ? 1 : 0;
    const a0 = (i0 + i) * d;
    const a1 = a0 + more * d;
    for (let j = 0; j < columns; j += 2) {
      const right = j + 1 < columns ? 1 : 0;
      const b0 = (j0 + j) * d;
      const b1 = b0 + right * d;
      let s00 = 0;
      let s01 = 0;
      let s10 = 0;
      let s11 = 0;
      for (let k = 0; k < d; k++) {
        const p = x[a0 + k] as number;
        const q = x[a1 + k] as number;
        const u = y[b0 + k] as number;
        const v = y[b1 + k] as number;
        s00 += p * u;
        s01 += p * v;
        s10 += q * u;
        s11 += q * v;
      }
      const at = i * columns + j;
      values[at] = s00;
      values[at + right] = s01;
      values[at + more * columns] = s10;
      values[at + more * columns + right] = s11;
    }
  }
}
