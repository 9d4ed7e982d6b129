/** Which rung of a ladder runs, and in which tile. */
export interface Choice {
  /** The rung's name: its file in kernels/, without the ending. */
  readonly rung: string;
  /** The rung's constants; those left out keep the file's values. */
  readonly tile: Readonly<Record<string, number | string>>;
}

/** The sizes of one operation, as its ladder describes them. */
export type Sizes = Readonly<Record<string, number | boolean | string>>;

/** One operation that was chosen for: what a tuner has to time. */
export interface Asked {
  readonly ladder: string;
  readonly sizes: Sizes;
  readonly choice: Choice;
  /** True if the choice was measured on this adapter, false if it is the default of the adapter's class. */
  readonly tuned: boolean;
}

/** Measured choices going in, and everything that was chosen coming out; both by ladder and sizes. */
export class Choices {
  readonly #tuned: ReadonlyMap<string, Choice>;
  readonly #asked = new Map<string, Asked>();

  constructor(tuned: ReadonlyMap<string, Choice> = new Map()) {
    this.#tuned = tuned;
  }

  /** What was measured to be best, if it was measured. */
  tuned(key: string): Choice | undefined {
    return this.#tuned.get(key);
  }

  note(key: string, asked: Asked): void {
    this.#asked.set(key, asked);
  }

  /** Every choice since the device was opened, or since they were last forgotten, by key. */
  get asked(): ReadonlyMap<string, Asked> {
    return this.#asked;
  }

  /** Begins the list of what was asked anew: what comes next is on it alone. */
  forget(): void {
    this.#asked.clear();
  }
}
