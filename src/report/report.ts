import { writeFileAtomic } from '../io/atomic.ts';
import { runPaths } from '../train/run-folder.ts';
import { AttentionReader, attentionFolder, newestAttention } from './attention.ts';
import type { Attention, RunData } from './data.ts';
import { reportHtml } from './page.ts';
import { Embedder, picturesOf } from './pictures.ts';
import { RunReader } from './reader.ts';

/** Writes the report of one run, again and again where asked: what is read and made once is kept. */
export class ReportWriter {
  readonly #reader: RunReader;
  readonly #embedder = new Embedder();
  readonly #attention = new AttentionReader();

  constructor(run: string) {
    this.#reader = new RunReader(run);
  }

  /** Writes the page, whole or not at all; `out` is `RUN/report.html` by default. Throws as `writeFileAtomic` does. */
  async write(out: string = runPaths(this.#reader.run).report): Promise<void> {
    await writeFileAtomic(out, inChunks(reportHtml(await this.#data())));
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

function* inChunks(pieces: Iterable<string>): Generator<Uint8Array> {
  let waiting: string[] = [];
  let length = 0;
  for (const piece of pieces) {
    waiting.push(piece);
    length += piece.length;
    if (length < chunkBytes) continue;
    yield Buffer.from(waiting.join(''));
    waiting = [];
    length = 0;
  }
  yield Buffer.from(waiting.join(''));
}
