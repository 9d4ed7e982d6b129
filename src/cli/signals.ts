/** What ends a run from outside: ^C, `kill`, a terminal that closes. */
const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Milliseconds after the first signal in which no other counts: npm passes on the ^C that the terminal has sent to every
 * process already, so that one key may come twice.
 */
const deafMs = 1000;

/**
 * Exit code of a run with steps left, or its last evaluation, that the same command with --resume goes on with: EX_TEMPFAIL of
 * sysexits.h.
 */
const unfinishedCode = 75;

/** How a process ends that a signal ends: a scheduler's request to be queued again is not a person's ^C. */
export function codeOfSignal(signal: NodeJS.Signals | undefined): number {
  return signal === 'SIGTERM' ? unfinishedCode : 130;
}

/** The exit code of a training command; `signal` is what stopped it. */
export function codeOfRun(
  why: 'finished' | 'stopped' | 'time',
  signal: NodeJS.Signals | undefined,
): number {
  if (why === 'finished') return 0;
  return why === 'time' ? unfinishedCode : codeOfSignal(signal);
}

/** A request to stop that a running loop looks at, and the signal that it came from. */
export interface Stop {
  requested: boolean;
  signal?: NodeJS.Signals | undefined;
}

/**
 * Calls `first` on the first signal and `again` on a later one, each with its name. A SIGTERM that comes again is none:
 * schedulers send it to every process of a job and may repeat it, and what is being saved must not be cut off by that.
 * Returns what takes the handlers away.
 */
export function onInterrupt(
  first: (signal: NodeJS.Signals) => void,
  again: (signal: NodeJS.Signals) => void,
): () => void {
  let since: number | undefined;
  const handler = (signal: NodeJS.Signals) => {
    if (since === undefined) {
      since = performance.now();
      first(signal);
    } else if (signal !== 'SIGTERM' && performance.now() - since >= deafMs) {
      again(signal);
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
