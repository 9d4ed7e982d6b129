import { close, fstatSync, openSync, read, readSync } from 'node:fs';
import { promisify } from 'node:util';
import { fileError } from '../io/errno.ts';

/** Bytes that one system call brings: headers lie near one another, or far apart. */
const BLOCK_BYTES = 2 ** 15;

/** A file that is read in pieces, by position. */
export class ByteFile {
  readonly path: string;
  readonly size: number;
  /** When it was last written. */
  readonly mtimeMs: number;
  private readonly fd: number;
  private block: Uint8Array = new Uint8Array();
  private blockAt = 0;

  private constructor(path: string) {
    this.path = path;
    this.fd = openSync(path, 'r');
    const { size, mtimeMs } = fstatSync(this.fd);
    this.size = size;
    this.mtimeMs = mtimeMs;
  }

  /** Throws a `UserError` for a file that cannot be read. */
  static open(path: string): ByteFile {
    try {
      return new ByteFile(path);
    } catch (error) {
      throw fileError(error, 'read', path);
    }
  }

  /** A few bytes, such as a header; fewer than asked for at the end of the file. They may be overwritten by the next call. */
  peek(at: number, length: number): Uint8Array {
    const end = Math.min(this.size, at + length);
    if (at >= end) return new Uint8Array();
    if (at < this.blockAt || end > this.blockAt + this.block.length) {
      const block = new Uint8Array(Math.max(BLOCK_BYTES, end - at));
      const read = readSync(this.fd, block, 0, block.length, at);
      this.block = block.subarray(0, read);
      this.blockAt = at;
    }
    return this.block.subarray(at - this.blockAt, end - this.blockAt);
  }

  /** Fills `out` from `at`. Rejects where the file ends before. */
  async readInto(at: number, out: Uint8Array): Promise<void> {
    for (let done = 0; done < out.length;) {
      const { bytesRead } = await promisify(read)(this.fd, out, done, out.length - done, at + done);
      if (bytesRead === 0) throw new Error(`it is cut short: ${this.path} ends before it`);
      done += bytesRead;
    }
  }

  /** Rejects for more bytes than the file has. */
  async read(at: number, length: number): Promise<Uint8Array> {
    if (!(at >= 0 && length >= 0 && at + length <= this.size)) {
      throw new Error(`it is cut short: ${this.path} ends before it`);
    }
    const out = new Uint8Array(length);
    await this.readInto(at, out);
    return out;
  }

  close(): Promise<void> {
    return promisify(close)(this.fd);
  }
}
