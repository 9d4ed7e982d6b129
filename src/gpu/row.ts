import { roundUp } from '../util/shape.ts';
import type { Block } from './pool.ts';
import type { Storage } from './storage.ts';

/** Where a storage lies in a row: storages that share one buffer. */
export interface Home {
  readonly row: Storage;
  readonly offset: number;
}

/**
 * Every device lets a binding begin at a multiple of 256 bytes: twice that, so that copies in f16, half as long, can lie by
 * the same places.
 */
const alignment = 512;

/** Offsets of storages side by side, each at a multiple of the alignment: rows of the same sizes line up. */
export function rowOffsets(storages: readonly Storage[]): number[] {
  let next = 0;
  return storages.map(({ bytes }) => {
    const offset = next;
    next += roundUp(bytes, alignment);
    return offset;
  });
}

/** Bytes from the row's beginning to the end of the last of its storages, with that one's padding. */
export function rowEnd(storages: readonly Storage[], offsets: readonly number[]): number {
  return storages.reduce(
    (end, { bytes }, i) => Math.max(end, (offsets[i] ?? 0) + roundUp(bytes, alignment)),
    0,
  );
}

/** As few rows as there can be without one of more than `most` bytes. */
export function cutRows(storages: readonly Storage[], most: number): Storage[][] {
  const rows: Storage[][] = [];
  for (const storage of storages) {
    const row = rows.at(-1);
    const longer = [...(row ?? []), storage];
    if (row !== undefined && rowEnd(longer, rowOffsets(longer)) <= most) row.push(storage);
    else rows.push([storage]);
  }
  return rows;
}

/** A stretch of a block. */
export function partOf(whole: Block, offset: number, bytes: number): Block {
  const { id, buffer } = whole;
  return { id, buffer, offset: whole.offset + offset, capacity: bytes, isPart: true };
}

/** Offsets in bytes from the first of storages that lie in one buffer behind it; undefined if they do not. */
export function offsetsInBuffer(storages: readonly Storage[]): number[] | undefined {
  const first = storages[0]?.block;
  const offsets = storages.map(({ block }) =>
    block !== undefined && block.buffer === first?.buffer ? block.offset - first.offset : -1,
  );
  return offsets.every((offset) => offset >= 0) ? offsets : undefined;
}

/** The stretch of one buffer in which storages lie at `offsets` from the first, if they do. */
export function spanOf(
  storages: readonly Storage[],
  offsets: readonly number[],
): Block | undefined {
  const first = storages[0]?.block;
  const found = offsetsInBuffer(storages);
  if (first === undefined || found?.every((offset, i) => offset === offsets[i]) !== true) {
    return undefined;
  }
  return { ...first, capacity: rowEnd(storages, offsets), isPart: true };
}
