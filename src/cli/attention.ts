import { existsSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { openGpu } from '../gpu/device.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng } from '../io/png.ts';
import { drawOverlay, pointColours } from '../train/attention/overlay.ts';
import type { Pixel } from '../train/attention/overlay.ts';
import { pointMaps } from '../train/attention/points.ts';
import type { PointMap, PointMaps } from '../train/attention/points.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { gridLabels } from '../train/sampler.ts';
import { UserError } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';
import { textTable } from '../util/table.ts';
import { checkWritable } from './files.ts';
import { addGeneratorOptions, classNumber, openChosen } from './generator.ts';
import type { GeneratorFlags } from './generator.ts';
import type { ExitState } from './main.ts';
import { adapterOption, someText, wholeNumber } from './options.ts';
import { tunedChoices } from './tuned.ts';

interface Flags extends GeneratorFlags {
  readonly image: number;
  readonly seed?: number;
  readonly class?: string;
  readonly at?: readonly Pixel[];
  readonly layer?: string;
  readonly head?: number;
  readonly out: string;
  readonly adapter: string;
}

export function attentionCommand(_state: ExitState): Command {
  const command = new Command('attention').description(
    "draw where a generator's attention looks, from points of an image that it makes",
  );
  return addGeneratorOptions(command)
    .option(
      '--image <index>',
      "which image of the seed, from 0: of the run's own, as in its grids",
      wholeNumber,
      0,
    )
    .option('--seed <number>', "seed of the latents; default the run's own", wholeNumber)
    .option('--class <name>', 'class of the image, by its name or number; default as in the grids')
    .option(
      '--at <row,column>',
      'pixel that is looked from, counted from 0 at the top left; may be given several times; default the middle',
      place,
    )
    .option('--layer <name>', 'one block, such as main.6; default every one', someText)
    .option('--head <index>', 'one head of each block, from 0; default every one', wholeNumber)
    .option('--out <file>', 'PNG to write; one that is there is replaced', someText, 'overlay.png')
    .addOption(adapterOption())
    .action(async (flags: Flags) => {
      await attention(flags);
    });
}

/** Parses `row,column` and adds it to those before. */
function place(text: string, before: readonly Pixel[] = []): readonly Pixel[] {
  const found = /^(\d+),(\d+)$/.exec(text.replaceAll(' ', ''));
  if (found === null) {
    throw new InvalidArgumentError(`"${text}" is no pixel, such as 8,8: row, then column.`);
  }
  return [...before, [Number(found[1]), Number(found[2])]];
}

async function attention(flags: Flags): Promise<void> {
  const { run, image: index, out, adapter } = flags;
  const { checkpoint, weights } = await openChosen(flags);
  checkWritable('--out', out, 'the picture', 'png');
  const { config, progress } = checkpoint;
  const { imageSize: side, channels } = config;
  if (config.attention === 'none' || config.attentionG.length === 0) {
    throw new UserError(`${run} has a generator without attention: there is nowhere it looks`);
  }
  if (config.frames > 1) {
    throw new UserError(`${run} makes clips; wgsagan attention looks into nets of stills`);
  }
  const points = pointsOf(flags, side);
  const seed = flags.seed ?? config.seed;
  const label = labelOf(flags, checkpoint);
  const gpu = await openGpu({ adapter, tuned: tunedChoices });
  try {
    const found = await pointMaps(gpu, checkpoint, { weights, seed, index, label, points });
    const rows = chosenRows(found, flags, checkpoint);
    const replaced = existsSync(out) ? ', in place of the file that was there' : '';
    const picture = drawOverlay({ image: found.image, channels, side, points, rows });
    await writeFileAtomic(out, encodePng(picture.pixels, picture));
    process.stdout.write(
      `${out}: image ${index} of seed ${seed} at step ${progress.step} (${weights} weights)${replaced}\n` +
        `${describe(rows, { ...found, points, side })}\n`,
    );
  } finally {
    gpu.close();
  }
}

function pointsOf({ at }: Flags, side: number): readonly Pixel[] {
  const points = at ?? [[Math.floor(side / 2), Math.floor(side / 2)] as const];
  if (points.length > pointColours.length) {
    throw new UserError(
      `--at is given ${points.length} times; there are colours for ${pointColours.length} points`,
    );
  }
  for (const point of points) {
    if (Math.max(...point) < side) continue;
    throw new UserError(
      `--at ${point.join()} lies outside the image of ${side}×${side} pixels, whose rows and columns count from 0 to ${side - 1}`,
    );
  }
  return points;
}

/** The class of the image: that of its place in a run's grids of eight columns, if none is asked for. */
function labelOf({ class: asked, image, run }: Flags, checkpoint: Checkpoint): number | undefined {
  if (asked !== undefined) return classNumber(asked, run, checkpoint);
  const { classes } = checkpoint.config;
  return classes === 0 ? undefined : gridLabels(image + 1, 8, classes)[image];
}

/** For each block and head that is asked for, the maps of all points. Throws a `UserError` for one that there is not. */
function chosenRows(
  { maps }: PointMaps,
  { layer, head, run }: Flags,
  { progress }: Checkpoint,
): PointMap[][] {
  const names = [...new Set(maps.map(({ block }) => block))];
  if (names.length === 0) {
    throw new UserError(`${run} at step ${progress.step} has not grown to its attention yet`);
  }
  if (layer !== undefined && !names.includes(layer)) {
    throw new UserError(`--layer ${unknownWord(layer, names, names.join(', '))}`);
  }
  const ofLayer = maps.filter(({ block }) => layer === undefined || block === layer);
  const chosen = ofLayer.filter((map) => head === undefined || map.head === head);
  if (chosen.length === 0) {
    const most = Math.max(...ofLayer.map((map) => map.head));
    throw new UserError(`--head ${head} is not there; the heads are 0 to ${most}`);
  }
  const rows = new Map<string, PointMap[]>();
  for (const map of chosen) {
    const key = `${map.block} ${map.head}`;
    rows.set(key, [...(rows.get(key) ?? []), map]);
  }
  return [...rows.values()];
}

/** A line for each map: whose it is, where it is largest in pixels, and on how few positions half of its weight lies. */
function describe(
  rows: readonly (readonly PointMap[])[],
  { points, side, gammas }: { points: readonly Pixel[]; side: number } & Pick<PointMaps, 'gammas'>,
): string {
  const lines = rows.flatMap((maps, row) =>
    maps.map(({ block, head, point, weights, size: [H, W] }) => {
      const most = weights.reduce((best, w, i) => (w > (weights[best] ?? 0) ? i : best), 0);
      const pixel = (at: number, of: number) => Math.floor(((at + 0.5) * side) / of);
      const gamma = [...gammas].find(
        ([name]) => name === block || name.startsWith(`${block}.`),
      )?.[1];
      return [
        ...[String(row + 1), block, String(head), gamma?.toFixed(4) ?? '–'],
        `${points[point]?.join() ?? ''} ${pointColours[point]?.name ?? ''}`,
        `${pixel(Math.floor(most / W), H)},${pixel(most % W, W)}`,
        `${halfOf(weights)} of ${weights.length}`,
      ];
    }),
  );
  const titles = ['row', 'block', 'head', 'gamma', 'from', 'most at', 'half of it on'];
  return textTable(
    titles.map((title, i) => ({ title, text: i > 0 })),
    lines,
  );
}

/** The fewest positions that hold half of all weight. */
function halfOf(weights: Float32Array): number {
  const sorted = [...weights].sort((a, b) => b - a);
  const half = sorted.reduce((a, b) => a + b, 0) / 2;
  let sum = 0;
  return 1 + sorted.findIndex((w) => (sum += w) >= half);
}
