import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type SafetensorsDtype,
  type StoredTensor,
  type TensorData,
  type TensorSource,
  decodeSafetensors,
  encodeSafetensors,
  readSafetensors,
  writeSafetensors,
} from '../../src/io/safetensors.ts';
import { UserError } from '../../src/util/errors.ts';

const name = 'checkpoint a.safetensors';

/** A file of any header and data, right or wrong. */
function raw(header: string | Uint8Array, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const out = new Uint8Array(8 + text.length + data.length);
  new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
  out.set(text, 8);
  out.set(data, 8 + text.length);
  return out;
}

function tensorHeader(entries: Record<string, unknown>): string {
  return JSON.stringify(entries);
}

const ARRAYS: Record<SafetensorsDtype, (bytes: ArrayBuffer) => TensorData> = {
  F64: (b) => new Float64Array(b),
  F32: (b) => new Float32Array(b),
  F16: (b) => new Uint16Array(b),
  BF16: (b) => new Uint16Array(b),
  I64: (b) => new BigInt64Array(b),
  I32: (b) => new Int32Array(b),
  I16: (b) => new Int16Array(b),
  I8: (b) => new Int8Array(b),
  U64: (b) => new BigUint64Array(b),
  U32: (b) => new Uint32Array(b),
  U16: (b) => new Uint16Array(b),
  U8: (b) => new Uint8Array(b),
  BOOL: (b) => new Uint8Array(b),
};
const WIDTH: Record<SafetensorsDtype, number> = {
  ...{ F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2 },
  ...{ I8: 1, U64: 8, U32: 4, U16: 2, U8: 1, BOOL: 1 },
};

const tensor: fc.Arbitrary<StoredTensor> = fc
  .tuple(
    fc.constantFrom(...(Object.keys(ARRAYS) as SafetensorsDtype[])),
    fc.array(fc.nat(4), { maxLength: 4 }),
  )
  .chain(([dtype, shape]) => {
    const n = shape.reduce((a, b) => a * b, 1) * WIDTH[dtype];
    return fc
      .uint8Array({ minLength: n, maxLength: n })
      .map((bytes) => ({ dtype, shape, data: ARRAYS[dtype](Uint8Array.from(bytes).buffer) }));
  });
const printable = fc
  .string({ minLength: 1, maxLength: 12 })
  .filter((s) => s !== '__metadata__' && !/[\0-\x1f\x7f]/.test(s));
const names = fc.oneof(printable, fc.constantFrom('0', '__proto__', 'a.weight', 'ümlaut', '"\\'));
const tensorMap = fc.uniqueArray(fc.tuple(names, tensor), { maxLength: 6, selector: ([n]) => n });

function bytesOf(data: TensorData): number[] {
  return [...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];
}

describe('a safetensors file', () => {
  it('comes back to the same tensors, bit for bit, and metadata', () => {
    const metadata = fc.dictionary(fc.string(), fc.string(), { maxKeys: 4 });
    fc.assert(
      fc.property(tensorMap, metadata, fc.boolean(), (entries, meta, asBuffer) => {
        const encoded = encodeSafetensors(new Map(entries), meta);
        // A Buffer's slice() is a view, and a file may lie at any offset of a larger buffer.
        const shifted = Buffer.concat([Buffer.alloc(3), encoded]).subarray(3);
        const decoded = decodeSafetensors(asBuffer ? shifted : encoded, { name });
        expect(decoded.tensors.size).toBe(entries.length);
        for (const [key, { dtype, shape, data }] of entries) {
          const got = decoded.tensors.get(key)!;
          expect([got.dtype, got.shape]).toEqual([dtype, shape]);
          expect(got.data.constructor).toBe(data.constructor);
          expect(bytesOf(got.data)).toEqual(bytesOf(data));
        }
        expect(Object.entries(decoded.metadata).sort()).toEqual(Object.entries(meta).sort());
      }),
      { numRuns: 300 },
    );
  });

  it('has the layout of the format', () => {
    const bytes = encodeSafetensors(
      new Map<string, StoredTensor>([
        ['mask', { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) }],
        ['w', { dtype: 'F32', shape: [1, 2], data: Float32Array.of(1, -2) }],
      ]),
      { format: 'pt' },
    );
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    expect(length % 8).toBe(0);
    const header = new TextDecoder().decode(bytes.subarray(8, 8 + length));
    expect(header.trimEnd()).toBe(
      '{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},' +
        '"mask":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}',
    );
    expect([...bytes.subarray(8 + length)]).toEqual([0, 0, 128, 63, 0, 0, 0, 192, 1, 2, 3]);
  });

  it('gives tensors memory of their own', () => {
    const bytes = encodeSafetensors(
      new Map([['w', { dtype: 'U8' as const, shape: [1], data: Uint8Array.of(5) }]]),
    );
    const { data } = decodeSafetensors(bytes, { name }).tensors.get('w')!;
    bytes.fill(0);
    expect([...data]).toEqual([5]);
    expect(data.buffer.byteLength).toBe(1);
  });

  it('refuses to write what does not fit together', () => {
    const write = (key: string, t: StoredTensor) => () => encodeSafetensors(new Map([[key, t]]));
    expect(write('w', { dtype: 'F32', shape: [3], data: new Float32Array(2) })).toThrow(
      'safetensors: tensor "w" is F32 [3] and needs a Float32Array of 3 elements, but got a Float32Array of 2',
    );
    expect(write('w', { dtype: 'U32', shape: [2], data: new Float32Array(2) })).toThrow(
      'needs a Uint32Array of 2 elements, but got a Float32Array of 2',
    );
    const one: StoredTensor = { dtype: 'U8', shape: [1], data: new Uint8Array(1) };
    expect(write('__metadata__', one)).toThrow('"__metadata__" cannot name a tensor');
    expect(write('', one)).toThrow('a tensor has an empty name');
    expect(write('a\nb', one)).toThrow('tensor name "a\\nb" has a control character in it');
  });
});

