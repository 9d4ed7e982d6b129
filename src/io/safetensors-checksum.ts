import { createHash } from 'node:crypto';
import { DamagedError } from '../util/errors.ts';
import type { Entry } from './safetensors-header.ts';

/** The last tensor of a file that is checked: SHA-256 of every byte before it, length and header too. */
export const CHECKSUM_TENSOR = 'wgsagan.checksum';
/** A word of the metadata that says so as well: no one damaged byte can take both away. */
const MARK = 'wgsagan.checksum';
const KIND = 'sha256';
const DIGEST_BYTES = 32;

/** What a header says of the checksum that the file ends with. */
export const checksumEntry = { dtype: 'U8', shape: [DIGEST_BYTES] } as const;
export const checksumMark: Readonly<Record<string, string>> = { [MARK]: KIND };

/** Takes a file's bytes in their order, as they are written or read. */
export class Checksum {
  readonly #hash = createHash('sha256');

  update(part: Uint8Array): void {
    this.#hash.update(part);
  }

  digest(): Uint8Array {
    return this.#hash.digest();
  }
}

/** What the reader of a file needs of its checksum. */
export interface ChecksumReader {
  /** Takes the bytes of a tensor, in the file's order. */
  take(entry: Entry, bytes: Uint8Array): void;
  /** Throws a `DamagedError` unless the bytes are those that were written. */
  verify(): void;
}

/**
 * Checks a file while it is read: `head` is its length and header, `entries` are what the header names, as they lie. Takes the mark out
 * of `metadata`. Undefined for a file that was written without a checksum. Throws a `DamagedError`, which `name` begins,
 * where the header contradicts itself.
 */
export function checksumReader(
  head: readonly Uint8Array[],
  { entries, metadata }: { entries: readonly Entry[]; metadata: Record<string, string> },
  name: string,
): ChecksumReader | undefined {
  const mark = metadata[MARK];
  const entry = entries.find((one) => one.name === CHECKSUM_TENSOR);
  Reflect.deleteProperty(metadata, MARK);
  if (mark === undefined && entry === undefined) return undefined;
  const { dtype, shape } = entry ?? { dtype: '', shape: [] };
  const right = dtype === checksumEntry.dtype && shape.join() === String(DIGEST_BYTES);
  if (mark !== KIND || !right || entries.at(-1) !== entry) {
    throw new DamagedError(`${name} is damaged: what its header says of its checksum is not whole`);
  }
  const checksum = new Checksum();
  for (const part of head) checksum.update(part);
  let stored = '';
  return {
    take(of, bytes) {
      if (of.name === CHECKSUM_TENSOR) stored = hex(bytes);
      else checksum.update(bytes);
    },
    verify() {
      const found = hex(checksum.digest());
      if (found === stored) return;
      throw new DamagedError(
        `${name} is damaged: its bytes have the SHA-256 ${found.slice(0, 12)}…, and it was written with ${stored.slice(0, 12)}…`,
      );
    },
  };
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
