import { join } from 'node:path';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng, imageGrid } from '../io/png.ts';
import { curveColours, lineChart } from './chart.ts';
import type { Learner } from './learner.ts';
import { runPaths } from './run-folder.ts';
import type { MetricLine } from './run-folder.ts';
import { gridLabels, latents } from './sampler.ts';
import type { Sampler } from './sampler.ts';

const gridImages = 64;

/** Writes the grid of a run's fixed latents, of averaged weights; the sampler is of those. Returns its path. */
export async function drawSamples(
  run: string,
  { learner, sampler, step }: { learner: Learner; sampler: Sampler; step: number },
): Promise<string> {
  const { imageSize, channels, classes, seed, latentSize } = learner.config;
  sampler.settle(learner.generator);
  const z = latents(seed, gridImages, latentSize);
  const labels = classes === 0 ? undefined : gridLabels(gridImages, Math.sqrt(gridImages), classes);
  const images = await sampler.images(z, labels);
  const size = { n: gridImages, channels, height: imageSize, width: imageSize };
  const grid = imageGrid(images, size);
  const path = join(runPaths(run).samples, `step-${String(step).padStart(7, '0')}.png`);
  await writeFileAtomic(path, encodePng(grid.pixels, grid));
  return path;
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
