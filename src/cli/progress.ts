import { SingleBar } from 'cli-progress';

/** Milliseconds between lines where there is no terminal to rewrite one on. */
const plainInterval = 10_000;

/** Shows how far long work has come, on stderr if nothing else is said: a line that is rewritten on a terminal, one now and then in a log. */
export class Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #live: boolean;
  #lastPlain = performance.now();

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.#stream = stream;
    this.#live = stream.isTTY;
  }

  show(text: string): void {
    if (this.#live) {
      this.#stream.write(`\r\x1b[K${text}`);
      return;
    }
    if (performance.now() - this.#lastPlain < plainInterval) return;
    this.#lastPlain = performance.now();
    this.#stream.write(`${text}\n`);
  }

  clear(): void {
    if (this.#live) this.#stream.write('\r\x1b[K');
  }
}

/** A bar of how many of a number are done, with their rate and the time that is left; in a log a line now and then. */
export class CountBar {
  readonly #bar: SingleBar | undefined;
  readonly #plain: Progress | undefined;
  readonly #total: number;
  readonly #first: number;
  readonly #what: string;
  readonly #started = performance.now();

  constructor(total: number, first: number, what: string) {
    this.#total = total;
    this.#first = first;
    this.#what = what;
    if (!process.stdout.isTTY) {
      this.#plain = new Progress(process.stdout);
      return;
    }
    this.#bar = new SingleBar({
      format: '{bar} {value}/{total}  {rate}',
      barsize: 24,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      stream: process.stdout,
      clearOnComplete: true,
      hideCursor: true,
      gracefulExit: false,
    });
    this.#bar.start(total, first, { rate: '' });
  }

  update(done: number): void {
    const seconds = (performance.now() - this.#started) / 1000;
    const each = (done - this.#first) / seconds;
    const left = each > 0 ? `  ${Math.ceil((this.#total - done) / each)} s left` : '';
    const rate = `${each.toFixed(0)} ${this.#what}/s${left}`;
    this.#bar?.update(done, { rate });
    this.#plain?.show(`${done}/${this.#total}  ${rate}`);
  }

  stop(): void {
    this.#bar?.stop();
  }
}
