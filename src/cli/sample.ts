import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { openGpu } from '../gpu/device.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng, imageGrid } from '../io/png.ts';
import { readNewestCheckpoint } from '../train/checkpoint.ts';
import { sampleCheckpoint } from '../train/sample.ts';
import { UserError } from '../util/errors.ts';
import type { ExitState } from './main.ts';
import { adapterOption, positiveInt, wholeNumber } from './options.ts';

interface Flags {
  readonly run: string;
  readonly n: number;
  readonly seed: number;
  readonly out: string;
  readonly weights: string;
  readonly adapter: string;
}

export function sampleCommand(_state: ExitState): Command {
  return new Command('sample')
    .description('draw a grid of images from a run')
    .requiredOption('--run <dir>', 'run folder that train wrote')
    .option('--n <count>', 'images', positiveInt, 64)
    .option('--seed <number>', 'seed of the latents', wholeNumber, 1)
    .option('--out <file>', 'PNG to write', 'grid.png')
    .option('--weights <which>', 'ema (averaged, default) or last', 'ema')
    .addOption(adapterOption())
    .action(async (flags: Flags) => {
      await sample(flags);
    });
}

async function sample(flags: Flags): Promise<void> {
  const { run, n, seed, weights, out } = flags;
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  if (weights !== 'ema' && weights !== 'last') {
    throw new UserError(`--weights ${weights} is unknown; there are ema and last`);
  }
  const checkpoint = await readNewestCheckpoint(run);
  const { channels, imageSize } = checkpoint.config;
  const gpu = await openGpu({ adapter: flags.adapter });
  try {
    const images = await sampleCheckpoint(gpu, checkpoint, { n, seed, weights });
    const grid = imageGrid(images, { n, channels, height: imageSize, width: imageSize });
    await writeFileAtomic(out, encodePng(grid.pixels, grid));
    process.stdout.write(
      `${out}: ${n} images of ${imageSize}×${imageSize} from step ${checkpoint.progress.step} (${weights} weights, seed ${seed})\n`,
    );
  } finally {
    gpu.close();
  }
}
