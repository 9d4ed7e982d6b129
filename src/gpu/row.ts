import { roundUp } from '../util/shape.ts';
import type { Block } from './pool.ts';
import type { Storage } from './storage.ts';

/** Where a storage lies in a row. */
export interface Home {
  readonly row: Storage;
  readonly offset: number;
}

/** Every device lets a binding begin at a multiple of this. */
const alignment = 256;

/** Bytes of storages side by side, each from a multiple of the alignment on. */
export function rowBytes(storages: readonly Storage[]): number {
  return storages.reduce((n, s) => n + roundUp(s.bytes, alignment), 0);
}

/** Each storage's offset in its row. The same sizes give the same offsets, so rows of one shape line up. */
export function placeRow(storages: readonly Storage[]): { storage: Storage; offset: number }[] {
  let offset = 0;
  return storages.map((storage) => {
    const place = { storage, offset };
    offset += roundUp(storage.bytes, alignment);
    return place;
  });
}

/** As few rows as there can be without one of more than `most` bytes. */
export function cutRows(storages: readonly Storage[], most: number): Storage[][] {
  const rows: Storage[][] = [];
  for (const storage of storages) {
    const row = rows.at(-1);
    if (row !== undefined && rowBytes([...row, storage]) <= most) row.push(storage);
    else rows.push([storage]);
  }
  return rows;
}

/** A stretch of a block. */
export function partOf(whole: Block, offset: number, bytes: number): Block {
  const { id, buffer } = whole;
  return { id, buffer, offset: whole.offset + offset, capacity: bytes, isPart: true };
}

/** The stretch of one buffer that storages fill as a row, if they do. */
export function spanOf(storages: readonly Storage[]): Block | undefined {
  const first = storages[0]?.block;
  if (first === undefined) return undefined;
  const inRow = placeRow(storages).every(
    ({ storage: { block }, offset }) =>
      block?.buffer === first.buffer && block.offset === first.offset + offset,
  );
  return inRow ? { ...first, capacity: rowBytes(storages), isPart: true } : undefined;
}
