/** The words that every vocabulary begins with. 0 fills sequences up: the model hides it, and the loss leaves it out. */
export const special = { padding: 0, begin: 1, end: 2, unknown: 3 } as const;
const specialWords: readonly string[] = ['<pad>', '<begin>', '<end>', '<unknown>'];

export const tokenKinds = ['words', 'chars'] as const;
/** What a line is cut into: words between blanks, or characters. */
export type TokenKind = (typeof tokenKinds)[number];

export function tokenise(text: string, kind: TokenKind): string[] {
  return kind === 'chars'
    ? Array.from(text.normalize('NFC'))
    : text.split(/\s+/).filter((w) => w !== '');
}

export function join(words: readonly string[], kind: TokenKind): string {
  return words.join(kind === 'chars' ? '' : ' ');
}

/** The words of one side, numbered; those of `special` first. */
export class Vocabulary {
  readonly words: readonly string[];
  readonly #numbers: ReadonlyMap<string, number>;

  /** `own`: the words but for the special ones. */
  constructor(own: readonly string[]) {
    this.words = [...specialWords, ...own];
    this.#numbers = new Map(own.map((word, i) => [word, i + specialWords.length]));
  }

  /** The words but for the special ones. */
  get own(): readonly string[] {
    return this.words.slice(specialWords.length);
  }

  /** Numbers of words; that of `<unknown>` for one that it does not know. */
  encode(words: readonly string[]): number[] {
    return words.map((word) => this.#numbers.get(word) ?? special.unknown);
  }

  decode(numbers: readonly number[]): string[] {
    return numbers.map((n) => this.words[n] ?? '<unknown>');
  }
}
