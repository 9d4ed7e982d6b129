import { Tape } from '../autograd/tape.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Net } from '../models/gan.ts';
import { loadState } from '../nn/state.ts';
import { partOf } from './checkpoint.ts';
import type { Checkpoint } from './checkpoint.ts';
import { blankGenerator } from './nets.ts';
import { latents } from './latents.ts';
import { Sampler, samplerBatch } from './sampler.ts';

/** Which generator of a checkpoint: the moving average of its weights, or the weights as last trained. */
export type SampleWeights = 'ema' | 'last';

/**
 * A checkpoint's generator as it makes images: averaged weights with batch statistics that have settled on them. Those of an
 * imported state, before the first step, have statistics of their own. One that grows is at the stage of its last step, and
 * whole before the first.
 */
export async function openGenerator(
  tape: Tape,
  checkpoint: Checkpoint,
  weights: SampleWeights,
): Promise<{ readonly generator: Net; readonly sampler: Sampler }> {
  const { config, progress } = checkpoint;
  const { step } = progress;
  const load = (part: 'average' | 'generator') => {
    const generator = blankGenerator(tape, config);
    if (step > 0) generator.growth?.begin(step - 1);
    loadState(generator, partOf(checkpoint, part), `checkpoint ${checkpoint.path}`);
    return generator;
  };
  const trained = load('generator');
  const generator = weights === 'ema' ? load('average') : trained;
  const batch = samplerBatch(config.batch);
  const sampler = await Sampler.open(generator, { ...config, batch });
  if (generator !== trained && step > 0) sampler.settle(trained);
  return { generator, sampler };
}

/**
 * Images (n, channels, size, size) in [−1, 1] of a checkpoint's generator for the latents of a seed, and for `labels` (n) where
 * it is told classes.
 */
export async function sampleCheckpoint(
  gpu: Gpu,
  checkpoint: Checkpoint,
  options: { n: number; seed: number; weights: SampleWeights; labels?: Uint32Array | undefined },
): Promise<Float32Array> {
  const { sampler } = await openGenerator(new Tape(gpu), checkpoint, options.weights);
  const z = latents(options.seed, options.n, checkpoint.config.latentSize);
  const images = await sampler.images(z, options.labels);
  sampler.close();
  return images;
}
