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
  ): Measures;
}

/** How far it is with a part of the work. */
export interface MeasureEvent {
  readonly what: string;
  readonly done: number;
  readonly total: number;
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
  const module = new URL('measure-thread', import.meta.url);
  const onEvent = ({ what, done, total }: MeasureEvent) => {
    try {
      const told = parts.get(what) ?? onWork?.(what);
      if (told === undefined) return;
      parts.set(what, told);
      told(done, total);
    } catch (error) {
      stop(error);
    }
  };
  const thread = new Thread<MeasureCalls, MeasureEvent>(module, 'measures', onEvent);
  try {
    const seen = { name, isInception, featureSize, classCount };
    const { real, made } = features;
    const given = [real.features, made.features, real.probabilities, made.probabilities];
    return await Promise.race([thread.ask('measure', [seen, features, wanted], given), stopped]);
  } finally {
    await thread.end();
  }
}
