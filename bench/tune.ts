import { Tape } from '../src/autograd/tape.ts';
import type { Asked, Choice } from '../src/gpu/choices.ts';
import type { Gpu } from '../src/gpu/device.ts';
import { ladderNamed } from '../src/kernels/ladders.ts';
import type { AnyLadder } from '../src/kernels/ladders.ts';
import type { TrainConfig } from '../src/train/options.ts';
import { stepInputs, watchedOf } from '../src/train/learner.ts';
import { createLearner } from '../src/train/learners.ts';
import { measure } from './harness.ts';
import type { Measured } from './harness.ts';
import type { WrongKernelError } from './verify.ts';

/** What tuning found for one operation. */
export interface Found {
  readonly key: string;
  readonly ladder: string;
  readonly usual: Choice;
  readonly best: Choice;
  readonly usualMs: number;
  readonly ms: number;
  /** Rungs and tiles that were tried. */
  readonly tried: number;
}

export interface TuneOptions {
  /** Seconds; what was not begun by then keeps the kernels of the adapter's class. */
  readonly limit: number;
  readonly rounds?: number;
  readonly onStart?: (place: { done: number; of: number; key: string }) => void;
  readonly onFound?: (found: Found) => void;
  readonly onWrong?: (error: WrongKernelError) => void;
  readonly stop?: () => boolean;
}

/** Every operation of a training step that has more than one kernel; the step is traced, and nothing runs. */
export function askedByStep(gpu: Gpu, config: TrainConfig): Map<string, Asked> {
  const learner = createLearner(new Tape(gpu), config);
  gpu.choices.forget();
  gpu.capture(() => {
    return watchedOf(learner, learner.step(stepInputs(learner, { empty: true })));
  });
  return new Map(gpu.choices.asked);
}

/** A choice is left for another only where that is faster by more than the clock's noise. */
const leastGain = 0.03;

/**
 * Tries every legal tile of every rung that fits for each operation, the largest first: verified against float64, then timed
 * in turn on the GPU's clock. A wrong kernel is told of and never chosen. `gpu` must be opened without tuned choices.
 */
export async function tune(
  gpu: Gpu,
  asked: ReadonlyMap<string, Asked>,
  options: TuneOptions,
): Promise<Found[]> {
  const started = performance.now();
  const { limit, rounds = 5, onWrong } = options;
  const stop = () => (performance.now() - started) / 1000 > limit || options.stop?.() === true;
  const operations = [...asked]
    .map(([key, one]) => ({ key, one, ladder: ladderNamed(one.ladder) }))
    .sort((a, b) => b.ladder.flops(b.one.sizes) - a.ladder.flops(a.one.sizes));
  const found: Found[] = [];
  for (const [done, { key, one, ladder }] of operations.entries()) {
    if (stop()) break;
    options.onStart?.({ done, of: operations.length, key });
    const measured = await measure(
      gpu,
      { ladder, dims: one.sizes, label: key },
      {
        // No stop: of an operation that was half tried nothing is known.
        ...{ rounds, seconds: 1, everyTile: true, dropSlower: 2 },
        onWrong: (error) => onWrong?.(error),
      },
    );
    const made = bestOf(key, ladder, measured);
    if (made === undefined) continue;
    found.push(made);
    options.onFound?.(made);
  }
  return found;
}

function bestOf(key: string, ladder: AnyLadder, measured: readonly Measured[]): Found | undefined {
  const timed = measured.flatMap(({ rung, tile, shipped, ms }) =>
    ms === undefined ? [] : [{ choice: { rung, tile }, shipped, ms: ms.median }],
  );
  const [fastest] = [...timed].sort((a, b) => a.ms - b.ms);
  const usual = timed.find((one) => one.shipped);
  if (fastest === undefined) return undefined;
  // Where the usual choice is wrong, or does not fit, any right one is better.
  const keep = usual !== undefined && fastest.ms > (1 - leastGain) * usual.ms;
  const best = keep ? usual : fastest;
  return {
    key,
    ladder: ladder.name,
    usual: (usual ?? fastest).choice,
    best: best.choice,
    usualMs: (usual ?? fastest).ms,
    ms: best.ms,
    tried: timed.length,
  };
}
