import { readFile } from 'node:fs/promises';
import { UserError, messageOf } from '../util/errors.ts';
import { type Shape, showShape, sizeOf } from '../util/shape.ts';
import { fileError } from './errno.ts';

/** Host arrays by dtype. F16 and BF16 keep their bits in a Uint16Array; BOOL is a byte an element. */
const ARRAYS = {
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
export type TensorData =
  | Float64Array
  | Float32Array
  | Uint16Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | BigUint64Array
  | Uint32Array
  | Uint8Array;

export interface StoredTensor {
  readonly dtype: SafetensorsDtype;
  readonly shape: Shape;
  readonly data: TensorData;
}

export interface SafetensorsFile {
  readonly tensors: Map<string, StoredTensor>;
  readonly metadata: Record<string, string>;
}

/** The reference implementation's bound; it keeps a hostile length from asking for memory. */
const MAX_HEADER_BYTES = 100_000_000;
const LENGTH_BYTES = 8;
const METADATA = '__metadata__';

interface Entry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/**
 * Bytes of a safetensors file (github.com/huggingface/safetensors, format 0.4): a little-endian u64 header length, a JSON
 * header padded with spaces to 8 bytes, and the tensors end to end. Tensors of wide elements come first, so that every
 * tensor is aligned to its element size; within a size the map's order is kept.
 */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const fields: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) fields.push([METADATA, metadata]);
  const sorted = [...tensors].sort(([, a], [, b]) => elementBytes(b.dtype) - elementBytes(a.dtype));
  let bytes = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    const problem = nameProblem(name);
    if (problem !== undefined) throw new RangeError(`safetensors: ${problem}`);
    if (!(data instanceof ARRAYS[dtype]) || data.length !== sizeOf(shape)) {
      throw new RangeError(
        `safetensors: tensor "${name}" is ${dtype} ${showShape(shape)} and needs a ${ARRAYS[dtype].name} of ` +
          `${sizeOf(shape)} elements, but got a ${data.constructor.name} of ${data.length}`,
      );
    }
    const end = bytes + data.byteLength;
    fields.push([name, { dtype, shape, data_offsets: [bytes, end] }]);
    bytes = end;
  }
  // Written field by field: an object would move names that look like integers to the front, and lose "__proto__".
  const json = fields.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  const header = new TextEncoder().encode(`{${json.join(',')}}`);
  const headerBytes = Math.ceil(header.length / 8) * 8;
  const out = new Uint8Array(LENGTH_BYTES + headerBytes + bytes);
  new DataView(out.buffer).setBigUint64(0, BigInt(headerBytes), true);
  out.fill(0x20, LENGTH_BYTES, LENGTH_BYTES + headerBytes);
  out.set(header, LENGTH_BYTES);
  let at = LENGTH_BYTES + headerBytes;
  for (const [, { data }] of sorted) {
    out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return out;
}

/**
 * The tensors and metadata of a safetensors file, each tensor in memory of its own. `name` begins every message and says
 * what the file is to the user, such as `checkpoint run/step-100.safetensors`. Throws a `UserError` for any file that is
 * not whole and consistent.
 */
export function decodeSafetensors(
  bytes: Uint8Array,
  options: { readonly name: string },
): SafetensorsFile {
  const { name } = options;
  const header = parseHeader(bytes, name);
  const metadata = readMetadata(header, name);
  const entries = Object.entries(header)
    .filter(([key]) => key !== METADATA)
    .map(([key, value]) => readEntry(key, value, name));
  const start = LENGTH_BYTES + headerLength(bytes, name);
  checkLayout(entries, bytes.length - start, name);
  const tensors = new Map<string, StoredTensor>();
  for (const { name: key, dtype, shape, begin, end } of entries) {
    // Not slice(): on a Buffer it is a view, with the file's misaligned memory behind it.
    const copy = new Uint8Array(bytes.subarray(start + begin, start + end));
    tensors.set(key, { dtype, shape, data: new ARRAYS[dtype](copy.buffer) });
  }
  return { tensors, metadata };
}

