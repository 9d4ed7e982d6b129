/** What ends a run from outside: ^C, `kill`, a terminal that closes. */
const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Milliseconds after the first signal in which no other counts: npm passes on the ^C that the terminal has sent to every
 * process already, so that one key may come twice.
 */
const deafMs = 1000;

/** Calls `first` on the first signal and `again` on a later one. Returns what takes the handlers away. */
export function onInterrupt(first: () => void, again: () => void): () => void {
  let since: number | undefined;
  const handler = () => {
    if (since === undefined) {
      since = performance.now();
      first();
    } else if (performance.now() - since >= deafMs) {
      again();
    }
  };
  for (const signal of signals) process.on(signal, handler);
  return () => {
    for (const signal of signals) process.off(signal, handler);
  };
}

/**
 * A reader of stdout or stderr that goes away (`| head`, a closed terminal) does not end the process: what is printed
 * from then on is lost.
 */
export function outliveReaders(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
}
