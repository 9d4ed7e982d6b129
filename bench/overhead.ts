import type { Gpu } from '../src/gpu/device.ts';
import { attentionKindNames } from '../src/nn/attention-kinds.ts';
import { resolveConfig } from '../src/train/config.ts';
import type { TrainConfig } from '../src/train/options.ts';
import { UserError } from '../src/util/errors.ts';
import { unknownWord } from '../src/util/nearest.ts';
import { summarise } from '../src/util/statistics.ts';
import { environmentOf } from './environment.ts';
import type { OverheadCase, OverheadResult } from './results.ts';
import { openStep } from './step.ts';
import type { StepChoice } from './step.ts';

export interface OverheadOptions {
  readonly rounds: number;
  /** Kinds of attention; the step without any is always measured beside them. */
  readonly kinds: readonly string[];
  readonly onPreset?: (preset: string, place: { done: number; of: number }) => void;
}

/**
 * What attention adds to a training step: for each choice the step without it and with each kind, all of them on one device,
 * each run once in every round. A ratio is of two steps of the same round, so what slows the machine for a while is in both.
 * Throws a `UserError` for a kind that is unknown or that a preset cannot have.
 */
export async function runOverhead(
  open: () => Promise<Gpu>,
  choices: readonly StepChoice[],
  { rounds, kinds, onPreset }: OverheadOptions,
): Promise<OverheadResult> {
  const unknown = kinds.find((kind) => !attentionKindNames.some((name) => name === kind));
  if (unknown !== undefined) {
    throw new UserError(`--kind ${unknownWord(unknown, attentionKindNames)}`);
  }
  const compared = ['none', ...kinds.filter((kind) => kind !== 'none')];
  const configs = choices.map((choice) =>
    compared.map((attention) => resolveConfig({ data: 'none', ...choice, attention })),
  );
  const cases: OverheadCase[] = [];
  let environment: OverheadResult['environment'] | undefined;
  for (const [i, group] of configs.entries()) {
    const gpu = await open();
    try {
      environment ??= environmentOf(gpu);
      cases.push(...(await compare(gpu, group, rounds)));
    } finally {
      gpu.close();
    }
    onPreset?.(group[0]?.preset ?? '', { done: i + 1, of: configs.length });
  }
  if (environment === undefined) throw new Error('there is no step to measure');
  return { kind: 'overhead', bench: 'overhead', environment, settings: { rounds }, cases };
}

/** The steps of some configs in turn; the first is what the others are held to. */
async function compare(
  gpu: Gpu,
  configs: readonly TrainConfig[],
  rounds: number,
): Promise<OverheadCase[]> {
  const steps = [];
  for (const config of configs) {
    steps.push({ config, step: await openStep(gpu, config), times: [] as number[] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const { step, times } of steps) times.push((await step.time()).whole);
  }
  for (const { step } of steps) await step.check();
  const without = steps[0]?.times ?? [];
  return steps.map(({ config, step: { program }, times }) => ({
    ...{ preset: config.preset, precision: config.precision, batch: config.batch },
    attention: config.attention,
    stages: { G: config.attentionG, D: config.attentionD },
    launches: program.entries.length,
    gflop: program.flops / 1e9,
    ms: summarise(times),
    overNone: summarise(times.map((time, i) => time / (without[i] ?? NaN))),
    plannedBytes: program.memory.plannedBytes,
  }));
}
