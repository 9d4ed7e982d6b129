import { serveCalls, tell } from '../../io/thread.ts';
import { measure } from './measure.ts';
import type { MeasureCalls, MeasureEvent } from './measure-threaded.ts';

/** The thread of `measureThreaded`. */

/** Milliseconds between two events of one part. */
const interval = 50;

serveCalls<MeasureCalls>({
  measure: (seen, features, wanted) => {
    const measures = measure(seen, features, wanted, (what) => {
      let last = -Infinity;
      return (done, total) => {
        if (done < total && performance.now() - last < interval) return;
        last = performance.now();
        tell({ what, done, total } satisfies MeasureEvent);
      };
    });
    const { real, made } = features;
    const [realSure, madeSure] = [real.probabilities, made.probabilities];
    return { measures, real: real.features, made: made.features, realSure, madeSure };
  },
});
