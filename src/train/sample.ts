import { Tape } from '../autograd/tape.ts';
import type { Gpu } from '../gpu/device.ts';
import { loadState } from '../nn/state.ts';
import { partOf } from './checkpoint.ts';
import type { Checkpoint } from './checkpoint.ts';
import { blankGenerator } from './gan.ts';
import { Sampler, latents, samplerBatch } from './sampler.ts';

/** Which generator of a checkpoint: the moving average of its weights, or the weights as last trained. */
export type SampleWeights = 'ema' | 'last';

/**
 * Images (n, channels, size, size) in [−1, 1] of a checkpoint's generator for the latents of a seed, and for `labels` (n) where
 * it is told classes.
 */
export async function sampleCheckpoint(
  gpu: Gpu,
  checkpoint: Checkpoint,
  options: { n: number; seed: number; weights: SampleWeights; labels?: Uint32Array | undefined },
): Promise<Float32Array> {
  const { config } = checkpoint;
  const tape = new Tape(gpu);
  const load = (part: 'average' | 'generator') => {
    const generator = blankGenerator(tape, config);
    loadState(generator, partOf(checkpoint, part), `checkpoint ${checkpoint.path}`);
    return generator;
  };
  const trained = load('generator');
  const averaged = options.weights === 'ema' ? load('average') : undefined;
  const { latentSize, classes } = config;
  const batch = samplerBatch(config.batch);
  const sampler = await Sampler.open(averaged ?? trained, { batch, latentSize, classes });
  if (averaged !== undefined) sampler.settle(trained);
  const images = await sampler.images(latents(options.seed, options.n, latentSize), options.labels);
  sampler.close();
  return images;
}