const w = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
const eight = new Uint8Array(8);
const hugeLength = Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 255, 0x7b, 0x7d);

/** Every way to be wrong, with its whole message after the name. */
const WRONG: readonly [string, Uint8Array, string][] = [
  [
    'no length',
    Uint8Array.of(1, 2, 3),
    'is cut short: a safetensors file begins with 8 bytes of length, but the file has 3',
  ],
  [
    'a length past every limit',
    hugeLength,
    'is not a safetensors file: its header would be 18446744073709551615 bytes long, and the limit is 100000000',
  ],
  [
    'half a header',
    raw(tensorHeader({ w }), eight).subarray(0, 20),
    'is cut short: its first 8 bytes announce a header of 54 bytes, but only 12 follow',
  ],
  [
    'half the data',
    raw(tensorHeader({ w }), eight).subarray(0, 8 + 54 + 5),
    'is cut short: its header says 8 bytes of tensors, but the file holds 5',
  ],
  [
    'bytes left over',
    raw(tensorHeader({ w }), new Uint8Array(11)),
    'is damaged: 3 bytes after the last tensor belong to none',
  ],
  [
    'a list as header',
    raw('[1]'),
    'is damaged: its header is a list where an object of tensors belongs',
  ],
  [
    'a number as header',
    raw('7'),
    'is damaged: its header is a number where an object of tensors belongs',
  ],
  [
    'null as header',
    raw('null'),
    'is damaged: its header is null where an object of tensors belongs',
  ],
  [
    'a name twice',
    raw(`{"w":${JSON.stringify(w)},"\\u0077":${JSON.stringify(w)}}`, eight),
    'is damaged: its header names "w" twice',
  ],
  [
    'a field twice',
    raw('{"w":{"dtype":"F32","shape":[2],"shape" : [2],"data_offsets":[0,8]}}', eight),
    'is damaged: its header names "shape" twice',
  ],
  [
    'an unknown dtype',
    raw(tensorHeader({ w: { ...w, dtype: 'F99' } }), eight),
    'is damaged: tensor "w" has dtype "F99", which is none of F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL',
  ],
  [
    'a dtype that objects inherit',
    raw(tensorHeader({ w: { ...w, dtype: 'toString' } }), eight),
    'is damaged: tensor "w" has dtype "toString", which is none of F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL',
  ],
  [
    'a negative size',
    raw(tensorHeader({ w: { ...w, shape: [-2] } }), eight),
    'is damaged: tensor "w" has shape [-2], not a list of sizes',
  ],
  [
    'no shape',
    raw(tensorHeader({ w: { dtype: 'F32', data_offsets: [0, 8] } }), eight),
    'is damaged: tensor "w" has shape nothing, not a list of sizes',
  ],
  [
    'one offset',
    raw(tensorHeader({ w: { ...w, data_offsets: [8] } }), eight),
    'is damaged: tensor "w" has data_offsets [8], not [begin, end]',
  ],
  [
    'offsets of another size than the shape',
    raw(tensorHeader({ w: { ...w, shape: [3] } }), eight),
    'is damaged: tensor "w" is F32 [3], 12 bytes, but its data_offsets [0, 8] hold 8',
  ],
  [
    'offsets in the wrong order',
    raw(tensorHeader({ w: { ...w, data_offsets: [8, 0] } }), eight),
    'is damaged: tensor "w" is F32 [2], 8 bytes, but its data_offsets [8, 0] hold -8',
  ],
  [
    'a shape whose product overflows',
    raw(tensorHeader({ w: { ...w, shape: [2 ** 31, 2 ** 31, 2 ** 31] } }), eight),
    'is damaged: tensor "w" is F32 [2147483648, 2147483648, 2147483648], 3.961408125713217e+28 bytes, but its data_offsets [0, 8] hold 8',
  ],
  [
    'overlapping tensors',
    raw(tensorHeader({ w, v: { ...w, data_offsets: [4, 12] } }), new Uint8Array(12)),
    'is damaged: tensors "w" and "v" overlap',
  ],
  [
    'a hole between tensors',
    raw(tensorHeader({ w, v: { ...w, data_offsets: [12, 20] } }), new Uint8Array(20)),
    'is damaged: 4 bytes between "w" and "v" belong to no tensor',
  ],
  [
    'a tensor that is no object',
    raw(tensorHeader({ w: 3 })),
    'is damaged: tensor "w" is a number, not an object',
  ],
  ['an empty name', raw(tensorHeader({ '': w }), eight), 'is damaged: a tensor has an empty name'],
  [
    'a control character in a name',
    raw(tensorHeader({ 'a\0': w }), eight),
    'is damaged: tensor name "a\\u0000" has a control character in it',
  ],
  [
    'metadata that is no object',
    raw('{"__metadata__":[]}'),
    'is damaged: __metadata__ is a list, not an object',
  ],
  [
    'metadata of numbers',
    raw('{"__metadata__":{"step":3}}'),
    'is damaged: __metadata__.step is a number, not a string',
  ],
];

