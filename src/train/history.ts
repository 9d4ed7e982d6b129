/** Points of a chart: more than this no chart can show. */
const most = 2000;

/**
 * Lines of metrics for a chart, however long the run: once there are too many only every second one is kept, then every
 * fourth. Which these are depends on the lines alone, so a resumed run draws what one that never stopped draws.
 */
export class History<L> {
  #kept: L[] = [];
  #newest: L | undefined;
  #count = 0;
  #stride = 1;

  constructor(lines: readonly L[]) {
    for (const line of lines) this.add(line);
  }

  add(line: L): void {
    if (this.#count % this.#stride === 0) this.#kept.push(line);
    this.#count += 1;
    this.#newest = line;
    if (this.#kept.length <= most) return;
    this.#kept = this.#kept.filter((_line, i) => i % 2 === 0);
    this.#stride *= 2;
  }

  /** Oldest first; the newest line is always among them. */
  get lines(): readonly L[] {
    const { length } = this.#kept;
    if (this.#newest === undefined || this.#kept[length - 1] === this.#newest) return this.#kept;
    return [...this.#kept, this.#newest];
  }
}
