import { Tape } from '../autograd/tape.ts';
import type { Gpu } from '../gpu/device.ts';
import type { Net } from '../models/gan.ts';
import { loadState } from '../nn/state.ts';
import { UserError } from '../util/errors.ts';
import { sizeOf } from '../util/shape.ts';
import { partOf } from './checkpoint.ts';
import type { Checkpoint } from './checkpoint.ts';
import { rowsOf } from './latents.ts';
import { imageShape } from './learner.ts';
import { blankGenerator } from './nets.ts';
import { Sampler, samplerBatch } from './sampler.ts';
import type { SamplePlan } from './sampling/plan.ts';

/** Which generator of a checkpoint: the moving average of its weights, or the weights as last trained. */
export type SampleWeights = 'ema' | 'last';

export interface GeneratorChoice {
  readonly weights: SampleWeights;
  /** Batches whose statistics batch norms take the mean of (`Sampler.stand`); as in training if left out. */
  readonly standing?: number | undefined;
}

/**
 * A checkpoint's generator as it makes images: averaged weights with batch statistics that have settled on them. Those of an
 * imported state, before the first step, have statistics of their own. One that grows is at the stage of its last step, and
 * whole before the first. Throws a `UserError` for standing statistics of a generator without batch norm.
 */
export async function openGenerator(
  tape: Tape,
  checkpoint: Checkpoint,
  { weights, standing }: GeneratorChoice,
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
  const from = generator !== trained && step > 0 ? trained : undefined;
  if (standing !== undefined) {
    if (await sampler.stand(standing, from)) return { generator, sampler };
    throw new UserError(
      `--standing ${standing}: the generator of ${config.preset} has no batch norm, so there are no statistics to settle`,
    );
  }
  if (from !== undefined) sampler.settle(from);
  return { generator, sampler };
}

/** Images of a plan, in the order of their indices: as many at a time as the sampler makes. */
export interface SampleBatch {
  /** Of the plan, from 0. */
  readonly indices: readonly number[];
  /** (indices, channels, S, S), or with frames (indices, channels, T, S, S), in [−1, 1] */
  readonly images: Float32Array;
}

/** Makes the images of a plan, all or those of some indices: memory is that of one batch, however many there are. */
export async function* sampleBatches(
  sampler: Sampler,
  plan: SamplePlan,
  { latentSize, wanted }: { readonly latentSize: number; readonly wanted?: Iterable<number> },
): AsyncGenerator<SampleBatch> {
  const make = async (indices: readonly number[]): Promise<SampleBatch> => {
    const z = rowsOf(indices.length, latentSize, (i) => plan.latent(indices[i] ?? 0));
    const { label } = plan;
    const labels = label === undefined ? undefined : Uint32Array.from(indices, label);
    return { indices, images: await sampler.images(z, labels) };
  };
  let indices: number[] = [];
  for (const index of wanted ?? countTo(plan.n)) {
    indices.push(index);
    if (indices.length < sampler.batch) continue;
    yield await make(indices);
    indices = [];
  }
  if (indices.length > 0) yield await make(indices);
}

function* countTo(n: number): Generator<number> {
  for (let i = 0; i < n; i++) yield i;
}

/** All images (n, …) of a plan, in [−1, 1], of a checkpoint's generator. */
export async function sampleCheckpoint(
  gpu: Gpu,
  checkpoint: Checkpoint,
  { plan, ...choice }: GeneratorChoice & { readonly plan: SamplePlan },
): Promise<Float32Array> {
  const { config } = checkpoint;
  const { sampler } = await openGenerator(new Tape(gpu), checkpoint, choice);
  const each = sizeOf(imageShape(config, 1));
  const out = new Float32Array(plan.n * each);
  for await (const { indices, images } of sampleBatches(sampler, plan, config)) {
    out.set(images, (indices[0] ?? 0) * each);
  }
  sampler.close();
  return out;
}
