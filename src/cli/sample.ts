import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { Tape } from '../autograd/tape.ts';
import { openGpu } from '../gpu/device.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng, imageGrid } from '../io/png.ts';
import { Generator } from '../models/sagan.ts';
import { loadState } from '../nn/state.ts';
import { partOf, readNewestCheckpoint } from '../train/checkpoint.ts';
import { Sampler, latents, samplerBatch } from '../train/sampler.ts';
import { UserError } from '../util/errors.ts';
import { HostRng } from '../util/philox.ts';
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
  if (!existsSync(flags.run)) throw new UserError(`there is no run folder ${flags.run}`);
  if (flags.weights !== 'ema' && flags.weights !== 'last') {
    throw new UserError(`--weights ${flags.weights} is unknown; there are ema and last`);
  }
  const checkpoint = await readNewestCheckpoint(flags.run);
  const { config, progress } = checkpoint;
  const gpu = await openGpu({ adapter: flags.adapter });
  try {
    const generator = new Generator(new Tape(gpu), config, new HostRng(config.seed));
    const part = flags.weights === 'ema' ? 'average' : 'generator';
    loadState(generator, partOf(checkpoint, part), `checkpoint ${checkpoint.path}`);
    const { latentSize, channels, imageSize } = config;
    const sampler = await Sampler.open(generator, {
      batch: samplerBatch(config.batch),
      latentSize,
    });
    if (part === 'average') {
      const trained = new Generator(new Tape(gpu), config, new HostRng(config.seed));
      loadState(trained, partOf(checkpoint, 'generator'), `checkpoint ${checkpoint.path}`);
      sampler.settle(trained);
    }
    const images = await sampler.images(latents(flags.seed, flags.n, latentSize));
    const size = { n: flags.n, channels, height: imageSize, width: imageSize };
    const grid = imageGrid(images, size);
    await writeFileAtomic(flags.out, encodePng(grid.pixels, grid));
    sampler.close();
    process.stdout.write(
      `${flags.out}: ${flags.n} images of ${imageSize}×${imageSize} from step ${progress.step} (${flags.weights} weights, seed ${flags.seed})\n`,
    );
  } finally {
    gpu.close();
  }
}
