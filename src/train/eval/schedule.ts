import type { TrainConfig } from '../options.ts';

/** Is a step one that is evaluated when it is saved? The last one is, however it falls. */
export function evaluatesAt(step: number, { evalEvery, steps }: TrainConfig): boolean {
  return evalEvery !== undefined && (step % evalEvery === 0 || step === steps);
}
