import { Tape } from '../../autograd/tape.ts';
import { tensor } from '../../autograd/tensor.ts';
import type { Gpu } from '../../gpu/device.ts';
import type { Program } from '../../gpu/program.ts';
import { HostRng } from '../../util/philox.ts';
import { createGanThatFits, imageWords } from '../capacity.ts';
import type { TrainConfig } from '../config.ts';
import { ganStep, watchedOf } from '../gan.ts';

/**
 * The training step of a config, captured and built on first weights and images of noise: what `train` replays, without
 * its data. Throws a `UserError` where it does not fit in the device's memory.
 */
export async function buildStep(gpu: Gpu, config: TrainConfig): Promise<Program> {
  const tape = new Tape(gpu);
  const gan = createGanThatFits(tape, config);
  const words = imageWords(config, config.batch);
  const rng = new HostRng(config.seed);
  const images = Array.from({ length: config.dSteps }, (_u, i) => {
    const noise = Uint32Array.from({ length: words }, () => rng.word());
    return tensor(tape, noise, [words], { label: `images ${i}` });
  });
  const capture = gpu.capture(() => {
    return watchedOf(gan, ganStep(gan, images));
  });
  return capture.build();
}
