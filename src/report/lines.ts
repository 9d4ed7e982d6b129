import { closeSync, fstatSync, readSync } from 'node:fs';
import { openOwn } from './own-files.ts';

export type Line = Readonly<Record<string, unknown>>;

const chunkBytes = 2 ** 20;
const newline = 10;

/** What was added to a file of lines; `anew`: it is another file than before, or shorter, and these are all of its lines. */
export interface Added {
  readonly anew: boolean;
  readonly lines: readonly Line[];
}

/**
 * A growing .jsonl file, of which each call of `read` gives what was added since the one before it. A line still being written,
 * or torn by a kill, is left out, and so is any line that is no object.
 */
export class LineTail {
  readonly #path: string;
  #inode = 0;
  #offset = 0;

  constructor(path: string) {
    this.#path = path;
  }

  read(): Added {
    const file = openOwn(this.#path);
    if (file === undefined) {
      this.#begin(0);
      return { anew: true, lines: [] };
    }
    try {
      const { ino, size } = fstatSync(file);
      const anew = ino !== this.#inode || size < this.#offset;
      if (anew) this.#begin(ino);
      const lines: Line[] = [];
      for (const text of this.#added(file, size)) {
        const line = parsed(text);
        if (line !== undefined) lines.push(line);
      }
      return { anew, lines };
    } finally {
      closeSync(file);
    }
  }

  #begin(inode: number): void {
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

/** All lines of a growing .jsonl file. */
export class JsonLines {
  readonly #tail: LineTail;
  #lines: Line[] = [];

  constructor(path: string) {
    this.#tail = new LineTail(path);
  }

  /** All lines so far; none of a file that is not there. */
  read(): readonly Line[] {
    const { anew, lines } = this.#tail.read();
    if (anew) this.#lines = [];
    for (const line of lines) this.#lines.push(line);
    return this.#lines;
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
