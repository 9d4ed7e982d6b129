import { join } from 'node:path';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng } from '../io/png.ts';
import type { Picture } from '../io/png.ts';
import { writeAttention } from './attention/record.ts';
import { curveColours, lineChart } from './chart.ts';
import { movingOf, stillOf } from './grids.ts';
import type { History } from './history.ts';
import { latents } from './latents.ts';
import type { Learner } from './learner.ts';
import { drawReconstructions } from './reconstruct.ts';
import type { Originals, Reconstructor } from './reconstruct.ts';
import { runPaths, stepName } from './run-folder.ts';
import { gridLabels } from './sampler.ts';
import type { Sampler } from './sampler.ts';

const gridImages = 64;
const stripClips = 16;

/** What a run draws with. */
interface Drawing {
  readonly learner: Learner;
  readonly sampler: Sampler;
  readonly reconstructor: Reconstructor | undefined;
  readonly originals: Originals | undefined;
  readonly step: number;
}

/**
 * Writes the grid of a run's fixed latents, of averaged weights as the sampler's are, and where there are originals a picture
 * of them and of their reconstructions, and where the generator's attention looks. Returns the path of the first.
 */
export async function drawPictures(run: string, drawing: Drawing): Promise<string> {
  const { learner, reconstructor, originals, step } = drawing;
  if (reconstructor !== undefined && originals !== undefined) {
    const pairs = await drawReconstructions(reconstructor, originals, learner.config);
    await writePicture(run, `reconstructions-${stepName(step)}`, pairs);
  }
  return drawSamples(run, drawing);
}

/** The images of the fixed latents: clips as a strip, and an animation beside it. Returns the path of the picture that stands still. */
async function drawSamples(run: string, { learner, sampler, step }: Drawing): Promise<string> {
  const { config } = learner;
  const { frames, classes, seed, latentSize } = config;
  sampler.settle(learner.generator);
  const n = frames > 1 ? stripClips : gridImages;
  const z = latents(seed, n, latentSize);
  const columns = Math.sqrt(n);
  const labels = classes === 0 ? undefined : gridLabels(n, columns, classes);
  const images = await sampler.images(z, labels);
  const name = `step-${stepName(step)}`;
  if (frames > 1) {
    await writeFileAtomic(join(runPaths(run).samples, `${name}.apng`), movingOf(images, n, config));
  }
  await writeAttention(run, {
    average: learner.average,
    config,
    grid: { n, columns },
    labels,
    step,
  });
  return writePicture(run, name, stillOf(images, n, config));
}

async function writePicture(run: string, name: string, picture: Picture): Promise<string> {
  const path = join(runPaths(run).samples, `${name}.png`);
  await writeFileAtomic(path, encodePng(picture.pixels, picture));
  return path;
}

/** Writes the curves of what a learner shows of its metrics. */
export async function drawCurves(
  run: string,
  shown: Learner['shown'],
  metrics: History,
): Promise<void> {
  const curves = Object.keys(shown).map((name, i) => ({
    name,
    colour: curveColours[i % curveColours.length] ?? '',
    points: metrics.points(name),
  }));
  await writeFileAtomic(runPaths(run).losses, lineChart('losses', curves, 'step'));
}
