import { Tape } from '../../autograd/tape.ts';
import { tensor } from '../../autograd/tensor.ts';
import type { Tensor } from '../../autograd/tensor.ts';
import type { Gpu } from '../../gpu/device.ts';
import type { Net } from '../../models/gan.ts';
import { dim } from '../../util/shape.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { latentOf } from '../latents.ts';
import { openGenerator } from '../sample.ts';
import type { SampleWeights } from '../sample.ts';
import { enlarged } from '../sampler.ts';
import { looking } from './look.ts';
import type { SeenBlock } from './look.ts';
import type { HeatMap, Pixel } from './overlay.ts';

/** A map that an attention block of one image has for a pixel. */
export interface PointMap extends HeatMap {
  readonly block: string;
  /** From 0. */
  readonly head: number;
  /** Of the points asked for, from 0. */
  readonly point: number;
}

export interface PointMaps {
  /** (channels, S, S) in [−1, 1] */
  readonly image: Float32Array;
  /** For each block that the image went through, in order, and each of its heads, those of all points. */
  readonly maps: readonly PointMap[];
  /** The weight of each block beside its shortcut, where it has such a weight. */
  readonly gammas: ReadonlyMap<string, number>;
}

interface PointOptions {
  readonly weights: SampleWeights;
  readonly seed: number;
  /** Which latent of the seed, from 0. */
  readonly index: number;
  /** The class of the image, for a generator that is told one. */
  readonly label: number | undefined;
  /** Pixels of the image (row, column) that are looked from: each as part of the position that it lies in. */
  readonly points: readonly Pixel[];
}

/**
 * Makes one image with a checkpoint's generator, and the maps of its attention at some pixels of it. A map of one position is
 * made at a time: memory is linear in the positions.
 */
export async function pointMaps(
  gpu: Gpu,
  checkpoint: Checkpoint,
  options: PointOptions,
): Promise<PointMaps> {
  const { config } = checkpoint;
  const tape = new Tape(gpu);
  const { generator, sampler } = await openGenerator(tape, checkpoint, options);
  sampler.close();
  const { latentSize, imageSize } = config;
  const { seed, index, label, points } = options;
  const z = tensor(tape, latentOf(seed, index, latentSize), [1, latentSize]);
  const labels = label === undefined ? undefined : tensor(tape, Uint32Array.of(label), [1]);
  const seen: { readonly name: string; readonly point: number; readonly map: Tensor }[] = [];
  let image = z;
  const capture = gpu.capture(() =>
    tape.noGrad(() => {
      generator.eval();
      const forward = () => enlarged(generator.forward(z, labels), imageSize);
      image = looking(generator, forward, (block) => {
        points.forEach((point, i) => {
          seen.push({ name: block.name, point: i, map: mapAt(block, point, imageSize) });
        });
      });
      return [image.storage, ...seen.map(({ map }) => map.storage)];
    }),
  );
  const program = await capture.build();
  program.run();
  const maps: PointMap[] = [];
  for (const { name, point, map } of seen) {
    const weights = await map.read();
    const size = [dim(map.shape, 2), dim(map.shape, 3)] as const;
    const each = size[0] * size[1];
    for (let head = 0; head < dim(map.shape, 1); head++) {
      const own = weights.subarray(head * each, (head + 1) * each);
      maps.push({ block: name, head, point, weights: own, size });
    }
  }
  const made = await image.read();
  program.destroy();
  return { image: made, maps, gammas: await gammasOf(generator) };
}

/** The map of the position that a pixel of an image of `side` pixels lies in. */
function mapAt({ block, x, labels }: SeenBlock, [row, column]: Pixel, side: number): Tensor {
  const [H, W] = [dim(x.shape, 2), dim(x.shape, 3)];
  const place = [Math.floor((row * H) / side), Math.floor((column * W) / side)] as const;
  return block.map(x, place, labels);
}

async function gammasOf(net: Net): Promise<Map<string, number>> {
  const gammas = new Map<string, number>();
  for (const [name, value] of net.namedParameters()) {
    const block = /^(.*)\.gamma$/.exec(name)?.[1];
    if (block !== undefined) gammas.set(block, (await value.read())[0] ?? 0);
  }
  return gammas;
}
