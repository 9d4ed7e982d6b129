import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { openDataset } from '../data/dataset.ts';
import { openGpu } from '../gpu/device.ts';
import { cacheDir } from '../gpu/platform.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng } from '../io/png.ts';
import { readNewestCheckpoint } from '../train/checkpoint.ts';
import { dataOptions } from '../train/data-options.ts';
import { reconstructCheckpoint, requireReconstruction } from '../train/reconstruct.ts';
import { UserError } from '../util/errors.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { adapterOption, positiveInt, someText } from './options.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly run: string;
  readonly data?: string;
  readonly n: number;
  readonly out: string;
  readonly adapter: string;
}

export function reconstructCommand(_state: ExitState): Command {
  return new Command('reconstruct')
    .description('draw images, and below them what a VAE makes of them')
    .requiredOption('--run <dir>', 'run folder that train wrote', someText)
    .option(
      '--data <source>',
      'images, as for train; default what the run was trained on',
      someText,
    )
    .option('--n <count>', 'images, spread evenly over the source', positiveInt, 32)
    .option('--out <file>', 'PNG to write; one that is there is replaced', someText, 'grid.png')
    .addOption(adapterOption())
    .action(async (flags: Flags) => {
      await reconstruct(flags);
    });
}

/** What a viewer still looks through. */
const most = 1024;

async function reconstruct({ run, n, out, adapter, ...flags }: Flags): Promise<void> {
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  if (n > most)
    throw new UserError(`--n ${n} is too many for one picture: it holds ${most} images`);
  checkWritable('--out', out, 'the picture', 'png');
  const checkpoint = await readNewestCheckpoint(run);
  requireReconstruction(checkpoint);
  const { config } = checkpoint;
  const options = { ...dataOptions(config), cacheDir: cacheDir() };
  const dataset = await openDataset(flags.data ?? config.data, options);
  const gpu = await openGpu({ adapter, tuned: tunedChoices });
  try {
    const picture = await reconstructCheckpoint(gpu, checkpoint, { dataset, n });
    const replaced = existsSync(out) ? ', in place of the file that was there' : '';
    await writeFileAtomic(out, encodePng(picture.pixels, picture));
    const { step } = checkpoint.progress;
    process.stdout.write(
      `${out}: ${Math.min(n, dataset.size)} images of ${dataset.name}, each above its reconstruction by step ${step}${replaced}\n`,
    );
  } finally {
    await dataset.close?.();
    gpu.close();
  }
}
