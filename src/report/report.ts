import { writeFileAtomic } from '../io/atomic.ts';
import { runPaths } from '../train/run-folder.ts';
import { AttentionReader, attentionFolder, newestAttention } from './attention.ts';
import type { Attention, RunData } from './data.ts';
import { reportHtml } from './page.ts';
import { Embedder, picturesOf } from './pictures.ts';
import { RunReader } from './reader.ts';

/** Writes the report of one run, again and again where asked, once at a time: what is read and made once is kept. */
export class ReportWriter {
  readonly #reader: RunReader;
  readonly #embedder = new Embedder();
  readonly #attention = new AttentionReader();
  readonly #chunk = new Uint8Array(chunkBytes);

  constructor(run: string) {
    this.#reader = new RunReader(run);
  }

  /** Writes the page, whole or not at all; `out` is `RUN/report.html` by default. Throws as `writeFileAtomic` does. */
  async write(out: string = runPaths(this.#reader.run).report): Promise<void> {
    await writeFileAtomic(out, inChunks(reportHtml(await this.#data()), this.#chunk));
  }

  async #data(): Promise<RunData> {
    const { run } = this.#reader;
    const { state, broken, ...numbers } = this.#reader.read();
    const unread = [...broken];
    const tracks = [];
    for (const track of picturesOf(run))
      tracks.push(await this.#embedder.track(run, track, unread));
    const done = state.steps !== null && state.step >= state.steps;
    const status = done ? 'finished' : 'written';
    const attention = this.#maps(run, unread);
    return { ...numbers, state: { ...state, status }, tracks, attention, broken: unread };
  }

  #maps(run: string, broken: string[]): Attention | null {
    try {
      return this.#attention.read(run);
    } catch {
      broken.push(`${attentionFolder}/${newestAttention(run) ?? ''}`);
      return null;
    }
  }
}

/** Bytes of one write. */
const chunkBytes = 2 ** 18;

/** Texts as bytes, in chunks that are views of the one buffer: each holds until the next is asked for. */
function* inChunks(texts: Iterable<string>, chunk: Uint8Array): Generator<Uint8Array> {
  const encoder = new TextEncoder();
  let filled = 0;
  for (const text of texts) {
    for (let from = 0; from < text.length;) {
      const { read, written } = encoder.encodeInto(text.slice(from), chunk.subarray(filled));
      from += read;
      filled += written;
      // The next character has no room.
      if (from < text.length) {
        yield chunk.subarray(0, filled);
        filled = 0;
      }
    }
  }
  yield chunk.subarray(0, filled);
}
