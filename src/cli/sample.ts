import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { openGpu } from '../gpu/device.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng, gridColumns } from '../io/png.ts';
import { readNewestCheckpoint } from '../train/checkpoint.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { movingOf, stillOf } from '../train/grids.ts';
import { sampleCheckpoint } from '../train/sample.ts';
import { gridLabels } from '../train/sampler.ts';
import { UserError } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { adapterOption, positiveInt, someText, wholeNumber } from './options.ts';
import { previewKind, previewOption, previewText, terminal } from './preview.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly run: string;
  readonly n: number;
  readonly seed: number;
  readonly out: string;
  readonly weights: string;
  readonly adapter: string;
  readonly class?: string;
  readonly preview?: string;
}

export function sampleCommand(_state: ExitState): Command {
  return new Command('sample')
    .description('draw a grid of images from a run, or of clips')
    .requiredOption('--run <dir>', 'run folder that train wrote', someText)
    .option('--n <count>', 'images', positiveInt, 64)
    .option('--seed <number>', 'seed of the latents', wholeNumber, 1)
    .option(
      '--out <file>',
      'PNG to write, or of clips .apng, which moves; one that is there is replaced',
      someText,
      'grid.png',
    )
    .option('--weights <which>', 'ema (averaged, default) or last', 'ema')
    .option(
      '--class <name>',
      'one class, by its name or number; every class has rows of its own otherwise',
    )
    .addOption(previewOption())
    .addOption(adapterOption())
    .action(async (flags: Flags) => {
      await sample(flags);
    });
}

/** Pixels of the largest grid: what a viewer still opens, and the memory of a small machine still holds. */
const mostPixels = 2 ** 26;

async function sample(flags: Flags): Promise<void> {
  const { run, n, seed, weights, out } = flags;
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  if (weights !== 'ema' && weights !== 'last') {
    throw new UserError(`--weights ${weights} is unknown; there are ema and last`);
  }
  const shown = previewKind(flags.preview, terminal());
  const moves = out.toLowerCase().endsWith('.apng');
  checkWritable('--out', out, 'the grid', moves ? 'apng' : 'png');
  const checkpoint = await readNewestCheckpoint(run);
  const { config } = checkpoint;
  const { frames, imageSize } = config;
  if (moves && frames === 1) {
    throw new UserError(`--out ${out}: ${run} makes stills, which do not move; end it in .png`);
  }
  const most = Math.floor(mostPixels / (frames * imageSize ** 2));
  if (n > most) {
    const each = frames === 1 ? 'images' : `clips of ${frames} frames`;
    throw new UserError(
      `--n ${n} is too many for one picture: of ${imageSize}×${imageSize} pixels it holds at most ${most} ${each}`,
    );
  }
  const labels = labelsFor(flags, checkpoint);
  const gpu = await openGpu({ adapter: flags.adapter, tuned: tunedChoices });
  try {
    const images = await sampleCheckpoint(gpu, checkpoint, { n, seed, weights, labels });
    const replaced = existsSync(out) ? ', in place of the file that was there' : '';
    const still = () => {
      const picture = stillOf(images, n, config);
      return encodePng(picture.pixels, picture);
    };
    await writeFileAtomic(out, moves ? movingOf(images, n, config) : still());
    const what = frames === 1 ? 'images' : `clips of ${frames} frames`;
    if (shown !== undefined) {
      const text = previewText(shown, stillOf(images, n, config), process.stdout.columns);
      process.stdout.write(`${text}\n`);
    }
    process.stdout.write(
      `${out}: ${n} ${what} of ${imageSize}×${imageSize} from step ${checkpoint.progress.step} (${weights} weights, seed ${seed})${replaced}\n`,
    );
  } finally {
    gpu.close();
  }
}

/** The classes of the images to draw. Throws a `UserError` for a class that there is not, or of a run that is told none. */
function labelsFor(
  { n, class: asked, run }: Flags,
  checkpoint: Checkpoint,
): Uint32Array | undefined {
  const { config, progress } = checkpoint;
  const { classes } = config;
  if (classes === 0) {
    if (asked === undefined) return undefined;
    throw new UserError(`--class ${asked}: ${run} was trained without --conditional`);
  }
  if (asked === undefined) return gridLabels(n, gridColumns(n), classes);
  const names = progress.classes ?? [];
  const named = names.indexOf(asked);
  const label = named >= 0 ? named : /^\d+$/.test(asked) ? Number(asked) : -1;
  if (label < 0 || label >= classes) {
    const there = names.length > 0 ? names.join(', ') : `0 to ${classes - 1}`;
    throw new UserError(`--class ${unknownWord(asked, names, there)}`);
  }
  return new Uint32Array(n).fill(label);
}
