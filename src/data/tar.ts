import { UserError } from '../util/errors.ts';
import { type ArchiveOptions, type Entry, archiveFiles } from './archive.ts';
import { ByteFile } from './byte-file.ts';
import type { ImageFiles } from './files.ts';

const BLOCK = 512;
/** A name or extended header longer than this is a mistake. */
const LONGEST_NAME = 2 ** 16;

export interface TarEntry extends Entry {
  /** Of its first byte. */
  readonly at: number;
}

/**
 * The images of an uncompressed tar, read in place: one pass over the headers finds where each file begins, and passes its
 * bytes over, which no library does. Throws a `UserError` for a file that is no tar, or holds no image.
 */
export function openTarImages(path: string, options: ArchiveOptions): Promise<ImageFiles> {
  const file = ByteFile.open(path);
  const version = `${file.size} ${file.mtimeMs}`;
  return archiveFiles<TarEntry>({
    ...options,
    file,
    list: async (log) => ({ entries: await listTar(file, log), version }),
    read: (entry) => file.read(entry.at, entry.size),
  });
}

/**
 * Regular files of a tar: ustar, with the long names of GNU and pax. A tar that breaks off is used as far as it goes, with
 * a line to `log`.
 */
export async function listTar(file: ByteFile, log?: (line: string) => void): Promise<TarEntry[]> {
  const entries: TarEntry[] = [];
  let next: { path?: string; size?: number } = {};
  for (let at = 0, headers = 1; ; headers++) {
    const head = Buffer.from(file.peek(at, BLOCK));
    // Two blocks of zeros end a tar; some writers leave them out.
    if (at >= file.size || head.every((byte) => byte === 0)) break;
    const { size: own, ok } = checkedSize(head);
    const type = String.fromCharCode(head[156] ?? 0);
    const aboutNext = ['L', 'K', 'x', 'g'].includes(type);
    const size = aboutNext ? own : (next.size ?? own);
    const begin = at + BLOCK;
    if (!ok || begin + size > file.size) {
      if (entries.length === 0) {
        throw new UserError(`${file.path} cannot be read as a tar: its first header is damaged`);
      }
      const from = `byte ${at} of ${file.size}`;
      log?.(`${file.path} is cut short or damaged at ${from}: what lies behind is not read`);
      break;
    }
    if ((type === 'L' || type === 'x') && size <= LONGEST_NAME) {
      const text = Buffer.from(file.peek(begin, size));
      next = { ...next, ...(type === 'L' ? { path: untilZero(text) } : parsePax(text)) };
    } else if (!aboutNext) {
      if (type === '0' || type === '\0') {
        entries.push({ path: next.path ?? pathOf(head), size, at: begin });
      }
      next = {};
    }
    at = begin + Math.ceil(size / BLOCK) * BLOCK;
    if (headers % 4096 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return entries;
}

/** The size in a header, in octal or GNU's base 256; not ok where the checksum is not that of the header. */
function checkedSize(head: Buffer): { readonly size: number; readonly ok: boolean } {
  if (head.length < BLOCK) return { size: 0, ok: false };
  let sum = 0;
  // The checksum counts its own field as blanks.
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 32 : (head[i] ?? 0);
  const size = numberAt(head, 124, 12);
  return { size, ok: sum === numberAt(head, 148, 8) && Number.isSafeInteger(size) && size >= 0 };
}

function numberAt(head: Buffer, at: number, length: number): number {
  if ((head[at] ?? 0) === 0x80)
    return Number(BigInt(`0x${head.toString('hex', at + 1, at + length)}`));
  const text = untilZero(head.subarray(at, at + length)).trim();
  return /^[0-7]*$/.test(text) ? parseInt(text === '' ? '0' : text, 8) : NaN;
}

function pathOf(head: Buffer): string {
  const name = untilZero(head.subarray(0, 100));
  const prefix = untilZero(head.subarray(345, 500));
  const ustar = head.toString('latin1', 257, 263) === 'ustar\0';
  return ustar && prefix !== '' ? `${prefix}/${name}` : name;
}

function untilZero(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}

/** Path and size out of a pax header: records of `length key=value` and a line feed, the length being that of all of it. */
function parsePax(text: Buffer): { path?: string; size?: number } {
  const found: { path?: string; size?: number } = {};
  for (let at = 0; at < text.length;) {
    const space = text.indexOf(32, at);
    const length = Number(text.toString('latin1', at, space));
    if (space < 0 || !Number.isSafeInteger(length) || length <= space - at) break;
    const record = text.toString('utf8', space + 1, at + length - 1);
    const equals = record.indexOf('=');
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)];
    if (key === 'path') found.path = value;
    if (key === 'size' && /^\d+$/.test(value)) found.size = Number(value);
    at += length;
  }
  return found;
}
