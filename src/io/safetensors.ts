import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { DamagedError } from '../util/errors.ts';
import { type Shape, showShape, sizeOf } from '../util/shape.ts';
import { writeFileAtomic } from './atomic.ts';
import { fileError } from './errno.ts';
import {
  CHECKSUM_TENSOR,
  Checksum,
  checksumEntry,
  checksumMark,
  checksumReader,
} from './safetensors-checksum.ts';
import {
  ARRAYS,
  LENGTH_BYTES,
  headerLength,
  readHeader,
  writeHeader,
} from './safetensors-header.ts';
import type { Entry, SafetensorsDtype } from './safetensors-header.ts';

export type { SafetensorsDtype };
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

/** A tensor whose data are asked for when their turn to be written comes. */
export interface TensorSource {
  readonly dtype: SafetensorsDtype;
  readonly shape: Shape;
  read(): Promise<TensorData>;
}

export interface SafetensorsFile {
  readonly tensors: Map<string, StoredTensor>;
  readonly metadata: Record<string, string>;
}

/** One read of a file: the system's own limit is 2 GiB. */
const CHUNK_BYTES = 2 ** 30;

/**
 * Bytes of a safetensors file (github.com/huggingface/safetensors, format 0.4): a little-endian u64 header length, a JSON
 * header padded with spaces to 8 bytes, and the tensors end to end. Tensors of wide elements come first, so that every
 * tensor is aligned to its element size; within a size the map's order is kept. For small files: `writeSafetensors`
 * needs no memory for the whole. Throws a RangeError for data that are not of their tensor's dtype and shape.
 */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { head, entries } = writeHeader(tensors, metadata);
  const out = new Uint8Array(head.length + (entries.at(-1)?.end ?? 0));
  out.set(head);
  for (const { name, begin } of entries) {
    const tensor = tensors.get(name);
    if (tensor !== undefined) out.set(bytesOf(name, tensor, tensor.data), head.length + begin);
  }
  return out;
}

/**
 * Writes what `encodeSafetensors` makes, of any size, a tensor at a time and as `writeFileAtomic` does: whatever goes
 * wrong, and a source may throw, `path` keeps its old bytes. `checksum`: the file ends with one more tensor, a SHA-256 of
 * all before it; our readers check it and leave it out, others see 32 bytes. Throws a `UserError` where the file cannot be
 * written.
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor | TensorSource>,
  metadata: Readonly<Record<string, string>> = {},
  options: { readonly checksum?: boolean } = {},
): Promise<void> {
  const whole = new Map<string, Pick<Entry, 'dtype' | 'shape'>>(tensors);
  const { checksum = false } = options;
  if (checksum) whole.set(CHECKSUM_TENSOR, checksumEntry);
  const { head, entries } = writeHeader(
    whole,
    checksum ? { ...metadata, ...checksumMark } : metadata,
  );
  async function* parts(): AsyncGenerator<Uint8Array> {
    const sum = new Checksum();
    sum.update(head);
    yield head;
    for (const { name } of entries) {
      const tensor = tensors.get(name);
      if (tensor === undefined) continue;
      const part = bytesOf(name, tensor, 'data' in tensor ? tensor.data : await tensor.read());
      if (checksum) sum.update(part);
      yield part;
    }
    if (checksum) yield sum.digest();
  }
  await writeFileAtomic(path, parts());
}

/** The data's bytes as they lie, checked. */
function bytesOf(
  name: string,
  { dtype, shape }: { readonly dtype: SafetensorsDtype; readonly shape: Shape },
  data: TensorData,
): Uint8Array {
  if (!(data instanceof ARRAYS[dtype]) || data.length !== sizeOf(shape)) {
    throw new RangeError(
      `safetensors: tensor "${name}" is ${dtype} ${showShape(shape)} and needs a ${ARRAYS[dtype].name} of ` +
        `${sizeOf(shape)} elements, but got a ${data.constructor.name} of ${data.length}`,
    );
  }
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * The tensors and metadata of a safetensors file, each tensor in memory of its own. `name` begins every message and says
 * what the file is to the user, such as `checkpoint run/step-100.safetensors`. Throws a `DamagedError` for any file that
 * is not whole and consistent.
 */
export function decodeSafetensors(
  bytes: Uint8Array,
  options: { readonly name: string },
): SafetensorsFile {
  const { name } = options;
  const start = LENGTH_BYTES + headerLength(bytes, bytes.length, name);
  const raw = bytes.subarray(LENGTH_BYTES, start);
  const header = readHeader(raw, bytes.length - start, name);
  const check = checksumReader([bytes.subarray(0, start)], header, name);
  const tensors = new Map<string, StoredTensor>();
  for (const entry of header.entries) {
    // Not slice(): on a Buffer it is a view, with the file's misaligned memory behind it.
    const copy = new Uint8Array(bytes.subarray(start + entry.begin, start + entry.end));
    check?.take(entry, copy);
    keep(tensors, entry, copy.buffer);
  }
  check?.verify();
  return { tensors, metadata: header.metadata };
}

/** Puts a tensor of a file with the others; the checksum is none of them. */
function keep(
  tensors: Map<string, StoredTensor>,
  { name, dtype, shape }: Entry,
  bytes: ArrayBuffer,
): void {
  if (name === CHECKSUM_TENSOR) return;
  tensors.set(name, { dtype, shape, data: new ARRAYS[dtype](bytes) });
}

/**
 * Reads and decodes a file of any size, each tensor into its own memory; `role` ("checkpoint", "weight file") begins
 * every message, before the path. Throws as `decodeSafetensors`, and a `UserError` for a file that cannot be read.
 * `chunkBytes` is for tests.
 */
export async function readSafetensors(
  path: string,
  options: { readonly role: string; readonly chunkBytes?: number },
): Promise<SafetensorsFile> {
  const name = `${options.role} ${path}`;
  const { chunkBytes = CHUNK_BYTES } = options;
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    const { size } = await file.stat();
    const read = rangeReader(file, { name, chunkBytes });
    const first = await read(0, Math.min(LENGTH_BYTES, size));
    const start = LENGTH_BYTES + headerLength(first, size, name);
    const raw = await read(LENGTH_BYTES, start - LENGTH_BYTES);
    const header = readHeader(raw, size - start, name);
    const check = checksumReader([first, raw], header, name);
    const tensors = new Map<string, StoredTensor>();
    for (const entry of header.entries) {
      const bytes = await read(start + entry.begin, entry.end - entry.begin);
      check?.take(entry, bytes);
      keep(tensors, entry, bytes.buffer);
    }
    check?.verify();
    return { tensors, metadata: header.metadata };
  } catch (error) {
    throw fileError(error, 'read', name);
  } finally {
    await file?.close();
  }
}

/** Reads `bytes` bytes of a file from `at` into memory of their own. */
function rangeReader(file: FileHandle, options: { name: string; chunkBytes: number }) {
  return async (at: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> => {
    const out = new Uint8Array(bytes);
    let got = 0;
    while (got < bytes) {
      const length = Math.min(options.chunkBytes, bytes - got);
      const { bytesRead } = await file.read(out, got, length, at + got);
      if (bytesRead === 0) {
        throw new DamagedError(`${options.name} is cut short: it shrank while it was being read`);
      }
      got += bytesRead;
    }
    return out;
  };
}
