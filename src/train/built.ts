import { fingerprintOf } from '../data/fingerprint.ts';
import type { Asked } from '../gpu/choices.ts';
import type { Program } from '../gpu/program.ts';
import { readingsOf } from './learner.ts';
import type { Learner, Reading, StepInput } from './learner.ts';
import { Reconstructor } from './reconstruct.ts';
import { Sampler, samplerBatch } from './sampler.ts';

/** What runs a learner's step, and what shows its images. */
export interface Built {
  readonly program: Program;
  /** What leaves the GPU with each step. */
  readonly readings: readonly Reading[];
  readonly sampler: Sampler;
  /** For a learner that reconstructs. */
  readonly reconstructor: Reconstructor | undefined;
  readonly asked: readonly Asked[];
  readonly kernels: string;
}

/** Captures the step that a learner is about to run. */
export async function build(learner: Learner, inputs: readonly StepInput[]): Promise<Built> {
  const { config, tape, average } = learner;
  const { gpu } = tape;
  let readings: Built['readings'] = [];
  gpu.choices.forget();
  const capture = gpu.capture(() => {
    readings = readingsOf(learner, learner.step(inputs));
    return readings.map(({ of }) => of.storage);
  });
  const asked = new Map(gpu.choices.asked);
  const program = await capture.build();
  const sampler = await Sampler.open(average, { ...config, batch: samplerBatch(config.batch) });
  const reconstructor = await Reconstructor.open(learner);
  const kernels = kernelsOf(asked);
  return { program, readings, sampler, reconstructor, asked: [...asked.values()], kernels };
}

/** Tells kernels that may round in another way from those of another step: rung, tile and sizes of every operation. */
export function kernelsOf(asked: ReadonlyMap<string, Asked>): string {
  const lines = [...asked].map(([key, { choice }]) => {
    const tile = Object.entries(choice.tile).map(([name, value]) => `${name}=${value}`);
    return [key, choice.rung, ...tile].join(' ');
  });
  return fingerprintOf(lines.sort()).slice(0, 16);
}
