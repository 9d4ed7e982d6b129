/** Edits (insert, delete, replace, exchange of neighbours) from one word to another. */
export function editDistance(a: string, b: string): number {
  const rows: number[][] = [];
  for (let i = 0; i <= a.length; i++) {
    const row: number[] = [];
    for (let j = 0; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let best =
        i === 0
          ? j
          : j === 0
            ? i
            : Math.min(
                (rows[i - 1]?.[j] ?? 0) + 1,
                (row[j - 1] ?? 0) + 1,
                (rows[i - 1]?.[j - 1] ?? 0) + cost,
              );
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, (rows[i - 2]?.[j - 2] ?? 0) + 1);
      }
      row.push(best);
    }
    rows.push(row);
  }
  return rows[a.length]?.[b.length] ?? 0;
}

/** The known word that somebody who typed `word` most likely meant, if one is near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const ranked = known
    .map((candidate) => ({ candidate, distance: editDistance(word.toLowerCase(), candidate) }))
    .sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  const near = best !== undefined && best.distance <= Math.max(2, Math.floor(word.length / 3));
  return near ? best.candidate : undefined;
}

/**
 * `WORD is unknown; did you mean X? There are …`, for the end of a message; `there` says what there is where that is
 * more than the known words.
 */
export function unknownWord(
  word: string,
  known: readonly string[],
  there = known.join(', '),
): string {
  const guess = didYouMean(word, known);
  return `${word} is unknown${guess}${guess === '' ? '; there' : ' There'} are ${there}`;
}

/** `; did you mean X?` or nothing, for the end of a message. */
export function didYouMean(word: string, known: readonly string[]): string {
  const guess = nearest(word, known);
  return guess === undefined ? '' : `; did you mean ${guess}?`;
}
