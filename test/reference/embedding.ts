// y[i] = table[index[i]]: table [V, D], index [n] → y [n, D]. The gradient adds the rows of a repeated index in
// the order of the index.
import { type Data, type Round } from './naive.ts';

export interface Embedding {
  readonly table: Data;
  readonly V: number;
  readonly D: number;
  readonly index: Data;
}

function eachRow({ V, index }: Embedding, visit: (i: number, row: number) => void): void {
  for (let i = 0; i < index.length; i++) {
    const row = index[i]!;
    if (!Number.isInteger(row) || row < 0 || row >= V) throw new Error(`embedding: no row ${row}`);
    visit(i, row);
  }
}

export function embedding(o: Embedding, _r: Round): Float64Array {
  const y = new Float64Array(o.index.length * o.D);
  eachRow(o, (i, row) => {
    for (let d = 0; d < o.D; d++) y[i * o.D + d] = o.table[row * o.D + d]!;
  });
  return y;
}

export function embeddingBackward(o: Embedding, dy: Data, r: Round): { dtable: Float64Array } {
  const dtable = new Float64Array(o.V * o.D);
  eachRow(o, (i, row) => {
    for (let d = 0; d < o.D; d++) {
      dtable[row * o.D + d] = r(dtable[row * o.D + d]! + dy[i * o.D + d]!);
    }
  });
  return { dtable };
}