describe('a file that is wrong', () => {
  it.each(WRONG)('is refused for %s', (_, bytes, message) => {
    const decode = () => decodeSafetensors(bytes, { name });
    expect(decode).toThrow(UserError);
    expect(decode).toThrow(new UserError(`${name} ${message}`));
  });

  it('is refused for a header that is no JSON, or no UTF-8', () => {
    const json = () => decodeSafetensors(raw('{"w":'), { name });
    expect(json).toThrow(UserError);
    expect(json).toThrow(`${name} is damaged: its header is not JSON (`);
    const utf8 = () => decodeSafetensors(raw(Uint8Array.of(0x7b, 0xff, 0x7d)), { name });
    expect(utf8).toThrow(UserError);
    const nested = () => decodeSafetensors(raw('['.repeat(1e6)), { name });
    expect(nested).toThrow(UserError);
  });

  it('never fails otherwise than by UserError, whatever bytes change', () => {
    const damage = fc.record({
      flips: fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), { maxLength: 4 }),
      cut: fc.option(fc.nat(), { nil: undefined }),
    });
    let refused = 0;
    fc.assert(
      fc.property(tensorMap, damage, (entries, { flips, cut }) => {
        const bytes = encodeSafetensors(new Map(entries), { step: '3' });
        for (const [at, mask] of flips) bytes[at % bytes.length]! ^= mask;
        const kept = cut === undefined ? bytes : bytes.subarray(0, cut % bytes.length);
        try {
          decodeSafetensors(kept, { name });
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
          expect((error as Error).message).toMatch(/^checkpoint a\.safetensors is [^\n]+$/);
          refused++;
        }
        // Any cut takes a byte that header or data needs.
        if (cut !== undefined) expect(() => decodeSafetensors(kept, { name })).toThrow(UserError);
      }),
      { numRuns: 2000 },
    );
    expect(refused).toBeGreaterThan(500);
  });

  it('never fails otherwise than by UserError, whatever the header says', () => {
    const value = fc.oneof(fc.jsonValue(), fc.array(fc.maxSafeNat(), { maxLength: 3 }));
    const entry = fc.record(
      { dtype: fc.oneof(fc.constant('F32'), value), shape: value, data_offsets: value },
      { requiredKeys: [] },
    );
    const header = fc.dictionary(
      fc.oneof(names, fc.constant('__metadata__')),
      fc.oneof(entry, value),
    );
    fc.assert(
      fc.property(header, fc.uint8Array({ maxLength: 40 }), (entries, data) => {
        try {
          decodeSafetensors(raw(JSON.stringify(entries), data), { name });
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
        }
      }),
      { numRuns: 1000 },
    );
  });
});

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'wgsagan-safetensors-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('writeSafetensors', () => {
  it('writes the bytes of encodeSafetensors, each tensor asked for when its turn comes', async () => {
    const path = join(folder, 'parts.safetensors');
    await fc.assert(
      fc.asyncProperty(tensorMap, async (entries) => {
        let asked = 0;
        let given = 0;
        const sources = entries.map(([key, { dtype, shape, data }]): [string, TensorSource] => {
          const read = async () => {
            expect(asked++).toBe(given);
            await Promise.resolve();
            given++;
            return data;
          };
          return [key, { dtype, shape, read }];
        });
        await writeSafetensors(path, new Map(sources), { step: '3' });
        expect(asked).toBe(entries.length);
        const expected = encodeSafetensors(new Map(entries), { step: '3' });
        expect(Buffer.compare(await readFile(path), expected)).toBe(0);
        await writeSafetensors(path, new Map(entries), { step: '3' });
        expect(Buffer.compare(await readFile(path), expected)).toBe(0);
      }),
      { numRuns: 30 },
    );
  });

  it('leaves the old file where a tensor cannot be had, or is not what was said', async () => {
    const inside = join(folder, 'inside');
    const path = join(inside, 'a.safetensors');
    await rm(inside, { recursive: true, force: true });
    await expect(writeSafetensors(path, new Map())).rejects.toThrow(
      new UserError(`cannot write ${path}: no such file or folder (ENOENT)`),
    );
    await mkdir(inside);
    await writeFile(path, 'old');
    const source = (read: () => Promise<TensorData>) =>
      new Map<string, StoredTensor | TensorSource>([
        ['a', { dtype: 'F32', shape: [1], data: Float32Array.of(1) }],
        ['b', { dtype: 'F32', shape: [2], read }],
      ]);
    const lost = new Error('the device is lost');
    await expect(
      writeSafetensors(
        path,
        source(() => Promise.reject(lost)),
      ),
    ).rejects.toBe(lost);
    const short = () => Promise.resolve(new Float32Array(3));
    await expect(writeSafetensors(path, source(short))).rejects.toThrow(
      'safetensors: tensor "b" is F32 [2] and needs a Float32Array of 2 elements, but got a Float32Array of 3',
    );
    expect(await readdir(inside)).toEqual(['a.safetensors']);
    expect(await readFile(path, 'utf8')).toBe('old');
  });
});

