import { closeSync, fstatSync, readSync } from 'node:fs';
import { openOwn } from './own-files.ts';

export type Line = Readonly<Record<string, unknown>>;

const chunkBytes = 2 ** 20;
const newline = 10;

/**
 * The lines of a growing .jsonl file. Each call of `read` parses only what was added since the one before it; a file that
 * became another one or shorter is read anew. A line still being written, or torn by a kill, is left out, and so is any
 * line that is no object.
 */
export class JsonLines {
  readonly #path: string;
  #lines: Line[] = [];
  #inode = 0;
  #offset = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** All lines so far; none of a file that is not there. */
  read(): readonly Line[] {
    const file = openOwn(this.#path);
    if (file === undefined) {
      this.#begin(0);
      return this.#lines;
    }
    try {
      const { ino, size } = fstatSync(file);
      if (ino !== this.#inode || size < this.#offset) this.#begin(ino);
      for (const text of this.#added(file, size)) {
        const line = parsed(text);
        if (line !== undefined) this.#lines.push(line);
      }
    } finally {
      closeSync(file);
    }
    return this.#lines;
  }

  #begin(inode: number): void {
    this.#lines = [];
    this.#inode = inode;
    this.#offset = 0;
  }

  /** Whole lines from the offset on, which moves behind them. */
  *#added(file: number, size: number): Generator<string> {
    let rest = Buffer.alloc(0);
    for (let at = this.#offset; at < size;) {
      const chunk = Buffer.alloc(Math.min(chunkBytes, size - at));
      const read = readSync(file, chunk, 0, chunk.length, at);
      if (read === 0) return;
      at += read;
      rest = Buffer.concat([rest, chunk.subarray(0, read)]);
      const end = rest.lastIndexOf(newline) + 1;
      this.#offset += end;
      yield* rest.toString('utf8', 0, end).split('\n');
      rest = rest.subarray(end);
    }
  }
}

function parsed(text: string): Line | undefined {
  try {
    const value = JSON.parse(text) as unknown;
    return isLine(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isLine(value: unknown): value is Line {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
