import { Tape } from '../../autograd/tape.ts';
import type { Gpu } from '../../gpu/device.ts';
import type { Program } from '../../gpu/program.ts';
import { HostRng } from '../../util/philox.ts';
import { createLearnerThatFits } from '../capacity.ts';
import type { TrainConfig } from '../options.ts';
import { stepInputs, watchedOf } from '../learner.ts';

/**
 * The training step of a config, captured and built on first weights and images of noise: what `train` replays, without
 * its data. Throws a `UserError` where it does not fit in the device's memory.
 */
export async function buildStep(gpu: Gpu, config: TrainConfig): Promise<Program> {
  const tape = new Tape(gpu);
  const learner = createLearnerThatFits(tape, config);
  const rng = new HostRng(config.seed);
  const inputs = stepInputs(learner);
  for (const { images } of inputs) {
    images.set(Uint32Array.from({ length: images.size }, () => rng.word()));
  }
  const capture = gpu.capture(() => {
    return watchedOf(learner, learner.step(inputs));
  });
  return capture.build();
}
