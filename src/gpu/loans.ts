/**
 * Buffers that are lent for a while: for nets that come and go beside others. What is made during a loan is given back at its
 * end, whether or not it would outlive scopes, but for what is kept with the device.
 */
export class Loans {
  #open: (() => void)[][] = [];

  /** Notes a buffer that was just made, or what is kept for such, by what gives it back. */
  note(giveBack: () => void): void {
    this.#open.at(-1)?.push(giveBack);
  }

  /** Runs `make`, whose buffers no loan takes back. */
  except<T>(make: () => T): T {
    const open = this.#open;
    this.#open = [];
    try {
      return make();
    } finally {
      this.#open = open;
    }
  }

  /** Gives back what is made until `body` settles. Nobody else may make any buffer meanwhile that is to stay. */
  async during<T>(body: () => Promise<T>): Promise<T> {
    const loan: (() => void)[] = [];
    this.#open.push(loan);
    try {
      return await body();
    } finally {
      this.#open = this.#open.filter((other) => other !== loan);
      for (const giveBack of loan) giveBack();
    }
  }
}
