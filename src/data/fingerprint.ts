import { createHash } from 'node:crypto';

/** Node hashes at most 2 GiB in one go. */
const CHUNK_BYTES = 2 ** 30;

/** SHA-256 in hex of bytes of any number. `chunkBytes` is for tests. */
export function sha256(bytes: Uint8Array, chunkBytes = CHUNK_BYTES): string {
  const hash = createHash('sha256');
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    hash.update(bytes.subarray(at, at + chunkBytes));
  }
  return hash.digest('hex');
}

/** What tells a data set from another: no other list of texts has the same. The texts may be made one by one. */
export function fingerprintOf(texts: Iterable<string>): string {
  const hash = createHash('sha256');
  for (const text of texts) hash.update(JSON.stringify(text));
  return hash.digest('hex');
}
