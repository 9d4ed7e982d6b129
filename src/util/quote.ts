/** A word as a shell reads it back: in single quotes where it holds anything but letters, digits and `_ @ % + = : , . / -`. */
export function shellQuote(word: string): string {
  if (/^[\p{L}\p{N}_@%+=:,./-]+$/u.test(word)) return word;
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

/** A name out of somebody's files as it may be printed: control characters, which can steer a terminal, as question marks. */
export function printable(name: string): string {
  return name.replaceAll(/\p{Cc}/gu, '?');
}
