import { Command } from 'commander';
import { openGpu } from '../gpu/device.ts';
import { importRun } from '../train/import.ts';
import type { Imported } from '../train/import.ts';
import { otherNetOf } from '../train/nets.ts';
import { shellQuote } from '../util/quote.ts';
import type { ExitState } from './main.ts';
import { adapterOption, addStepOptions, someText, stepConfig } from './options.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly out: string;
  readonly discriminator?: string;
  readonly encoder?: string;
  readonly adapter: string;
}

export function importCommand(_state: ExitState): Command {
  const command = new Command('import')
    .description("make a run of PyTorch's weights: sample from it, or train on from it")
    .argument(
      '<file>',
      "the generator's state dict as safetensors; names may begin with module., netG. and the like",
      someText,
    )
    .requiredOption('--out <dir>', 'run folder to make', someText)
    .option(
      '--discriminator <file>',
      "the discriminator's state dict, perhaps in the same file; fresh from --seed otherwise",
      someText,
    )
    .option(
      '--encoder <file>',
      "the same for a VAE's encoder: its generator is the decoder",
      someText,
    )
    .addOption(adapterOption());
  addStepOptions(command);
  return command.action(async (file: string, options: Flags & Record<string, unknown>) => {
    await importFrom(file, options);
  });
}

async function importFrom(file: string, flags: Flags & Record<string, unknown>): Promise<void> {
  const config = stepConfig(flags);
  const { out, discriminator, encoder } = flags;
  const net = otherNetOf(config.preset);
  const gpu = await openGpu({ adapter: flags.adapter, tuned: tunedChoices });
  try {
    const options = { config, generator: file, discriminator, encoder };
    const { generator, ...others } = await importRun(gpu, out, options);
    const other = others[net];
    const fresh = `fresh, from --seed ${config.seed}`;
    const run = shellQuote(out);
    const lines = [
      `${out}: a run of ${config.preset} at step 0`,
      `generator      ${told(generator, file)}; its average is the same`,
      `${net.padEnd(13)}  ${other === undefined ? fresh : told(other, flags[net] ?? file)}`,
      'optimisers     fresh: a state dict has no moments',
      `next           wgsagan sample --run ${run}`,
      `               wgsagan train --resume --out ${run} --data …`,
    ];
    process.stdout.write(`${lines.join('\n')}\n`);
  } finally {
    gpu.close();
  }
}

function told({ prefix, tensors, others }: Imported, file: string): string {
  const under = prefix === '' ? '' : ` under ${prefix}`;
  const rest = others === 0 ? '' : `, ${others} others left aside`;
  return `${tensors} tensors of ${file}${under}${rest}`;
}
