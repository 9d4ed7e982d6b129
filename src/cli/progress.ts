/** Milliseconds between lines where there is no terminal to rewrite one on. */
const plainInterval = 10_000;

/** Shows how far long work has come, on stderr: a line that is rewritten on a terminal, one now and then in a log. */
export class Progress {
  readonly #live = process.stderr.isTTY;
  #lastPlain = performance.now();

  show(text: string): void {
    if (this.#live) {
      process.stderr.write(`\r\x1b[K${text}`);
      return;
    }
    if (performance.now() - this.#lastPlain < plainInterval) return;
    this.#lastPlain = performance.now();
    process.stderr.write(`${text}\n`);
  }

  clear(): void {
    if (this.#live) process.stderr.write('\r\x1b[K');
  }
}
