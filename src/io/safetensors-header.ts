import { DamagedError, messageOf } from '../util/errors.ts';
import { type Shape, showShape, sizeOf } from '../util/shape.ts';

/** Host arrays by dtype. F16 and BF16 keep their bits in a Uint16Array; BOOL is a byte an element. */
export const ARRAYS = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U64: BigUint64Array,
  U32: Uint32Array,
  U16: Uint16Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const;

export type SafetensorsDtype = keyof typeof ARRAYS;

/** A tensor's place in a file: `begin` and `end` count bytes from the end of the header. */
export interface Entry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: Shape;
  readonly begin: number;
  readonly end: number;
}

/** The reference implementation's bound; it keeps a hostile length from asking for memory. */
const MAX_HEADER_BYTES = 100_000_000;
/** A file begins with the header's length, a little-endian u64. */
export const LENGTH_BYTES = 8;
const METADATA = '__metadata__';

/**
 * The beginning of a file, header length and header, and its tensors in the file's order. Throws a RangeError for a name
 * that no file can hold.
 */
export function writeHeader(
  tensors: Iterable<readonly [string, { readonly dtype: SafetensorsDtype; readonly shape: Shape }]>,
  metadata: Readonly<Record<string, string>>,
): { head: Uint8Array; entries: Entry[] } {
  const fields: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) fields.push([METADATA, metadata]);
  const sorted = [...tensors].sort(([, a], [, b]) => elementBytes(b.dtype) - elementBytes(a.dtype));
  const entries: Entry[] = [];
  let begin = 0;
  for (const [name, { dtype, shape }] of sorted) {
    const problem = nameProblem(name);
    if (problem !== undefined) throw new RangeError(`safetensors: ${problem}`);
    const end = begin + sizeOf(shape) * elementBytes(dtype);
    fields.push([name, { dtype, shape, data_offsets: [begin, end] }]);
    entries.push({ name, dtype, shape, begin, end });
    begin = end;
  }
  // Written field by field: an object would move names that look like integers to the front, and lose "__proto__".
  const json = fields.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  const header = new TextEncoder().encode(`{${json.join(',')}}`);
  const headerBytes = Math.ceil(header.length / 8) * 8;
  const head = new Uint8Array(LENGTH_BYTES + headerBytes).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(headerBytes), true);
  head.set(header, LENGTH_BYTES);
  return { head, entries };
}

/** Bytes of the header that follows a file's first 8, for a file of `fileBytes`. Throws a `DamagedError` as `readHeader`. */
export function headerLength(first: Uint8Array, fileBytes: number, name: string): number {
  if (first.length < LENGTH_BYTES) {
    throw new DamagedError(
      `${name} is cut short: a safetensors file begins with 8 bytes of length, but the file has ${fileBytes}`,
    );
  }
  const view = new DataView(first.buffer, first.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new DamagedError(
      `${name} is not a safetensors file: its header would be ${length} bytes long, and the limit is ${MAX_HEADER_BYTES}`,
    );
  }
  if (Number(length) > fileBytes - LENGTH_BYTES) {
    throw new DamagedError(
      `${name} is cut short: its first 8 bytes announce a header of ${length} bytes, but only ` +
        `${fileBytes - LENGTH_BYTES} follow`,
    );
  }
  return Number(length);
}

/**
 * What a header says, its tensors in the order of their data, checked against the bytes of data that follow it. `name` begins every message. Throws a
 * `DamagedError` for anything that is not whole and consistent.
 */
export function readHeader(
  raw: Uint8Array,
  dataBytes: number,
  name: string,
): { entries: Entry[]; metadata: Record<string, string> } {
  const header = parseHeader(raw, name);
  const metadata = readMetadata(header, name);
  const entries = Object.entries(header)
    .filter(([key]) => key !== METADATA)
    .map(([key, value]) => readEntry(key, value, name));
  // From here on in the order in which they lie in the file.
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkLayout(entries, dataBytes, name);
  return { entries, metadata };
}

function elementBytes(dtype: SafetensorsDtype): number {
  return ARRAYS[dtype].BYTES_PER_ELEMENT;
}

function parseHeader(raw: Uint8Array, name: string): Record<string, unknown> {
  let text: string;
  let parsed: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(raw);
    parsed = JSON.parse(text);
  } catch (error) {
    const why = messageOf(error).replace(/\s+/g, ' ').slice(0, 120);
    throw new DamagedError(`${name} is damaged: its header is not JSON (${why})`, { cause: error });
  }
  if (!isRecord(parsed)) {
    throw new DamagedError(
      `${name} is damaged: its header is ${describe(parsed)} where an object of tensors belongs`,
    );
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) {
    throw new DamagedError(`${name} is damaged: its header names ${JSON.stringify(twice)} twice`);
  }
  return parsed;
}

