import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { openGpu } from '../gpu/device.ts';
import { readNewestCheckpoint } from '../train/checkpoint.ts';
import { checkNet, exporters, netNames } from '../train/export/weights.ts';
import type { ExportFormat, NetName } from '../train/export/weights.ts';
import { UserError } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { adapterOption, someText } from './options.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly run: string;
  readonly format: string;
  readonly out: string;
  readonly net: string;
  readonly adapter: string;
}

const formats = Object.keys(exporters) as ExportFormat[];

export function exportCommand(_state: ExitState): Command {
  return new Command('export')
    .description('write the weights of a run for PyTorch, or its generator for ONNX')
    .requiredOption('--run <dir>', 'run folder that train wrote', someText)
    .requiredOption(
      '--format <name>',
      'safetensors (a state dict of PyTorch) or onnx (the generator)',
    )
    .requiredOption('--out <file>', 'file to write; one that is there is left alone', someText)
    .option(
      '--net <name>',
      "average (of the generator), generator, discriminator, or a VAE's encoder; its generator is the decoder",
      'average',
    )
    .addOption(adapterOption())
    .action(async (flags: Flags) => {
      await exportRun(flags);
    });
}

async function exportRun({ run, out, adapter, ...asked }: Flags): Promise<void> {
  if (!existsSync(run)) throw new UserError(`there is no run folder ${run}`);
  const format = oneOf('--format', asked.format, formats);
  const net = oneOf<NetName>('--net', asked.net, netNames);
  if (format === 'onnx' && net !== 'average' && net !== 'generator') {
    throw new UserError(`--net ${net} has no form in ONNX here: only generators have`);
  }
  checkWritable('--out', out, 'the export', format);
  if (existsSync(out)) throw new UserError(`--out ${out} is there already; choose another name`);
  const checkpoint = await readNewestCheckpoint(run);
  checkNet(checkpoint.config, net);
  const gpu = await openGpu({ adapter, tuned: tunedChoices });
  try {
    const what = await exporters[format](gpu, { checkpoint, net, out });
    const { step } = checkpoint.progress;
    const { preset } = checkpoint.config;
    process.stdout.write(`${out}: ${net} of ${preset} after step ${step}, ${what}\n`);
  } finally {
    gpu.close();
  }
}

function oneOf<Name extends string>(flag: string, given: string, names: readonly Name[]): Name {
  const found = names.find((name) => name === given);
  if (found !== undefined) return found;
  throw new UserError(`${flag} ${unknownWord(given, names)}`);
}
