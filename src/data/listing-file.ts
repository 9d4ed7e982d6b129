import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable, Transform } from 'node:stream';
import { createGunzip, createGzip } from 'node:zlib';
import { writeFileAtomic } from '../io/atomic.ts';
import { errorCode } from '../io/errno.ts';
import { messageOf } from '../util/errors.ts';

/** The first line of a file that a listing is kept in. */
export interface Head {
  /** Raised when the lines become others. */
  readonly version: number;
  /** Of what it is, where that is not a folder. */
  readonly of?: 'archive';
  /** Milliseconds since 1970 at which the looking began. */
  readonly listedAt: number;
  readonly files: number;
}

/** The listing that a run has kept of its data. */
export function listingPath(run: string): string {
  return join(run, 'data-index.gz');
}

/** Something changed so shortly before it was listed may have changed again in the same tick of its clock. */
export const TICK_MS = 2000;

const LINES_A_PART = 4096;

/** Writes gzipped lines of JSON: a head, then what it tells of. */
export async function writeLines(
  path: string,
  head: Head,
  lines: Iterable<unknown>,
): Promise<void> {
  const packed = Readable.from(inParts(head, lines)).pipe(createGzip({ level: 1 }));
  await writeFileAtomic(path, packed as AsyncIterable<Uint8Array>);
}

function* inParts(head: Head, lines: Iterable<unknown>): Generator<string> {
  let text = `${JSON.stringify(head)}\n`;
  let n = 1;
  for (const line of lines) {
    text += `${JSON.stringify(line)}\n`;
    if (++n % LINES_A_PART > 0) continue;
    yield text;
    text = '';
  }
  yield text;
}

/**
 * The head of a kept listing, whose lines `onLine` takes; it answers whether a line is a file. Undefined where there is none,
 * or one of another kind of source, and with a line to `log` where it is damaged.
 */
export async function readLines<H extends Head>(
  path: string,
  {
    where,
    of,
    version,
    log,
  }: {
    /** What is listed again. */
    readonly where: string;
    readonly of?: H['of'];
    readonly version: number;
    readonly log?: ((line: string) => void) | undefined;
  },
  onLine: (value: unknown, head: H) => boolean,
): Promise<H | undefined> {
  const source = createReadStream(path);
  const unpacked = createGunzip();
  const lines = shortLines();
  // An error of the file is one of what is read from it.
  source.on('error', (error) => unpacked.destroy(error));
  unpacked.on('error', (error) => lines.destroy(error));
  try {
    let head: H | undefined;
    let files = 0;
    for await (const line of createInterface({
      input: source.pipe(unpacked).pipe(lines),
      crlfDelay: Infinity,
    })) {
      const value: unknown = JSON.parse(line);
      if (head !== undefined) files += onLine(value, head) ? 1 : 0;
      else {
        head = value as H;
        if (head.of !== of) return undefined;
        if (head.version !== version) throw new Error('it is of another version');
      }
      if (!(files <= head.files)) throw new Error('it goes on beyond its end');
    }
    if (head === undefined || files !== head.files || files === 0) {
      throw new Error('it is cut short');
    }
    return head;
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') {
      log?.(`${path} is damaged (${messageOf(error)}); ${where} is listed again`);
    }
    return undefined;
  } finally {
    source.destroy();
    unpacked.destroy();
    lines.destroy();
  }
}

/** No path is as long. */
const LONGEST_LINE = 2 ** 20;

/** Passes bytes on, and fails at a line that does not end: nobody is to hold it. */
function shortLines(): Transform {
  let length = 0;
  return new Transform({
    transform(bytes: Buffer, _encoding, done) {
      const end = bytes.lastIndexOf(10);
      length = end < 0 ? length + bytes.length : bytes.length - 1 - end;
      if (length > LONGEST_LINE) done(new Error('a line of it is too long'));
      else done(null, bytes);
    },
  });
}
