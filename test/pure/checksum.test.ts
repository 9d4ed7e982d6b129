// A file that ends with its checksum: no byte of it can change, or go, unseen.
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  decodeSafetensors,
  encodeSafetensors,
  readSafetensors,
  writeSafetensors,
} from '../../src/io/safetensors.ts';
import type { StoredTensor } from '../../src/io/safetensors.ts';
import { UserError } from '../../src/util/errors.ts';

const name = 'checkpoint c.safetensors';
const tensors = new Map<string, StoredTensor>([
  ['bytes', { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) }],
  ['weight', { dtype: 'F32', shape: [2, 2], data: Float32Array.of(1, -2, 0, 0.5) }],
  ['empty', { dtype: 'U8', shape: [0], data: new Uint8Array(0) }],
]);
const metadata = { step: '12', config: 'batch: 4\n' };

let folder = '';
let path = '';
let bytes = Buffer.alloc(0);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-checksum-'));
  path = join(folder, 'c.safetensors');
  await writeSafetensors(path, tensors, metadata, { checksum: true });
  bytes = await readFile(path);
});
afterAll(() => rm(folder, { recursive: true }));

describe('a file with a checksum', () => {
  test('ends with the SHA-256 of all before it, and reads as one without', async () => {
    const hash = createHash('sha256').update(bytes.subarray(0, -32)).digest();
    expect(bytes.subarray(-32)).toEqual(hash);
    const plain = decodeSafetensors(encodeSafetensors(tensors, metadata), { name });
    expect(decodeSafetensors(bytes, { name })).toEqual(plain);
    expect(await readSafetensors(path, { role: 'checkpoint', chunkBytes: 5 })).toEqual(plain);
  });

  test('is one that other readers read: its checksum is a tensor like any other', () => {
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, unknown>;
    const size = bytes.length - 8 - length;
    expect(header['wgsagan.checksum']).toEqual({
      ...{ dtype: 'U8', shape: [32], data_offsets: [size - 32, size] },
    });
  });

  test('is refused with any bit of any byte flipped', () => {
    for (let at = 0; at < bytes.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const bad = Buffer.from(bytes);
        bad[at] = bad[at]! ^ (1 << bit);
        expect(() => decodeSafetensors(bad, { name }), `byte ${at}, bit ${bit}`).toThrow(UserError);
      }
    }
  });

  test('is refused cut at any length, and with more behind it', () => {
    for (let length = 0; length < bytes.length; length++) {
      const cut = bytes.subarray(0, length);
      expect(() => decodeSafetensors(cut, { name }), `${length} bytes`).toThrow(UserError);
    }
    expect(() => decodeSafetensors(Buffer.concat([bytes, Buffer.of(0)]), { name })).toThrow(
      UserError,
    );
  });

  test('is read from disk with the same refusals, which name it', async () => {
    const bad = Buffer.from(bytes);
    bad[bytes.length - 33]! ^= 1;
    const damaged = join(folder, 'bad.safetensors');
    await writeFile(damaged, bad);
    await expect(readSafetensors(damaged, { role: 'checkpoint' })).rejects.toThrow(
      /^checkpoint .*bad\.safetensors is damaged: its bytes have the SHA-256 [0-9a-f]{12}…, and it was written with [0-9a-f]{12}…$/,
    );
  });

  test('is refused where only one of its two marks is there', () => {
    const lost = 'what its header says of its checksum is not whole';
    for (const from of ['"wgsagan.checksum":"sha256"', '"wgsagan.checksum":{']) {
      const text = bytes.toString('latin1');
      const bad = Buffer.from(text.replace(from, from.replace('checksum', 'chekksum')), 'latin1');
      expect(bad).not.toEqual(bytes);
      expect(() => decodeSafetensors(bad, { name })).toThrow(`${name} is damaged: ${lost}`);
    }
  });
});