describe('readSafetensors', () => {
  it('reads what decodeSafetensors reads, whatever the size of a read', async () => {
    const path = join(folder, 'chunks.safetensors');
    const chunks = fc.integer({ min: 1, max: 40 });
    await fc.assert(
      fc.asyncProperty(tensorMap, chunks, async (entries, chunkBytes) => {
        const bytes = encodeSafetensors(new Map(entries), { step: '3' });
        await writeFile(path, bytes);
        const read = await readSafetensors(path, { role: 'checkpoint', chunkBytes });
        expect(read).toEqual(decodeSafetensors(bytes, { name }));
        for (const { data } of read.tensors.values()) {
          expect(data.buffer.byteLength).toBe(data.byteLength);
        }
      }),
      { numRuns: 100 },
    );
  });

  it.each(WRONG)('refuses a file for %s', async (_, bytes, message) => {
    const path = join(folder, 'wrong.safetensors');
    await writeFile(path, bytes);
    await expect(readSafetensors(path, { role: 'checkpoint' })).rejects.toThrow(
      new UserError(`checkpoint ${path} ${message}`),
    );
  });

  it('names role and path', async () => {
    const path = join(folder, 'w.safetensors');
    await writeFile(path, encodeSafetensors(new Map(), { step: '1' }));
    expect((await readSafetensors(path, { role: 'checkpoint' })).metadata).toEqual({ step: '1' });
    await writeFile(path, 'short');
    await expect(readSafetensors(path, { role: 'checkpoint' })).rejects.toThrow(
      `checkpoint ${path} is cut short: a safetensors file begins with 8 bytes of length, but the file has 5`,
    );
    await expect(readSafetensors(`${path}x`, { role: 'checkpoint' })).rejects.toThrow(
      new UserError(`cannot read checkpoint ${path}x: no such file or folder (ENOENT)`),
    );
    await expect(readSafetensors(folder, { role: 'checkpoint' })).rejects.toThrow(
      new UserError(`cannot read checkpoint ${folder}: it is a folder, not a file (EISDIR)`),
    );
  });
});
