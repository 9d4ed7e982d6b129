import type { Built } from './built.ts';
import type { Learner } from './learner.ts';

/** What a run is about to do: told before its first step. */
export interface ReadyInfo {
  readonly firstStep: number;
  readonly launches: number;
  readonly gflopPerStep: number;
  readonly plannedBytes: number;
  readonly unplannedBytes: number;
  /** Weights, optimiser state and the rest that outlives a step. */
  readonly residentBytes: number;
  /** Of each module that is trained. */
  readonly parameters: Readonly<Record<string, number>>;
  /** Of `Learner.stage`. */
  readonly stage?: string | undefined;
  /** What of a line of metrics is worth a place on a terminal, with short names. */
  readonly shown: Readonly<Record<string, string>>;
  /** Operations of the step that have more than one kernel, and how many of them run what tuning chose. */
  readonly operations: number;
  readonly tuned: number;
  /** Are these other kernels than those that the run was trained with so far? Then its bits may be others from here on. */
  readonly otherKernels: boolean;
}

/** Of each module but the average, which has those of its net. */
function parameterCounts({ modules, average }: Learner): Record<string, number> {
  const trained = Object.entries(modules).filter(([, module]) => module !== average);
  return Object.fromEntries(trained.map(([name, module]) => [name, module.parameterCount()]));
}

/** `before`: the kernels of the step that a resumed run goes on from, where that is the same program. */
export function readyInfo(
  learner: Learner,
  { program, asked, kernels }: Built,
  { firstStep, before }: { readonly firstStep: number; readonly before: string | undefined },
): ReadyInfo {
  const { plannedBytes, unplannedBytes } = program.memory;
  return {
    firstStep,
    launches: program.entries.length,
    gflopPerStep: program.flops / 1e9,
    plannedBytes,
    unplannedBytes,
    residentBytes: learner.tape.gpu.pool.stats().liveBytes - plannedBytes,
    parameters: parameterCounts(learner),
    stage: learner.stage,
    shown: learner.shown,
    operations: asked.length,
    tuned: asked.filter((one) => one.tuned).length,
    otherKernels: before !== undefined && before !== kernels,
  };
}