/** Reads and decodes a file; `role` ("checkpoint", "weight file") begins every message, before the path. */
export async function readSafetensors(
  path: string,
  options: { readonly role: string },
): Promise<SafetensorsFile> {
  const name = `${options.role} ${path}`;
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw fileError(error, 'read', name);
  }
  return decodeSafetensors(bytes, { name });
}

function elementBytes(dtype: SafetensorsDtype): number {
  return ARRAYS[dtype].BYTES_PER_ELEMENT;
}

function headerLength(bytes: Uint8Array, name: string): number {
  if (bytes.length < LENGTH_BYTES) {
    throw new UserError(
      `${name} is cut short: a safetensors file begins with 8 bytes of length, but the file has ${bytes.length}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new UserError(
      `${name} is not a safetensors file: its header would be ${length} bytes long, and the limit is ${MAX_HEADER_BYTES}`,
    );
  }
  if (Number(length) > bytes.length - LENGTH_BYTES) {
    throw new UserError(
      `${name} is cut short: its first 8 bytes announce a header of ${length} bytes, but only ` +
        `${bytes.length - LENGTH_BYTES} follow`,
    );
  }
  return Number(length);
}

function parseHeader(bytes: Uint8Array, name: string): Record<string, unknown> {
  const raw = bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + headerLength(bytes, name));
  let text: string;
  let parsed: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(raw);
    parsed = JSON.parse(text);
  } catch (error) {
    const why = messageOf(error).replace(/\s+/g, ' ').slice(0, 120);
    throw new UserError(`${name} is damaged: its header is not JSON (${why})`, { cause: error });
  }
  if (!isRecord(parsed)) {
    throw new UserError(
      `${name} is damaged: its header is ${describe(parsed)} where an object of tensors belongs`,
    );
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) {
    throw new UserError(`${name} is damaged: its header names ${JSON.stringify(twice)} twice`);
  }
  return parsed;
}

function readMetadata(header: Record<string, unknown>, name: string): Record<string, string> {
  const found = Object.hasOwn(header, METADATA) ? header[METADATA] : {};
  if (!isRecord(found)) {
    throw new UserError(`${name} is damaged: ${METADATA} is ${describe(found)}, not an object`);
  }
  const metadata: Record<string, string> = {};
  for (const [key, value] of Object.entries(found)) {
    if (typeof value !== 'string') {
      throw new UserError(
        `${name} is damaged: ${METADATA}.${key} is ${describe(value)}, not a string`,
      );
    }
    Object.defineProperty(metadata, key, { value, enumerable: true, writable: true });
  }
  return metadata;
}

function readEntry(key: string, value: unknown, name: string): Entry {
  const damaged = (what: string): never => {
    throw new UserError(`${name} is damaged: ${what}`);
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

/** The format leaves no room for choice: tensors cover the data from its first byte to its last, once. */
function checkLayout(entries: readonly Entry[], dataBytes: number, name: string): void {
  const sorted = [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end);
  const last = sorted.reduce((end, entry) => Math.max(end, entry.end), 0);
  if (last > dataBytes) {
    throw new UserError(
      `${name} is cut short: its header says ${last} bytes of tensors, but the file holds ${dataBytes}`,
    );
  }
  let at = 0;
  let before = 'the start of the data';
  for (const entry of sorted) {
    const quoted = JSON.stringify(entry.name);
    if (entry.begin < at) {
      throw new UserError(`${name} is damaged: tensors ${before} and ${quoted} overlap`);
    }
    if (entry.begin > at) {
      throw new UserError(
        `${name} is damaged: ${entry.begin - at} bytes between ${before} and ${quoted} belong to no tensor`,
      );
    }
    at = entry.end;
    before = quoted;
  }
  if (at < dataBytes) {
    throw new UserError(
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
