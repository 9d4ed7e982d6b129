/** A word as a shell reads it back: in single quotes where it holds anything but letters, digits and `_ @ % + = : , . / -`. */
export function shellQuote(word: string): string {
  if (/^[\p{L}\p{N}_@%+=:,./-]+$/u.test(word)) return word;
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
