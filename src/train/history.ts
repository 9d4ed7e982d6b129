/** Points of a chart: more than this no chart can show. */
const most = 2000;

type Line = Readonly<Record<string, number>> & { readonly step: number };

/**
 * Some numbers of lines of metrics, for a chart, however long the run: once there are too many lines only every second one is
 * kept, then every fourth. Which these are depends on the lines alone, so a resumed run draws what one that never stopped
 * draws. All that it ever holds is taken at once.
 */
export class History {
  readonly #names: readonly string[];
  /** [the most lines and the newest, steps and names] */
  readonly #rows: Float64Array;
  /** Lines kept; behind them lies the newest. */
  #kept = 0;
  #newestIsKept = true;
  #count = 0;
  #stride = 1;

  constructor(names: readonly string[], lines: readonly Line[]) {
    this.#names = names;
    this.#rows = new Float64Array((most + 2) * (1 + names.length));
    for (const line of lines) this.add(line);
  }

  add(line: Line): void {
    const width = 1 + this.#names.length;
    const from = this.#kept * width;
    this.#rows[from] = line.step;
    for (const [i, name] of this.#names.entries()) this.#rows[from + 1 + i] = line[name] ?? NaN;
    this.#newestIsKept = this.#count % this.#stride === 0;
    this.#count += 1;
    if (!this.#newestIsKept) return;
    this.#kept += 1;
    if (this.#kept <= most) return;
    // One more than an even number: the newest stays.
    for (let i = 0; i < this.#kept; i += 2) {
      this.#rows.copyWithin((i / 2) * width, i * width, (i + 1) * width);
    }
    this.#kept = Math.ceil(this.#kept / 2);
    this.#stride *= 2;
  }

  /** A name's values over their steps, oldest first; the newest line's is always among them, and NaN where a line has none. */
  points(name: string): [step: number, value: number][] {
    const width = 1 + this.#names.length;
    const column = 1 + this.#names.indexOf(name);
    const lines = this.#kept + (this.#newestIsKept ? 0 : 1);
    return Array.from({ length: lines }, (_u, i) => [
      this.#rows[i * width] ?? NaN,
      this.#rows[i * width + column] ?? NaN,
    ]);
  }
}