function readMetadata(header: Record<string, unknown>, name: string): Record<string, string> {
  const found = Object.hasOwn(header, METADATA) ? header[METADATA] : {};
  if (!isRecord(found)) {
    throw new DamagedError(`${name} is damaged: ${METADATA} is ${describe(found)}, not an object`);
  }
  const metadata: Record<string, string> = {};
  for (const [key, value] of Object.entries(found)) {
    if (typeof value !== 'string') {
      throw new DamagedError(
        `${name} is damaged: ${METADATA}.${key} is ${describe(value)}, not a string`,
      );
    }
    Object.defineProperty(metadata, key, {
      value,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return metadata;
}

function readEntry(key: string, value: unknown, name: string): Entry {
  const damaged = (what: string): never => {
    throw new DamagedError(`${name} is damaged: ${what}`);
  };
  const problem = nameProblem(key);
  if (problem !== undefined) damaged(problem);
  const quoted = JSON.stringify(key);
  if (!isRecord(value)) return damaged(`tensor ${quoted} is ${describe(value)}, not an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !Object.hasOwn(ARRAYS, dtype)) {
    const known = Object.keys(ARRAYS).join(', ');
    return damaged(`tensor ${quoted} has dtype ${show(dtype)}, which is none of ${known}`);
  }
  if (!isCounts(shape)) {
    return damaged(`tensor ${quoted} has shape ${show(shape)}, not a list of sizes`);
  }
  if (!isCounts(offsets) || offsets.length !== 2) {
    return damaged(`tensor ${quoted} has data_offsets ${show(offsets)}, not [begin, end]`);
  }
  const [begin = 0, end = 0] = offsets;
  const known = dtype as SafetensorsDtype;
  const expected = sizeOf(shape) * elementBytes(known);
  if (end - begin !== expected) {
    const held = `data_offsets [${begin}, ${end}] hold ${end - begin}`;
    return damaged(
      `tensor ${quoted} is ${dtype} ${showShape(shape)}, ${expected} bytes, but its ${held}`,
    );
  }
  return { name: key, dtype: known, shape, begin, end };
}

/** The format leaves no room for choice: the tensors, in their order, cover the data from its first byte to its last, once. */
function checkLayout(entries: readonly Entry[], dataBytes: number, name: string): void {
  const last = entries.reduce((end, entry) => Math.max(end, entry.end), 0);
  if (last > dataBytes) {
    throw new DamagedError(
      `${name} is cut short: its header says ${last} bytes of tensors, but the file holds ${dataBytes}`,
    );
  }
  let at = 0;
  let before = 'the start of the data';
  for (const entry of entries) {
    const quoted = JSON.stringify(entry.name);
    if (entry.begin < at) {
      throw new DamagedError(`${name} is damaged: tensors ${before} and ${quoted} overlap`);
    }
    if (entry.begin > at) {
      throw new DamagedError(
        `${name} is damaged: ${entry.begin - at} bytes between ${before} and ${quoted} belong to no tensor`,
      );
    }
    at = entry.end;
    before = quoted;
  }
  if (at < dataBytes) {
    throw new DamagedError(
      `${name} is damaged: ${dataBytes - at} bytes after the last tensor belong to none`,
    );
  }
}

function nameProblem(name: string): string | undefined {
  if (name === '') return 'a tensor has an empty name';
  if (name === METADATA) return `"${METADATA}" cannot name a tensor`;
  if (/[\u0000-\u001f\u007f]/.test(name)) {
    return `tensor name ${JSON.stringify(name)} has a control character in it`;
  }
  return undefined;
}

/**
 * The first key that an object of this JSON text has twice (`JSON.parse` keeps the last in silence). The text is known to
 * be valid, so strings and braces are all that matters.
 */
function duplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '{') open.push(new Set());
    else if (c === '[') open.push(undefined);
    else if (c === '}' || c === ']') open.pop();
    else if (c === '"') {
      const begin = i;
      for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++;
      let after = i + 1;
      while (/\s/.test(text[after] ?? '')) after++;
      if (text[after] !== ':') continue;
      const key = JSON.parse(text.slice(begin, i + 1)) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

function show(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 80);
}
