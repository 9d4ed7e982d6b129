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
