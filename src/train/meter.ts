import { NonFiniteError } from './checkpoint.ts';
import type { MetricSums } from './checkpoint.ts';
import type { Learner, Reading } from './learner.ts';
import type { MetricLine } from './run-folder.ts';

/** A loss scale below this has fallen for so many steps that no scale will do. */
const leastLossScale = 2 ** -10;

/**
 * The numbers of the steps since the last line of metrics, on their way into the next: what the steps report as means, the
 * rest as it was at the last of them.
 */
export class Meter {
  readonly #learner: Learner;
  readonly #sums: Float64Array;
  #steps: number;
  /** Steps since `#started`: those of an earlier part of the run are in the sums, but not in the time. */
  #timed = 0;
  #started = performance.now();
  /** Of training before that. */
  #seconds: number;
  #latest: Readonly<Record<string, number>> = {};

  constructor(learner: Learner, sums: MetricSums, seconds: number) {
    this.#learner = learner;
    this.#sums = Float64Array.from(sums.sums);
    this.#steps = sums.steps;
    this.#seconds = seconds;
  }

  /** What a checkpoint keeps of a line that is not due yet. */
  get sums(): MetricSums {
    return { steps: this.#steps, sums: [...this.#sums] };
  }

  /** The time of the next line begins now. */
  start(): void {
    this.#started = performance.now();
  }

  /** Takes back so many milliseconds of the line's time, in which no step was on its way. */
  pause(ms: number): void {
    this.#started += ms;
  }

  /**
   * Takes in the values of a step, in the order of its readings. Throws a `NonFiniteError` for a report that is no number, or
   * for gradients that overflow f16 at every scale.
   */
  add(step: number, values: Float32Array, readings: readonly Reading[]): void {
    const { reports, scalers = {} } = this.#learner;
    reports.forEach((_name, i) => {
      this.#sums[i] = (this.#sums[i] ?? 0) + (values[i] ?? NaN);
    });
    this.#steps += 1;
    this.#timed += 1;
    const rest = readings.slice(reports.length).flatMap(({ names }) => names);
    this.#latest = Object.fromEntries(
      rest.map((name, i) => [name, values[reports.length + i] ?? NaN]),
    );
    if (values.subarray(0, reports.length).some((v) => !Number.isFinite(v))) {
      const named = reports.map((name, i) => `${name} ${String(values[i])}`).join(', ');
      throw new NonFiniteError(`step ${step} gave ${named}`);
    }
    for (const name of Object.keys(scalers)) {
      if ((this.#latest[`lossScale${name}`] ?? 1) >= leastLossScale) continue;
      const text = `step ${step}: gradients of ${name} overflow f16 whatever the loss scale`;
      throw new NonFiniteError(`${text}; --precision f32 does without`);
    }
  }

  /**
   * The line of the steps since the last one, which a new one begins behind; undefined where there were none. `waitMs` of its
   * time went by in waiting for images.
   */
  line(step: number, waitMs: number): MetricLine | undefined {
    if (this.#steps === 0) return undefined;
    const { config, reports, optimizers } = this.#learner;
    const now = performance.now();
    const elapsed = (now - this.#started) / 1000;
    const means = reports.map((name, i) => [name, (this.#sums[i] ?? 0) / this.#steps]);
    const rates = Object.entries(optimizers).flatMap(
      ([
        name,
        {
          groups: [group],
        },
      ]) => (group === undefined ? [] : [[`lr/${name}`, Number(group.get('lr').toPrecision(7))]]),
    );
    const line: MetricLine = {
      step,
      ...(Object.fromEntries(means) as Record<string, number>),
      imagesPerSecond: (this.#timed * config.batch * config.dSteps) / elapsed,
      seconds: this.#seconds + elapsed,
      wait: waitMs / (1000 * elapsed),
      ...(Object.fromEntries(rates) as Record<string, number>),
      ...this.#latest,
    };
    this.#seconds = line.seconds;
    this.#started = now;
    this.#timed = 0;
    return line;
  }

  /** The next line begins behind the one that was due. */
  clear(): void {
    this.#sums.fill(0);
    this.#steps = 0;
  }
}
