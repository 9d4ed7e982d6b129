import { Thread } from '../../io/thread.ts';
import type { OnWork } from './dots.ts';
import type { Features } from './extractor.ts';
import type { Measures, MetricName, Seen } from './measure.ts';

/** What the thread can be asked for. */
export interface MeasureCalls {
  measure(
    seen: Seen,
    features: { readonly real: Features; readonly made: Features },
    wanted: readonly MetricName[],
  ): Measured;
}

/** With the features, given back: in a thread that waits nothing collects them. */
export interface Measured {
  readonly measures: Measures;
  readonly real: Float32Array;
  readonly made: Float32Array;
  readonly realSure: Float32Array | undefined;
  readonly madeSure: Float32Array | undefined;
}

/** How far it is with a part of the work. */
export interface MeasureEvent {
  readonly what: string;
  readonly done: number;
  readonly total: number;
}

/** A thread that waits for the next measures. */
interface Kept {
  readonly thread: Thread<MeasureCalls, MeasureEvent>;
  onEvent: (event: MeasureEvent) => void;
}

/**
 * Kept from one call to the next where it was given no more than so many bytes: what of them still lies in it is less than
 * what the start of another takes, of which the C library gives back only a part. One that was given more is ended.
 */
const mostKeptBytes = 2 ** 24;
let idle: Kept | undefined;

/** The one that waits, or a new one. */
function take(): Kept {
  const waiting = idle;
  idle = undefined;
  if (waiting?.thread.ended === false) return waiting;
  const module = new URL('measure-thread', import.meta.url);
  const kept: Kept = {
    thread: new Thread(module, 'measures', (event) => {
      kept.onEvent(event);
    }),
    onEvent: () => undefined,
  };
  return kept;
}

/** Of several that are done, one waits. */
async function putBack(kept: Kept): Promise<void> {
  if (idle === undefined) idle = kept;
  else await kept.thread.end();
}

/**
 * `measure` in a thread of its own: the eigenvalues of Inception's 2048 features alone take minutes, in which this thread
 * goes on listening. The features are given away: they are empty afterwards. What `onWork` throws ends the thread at once, and
 * is what this rejects with.
 */
export async function measureThreaded(
  { name, isInception, featureSize, classCount }: Seen,
  features: { readonly real: Features; readonly made: Features },
  wanted: readonly MetricName[],
  onWork?: (what: string) => OnWork,
): Promise<Measures> {
  const parts = new Map<string, OnWork>();
  let stop: (reason: unknown) => void = () => undefined;
  const stopped = new Promise<never>((_, reject) => (stop = reject));
  const kept = take();
  kept.onEvent = ({ what, done, total }) => {
    try {
      const told = parts.get(what) ?? onWork?.(what);
      if (told === undefined) return;
      parts.set(what, told);
      told(done, total);
    } catch (error) {
      stop(error);
    }
  };
  const { real, made } = features;
  const given = [real.features, made.features, real.probabilities, made.probabilities];
  const bytes = given.reduce((sum, array) => sum + (array?.byteLength ?? 0), 0);
  let measured = false;
  try {
    const seen = { name, isInception, featureSize, classCount };
    const asked = kept.thread.ask('measure', [seen, features, wanted], given);
    const { measures } = await Promise.race([asked, stopped]);
    measured = true;
    return measures;
  } finally {
    kept.onEvent = () => undefined;
    if (measured && bytes <= mostKeptBytes) await putBack(kept);
    else await kept.thread.end();
  }
}
