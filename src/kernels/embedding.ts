import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { kernel, linearGrid } from './kernel.ts';

const record = { file: 'embedding/embedding.wgsl', dims: ['count', 'classes', 'D'] } as const;

export const gather = kernel({
  ...record,
  entry: 'gather',
  tensors: ['table', 'index', 'out'],
  grid: ({ count, D }, tile) => linearGrid(count * D, tile('WG')),
  flops: () => 0,
  bytes: ({ count, D }) => 4 * count * (2 * D + 1),
});

export const scatterAdd = kernel({
  ...record,
  entry: 'scatterAdd',
  tensors: ['dOut', 'index', 'dTable'],
  grid: ({ classes, D }, tile) => linearGrid(classes * D, tile('WG')),
  flops: ({ count, D }) => count * D,
  bytes: ({ count, classes, D }) => 4 * (count * (D + 1) + classes * D),
});

export interface EmbeddingArgs {
  /** [classes, D] */
  readonly table: Storage;
  /** u32 [rows] */
  readonly index: Storage;
  /** [rows, D] */
  readonly out: Storage;
  readonly rows: number;
  readonly D: number;
}

/** out[i] = table[index[i]]; zeros for an index past the table. */
export function embedding(gpu: Gpu, { table, index, out, rows, D }: EmbeddingArgs): void {
  const classes = Math.floor(table.bytes / (4 * D));
  gather.run(gpu, { tensors: { table, index, out }, dims: { count: rows, classes, D } });
}

export interface EmbeddingBackwardArgs {
  /** [count, D] */
  readonly dOut: Storage;
  /** u32 [count] */
  readonly index: Storage;
  /** [classes, D] */
  readonly dTable: Storage;
  readonly count: number;
  readonly classes: number;
  readonly D: number;
}

/** dTable[c] = Σ dOut[i] over the i with index[i] = c, in the order of i. */
export function embeddingBackward(gpu: Gpu, args: EmbeddingBackwardArgs): void {
  const { dOut, index, dTable, count, classes, D } = args;
  scatterAdd.run(gpu, { tensors: { dOut, index, dTable }, dims: { count, classes, D } });
}
