import { join } from 'node:path';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodeApng } from '../io/apng.ts';
import { encodePng, imageGrid } from '../io/png.ts';
import type { Picture } from '../io/png.ts';
import { curveColours, lineChart } from './chart.ts';
import type { TrainConfig } from './config.ts';
import type { Learner } from './learner.ts';
import { runPaths } from './run-folder.ts';
import type { MetricLine } from './run-folder.ts';
import { gridLabels, latents } from './sampler.ts';
import type { Sampler } from './sampler.ts';

const gridImages = 64;
const stripClips = 16;
/** Of a frame, in an animation. */
const delayMs = 125;

/** What images are of: the part of a config that says. */
type ImageConfig = Pick<TrainConfig, 'channels' | 'frames' | 'imageSize'>;

/** n images as one picture, near a square; n clips as a row each, their frames from left to right. */
export function stillOf(images: Float32Array, n: number, config: ImageConfig): Picture {
  const { channels, frames, imageSize } = config;
  const size = { channels, height: imageSize, width: imageSize };
  if (frames === 1) return imageGrid(images, { n, ...size });
  const rows = Array.from({ length: n }, (_u, clip) =>
    Array.from({ length: frames }, (_v, t) => frameOf(images, { clip, t }, config)),
  );
  return imageGrid(joined(rows.flat()), { n: n * frames, columns: frames, ...size });
}

/** n clips as an animated PNG: a grid near a square, in which all of them move. */
export function movingOf(images: Float32Array, n: number, config: ImageConfig): Uint8Array {
  const { channels, frames, imageSize } = config;
  const size = { n, channels, height: imageSize, width: imageSize };
  const pictures = Array.from({ length: frames }, (_u, t) => {
    const now = Array.from({ length: n }, (_v, clip) => frameOf(images, { clip, t }, config));
    return imageGrid(joined(now), size);
  });
  return encodeApng(pictures, { delayMs });
}

/** A frame [channels, S, S] of clips [n, channels, frames, S, S]. */
function frameOf(
  clips: Float32Array,
  { clip, t }: { clip: number; t: number },
  { channels, frames, imageSize }: ImageConfig,
): Float32Array {
  const plane = imageSize ** 2;
  const planes = Array.from({ length: channels }, (_u, c) => {
    const from = ((clip * channels + c) * frames + t) * plane;
    return clips.subarray(from, from + plane);
  });
  return joined(planes);
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/**
 * Writes the grid of a run's fixed latents, of averaged weights; the sampler is of those. Clips are a strip, and beside it
 * an animation. Returns the path of the picture that stands still.
 */
export async function drawSamples(
  run: string,
  { learner, sampler, step }: { learner: Learner; sampler: Sampler; step: number },
): Promise<string> {
  const { config } = learner;
  const { frames, classes, seed, latentSize } = config;
  sampler.settle(learner.generator);
  const n = frames > 1 ? stripClips : gridImages;
  const z = latents(seed, n, latentSize);
  const labels = classes === 0 ? undefined : gridLabels(n, Math.sqrt(n), classes);
  const images = await sampler.images(z, labels);
  const picture = stillOf(images, n, config);
  const path = join(runPaths(run).samples, `step-${String(step).padStart(7, '0')}`);
  await writeFileAtomic(`${path}.png`, encodePng(picture.pixels, picture));
  if (frames > 1) await writeFileAtomic(`${path}.apng`, movingOf(images, n, config));
  return `${path}.png`;
}

/** Writes the curves of what a learner shows of its metrics. */
export async function drawCurves(
  run: string,
  shown: Learner['shown'],
  metrics: readonly MetricLine[],
): Promise<void> {
  const curves = Object.keys(shown).map((name, i) => ({
    name,
    colour: curveColours[i % curveColours.length] ?? '',
    points: metrics.map((line) => [line.step, line[name] ?? NaN] as const),
  }));
  await writeFileAtomic(runPaths(run).losses, lineChart('losses', curves, 'step'));
}
