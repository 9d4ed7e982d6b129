/** The middle one of some numbers, or the mean of the two in the middle; NaN of none. */
export const median = (samples: readonly number[]): number => percentile(samples, 0.5);

/** Of some samples: the middle one, and those below which a tenth and nine tenths of them lie. */
export interface Summary {
  readonly median: number;
  readonly p10: number;
  readonly p90: number;
  readonly samples: number;
}

export function summarise(samples: readonly number[]): Summary {
  return {
    median: percentile(samples, 0.5),
    p10: percentile(samples, 0.1),
    p90: percentile(samples, 0.9),
    samples: samples.length,
  };
}

/** The value below which a share `p` of the samples lies, interpolated. */
export function percentile(samples: readonly number[], p: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const place = (sorted.length - 1) * p;
  const low = sorted[Math.floor(place)] ?? NaN;
  const high = sorted[Math.ceil(place)] ?? NaN;
  return low + (high - low) * (place - Math.floor(place));
}
