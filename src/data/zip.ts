import { promisify } from 'node:util';
import { crc32, inflateRaw } from 'node:zlib';
import { RandomAccessReader, fromRandomAccessReader, getFileNameLowLevel } from 'yauzl';
import type { Entry as Listed, ZipFile } from 'yauzl';
import { UserError, messageOf } from '../util/errors.ts';
import { type ArchiveOptions, type Entry, LARGEST_FILE, archiveFiles } from './archive.ts';
import { ByteFile } from './byte-file.ts';
import type { ImageFiles } from './files.ts';
import { fingerprintOf } from './fingerprint.ts';

const LOCAL_MAGIC = 0x04034b50;
const LOCAL_BYTES = 30;
const STORED = 0;
const DEFLATED = 8;

export interface ZipEntry extends Entry {
  /** Of its local header. */
  readonly at: number;
  readonly packed: number;
  readonly method: number;
  readonly crc: number;
  readonly encrypted: boolean;
}

/** A zip whose members are read by position. */
export interface Zip {
  readonly file: ByteFile;
  readonly entries: readonly ZipEntry[];
}

/** The images of a zip, read in place. Throws a `UserError` for a file that is no zip, or holds no image. */
export function openZipImages(path: string, options: ArchiveOptions): Promise<ImageFiles> {
  const file = ByteFile.open(path);
  return archiveFiles<ZipEntry>({
    ...options,
    file,
    list: async () => {
      const entries = await listZip(file);
      return { entries, version: fingerprintOf(contents(entries)) };
    },
    read: (entry) => readMember(file, entry),
  });
}

function* contents(entries: readonly ZipEntry[]): Generator<string> {
  for (const { crc, size } of entries) yield `${crc}\0${size}`;
}

/** Opens a zip and reads its directory: names, sizes and places. */
export async function openZip(path: string): Promise<Zip> {
  const file = ByteFile.open(path);
  try {
    return { file, entries: await listZip(file) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function listZip(file: ByteFile): Promise<ZipEntry[]> {
  try {
    return await readDirectory(file);
  } catch (error) {
    const reason = messageOf(error);
    throw new UserError(`${file.path} cannot be read as a zip: ${reason}`, { cause: error });
  }
}

/** Gives yauzl the bytes that it asks for; two small reads a member would otherwise each be a system call. */
class Reader extends RandomAccessReader {
  readonly #file: ByteFile;

  constructor(file: ByteFile) {
    super();
    this.#file = file;
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null) => void,
  ): void {
    queueMicrotask(() => {
      const bytes = this.#file.peek(position, length);
      if (bytes.length < length) {
        callback(new Error('it is cut short'));
        return;
      }
      buffer.set(bytes, offset);
      callback(null);
    });
  }
}

async function readDirectory(file: ByteFile): Promise<ZipEntry[]> {
  // Names are taken as bytes: yauzl refuses a whole archive for one that climbs, and here none leads anywhere.
  const options = { lazyEntries: true, autoClose: false, decodeStrings: false } as const;
  const zip = await new Promise<ZipFile>((resolve, reject) => {
    fromRandomAccessReader(new Reader(file), file.size, options, (error, opened) => {
      if (error) reject(error);
      else resolve(opened);
    });
  });
  const entries: ZipEntry[] = [];
  for await (const entry of zip.eachEntry()) {
    const path = nameOf(entry);
    // Folders are entries of no bytes.
    if (path.endsWith('/')) continue;
    entries.push({
      path,
      size: entry.uncompressedSize,
      at: entry.relativeOffsetOfLocalHeader,
      packed: entry.compressedSize,
      method: entry.compressionMethod,
      crc: entry.crc32,
      encrypted: entry.isEncrypted(),
    });
    if (entries.length % 4096 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return entries;
}

function nameOf(entry: Listed): string {
  const { generalPurposeBitFlag, extraFields, fileNameRaw } = entry;
  return getFileNameLowLevel(generalPurposeBitFlag, fileNameRaw, extraFields, false);
}

/** Where the bytes of a member begin. */
export async function dataAt(file: ByteFile, { at, encrypted }: ZipEntry): Promise<number> {
  if (encrypted) throw new Error('it is encrypted');
  const head = Buffer.from((await file.read(at, LOCAL_BYTES)).buffer);
  if (head.readUInt32LE(0) !== LOCAL_MAGIC) throw new Error('its header in the zip is damaged');
  return at + LOCAL_BYTES + head.readUInt16LE(26) + head.readUInt16LE(28);
}

/** A member's bytes, unpacked and checked. Rejects for one that is damaged, encrypted, or packed in another way. */
export async function readMember(
  file: ByteFile,
  entry: ZipEntry,
  largest = LARGEST_FILE,
): Promise<Uint8Array> {
  const { packed, size, method, crc } = entry;
  if (size > largest) throw new Error(`it would unpack to ${size} bytes`);
  if (method !== STORED && method !== DEFLATED) {
    throw new Error(`it is compressed by method ${method}, and only deflate is read`);
  }
  const bytes = await file.read(await dataAt(file, entry), packed);
  // One byte more than it should be is enough to know it is not what it says.
  const limit = { maxOutputLength: size + 1 };
  const whole = method === STORED ? bytes : await promisify(inflateRaw)(bytes, limit);
  if (whole.length !== size || crc32(whole) !== crc) throw new Error('it is damaged in the zip');
  return whole;
}
