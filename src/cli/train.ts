import { Command } from 'commander';
import { openDataset } from '../data/dataset.ts';
import type { Dataset } from '../data/dataset.ts';
import { openGpu } from '../gpu/device.ts';
import { cacheDir } from '../gpu/platform.ts';
import { checkArchitecture, readNewestCheckpoint } from '../train/checkpoint.ts';
import { readConfigFile, resolveConfig } from '../train/config.ts';
import type { TrainConfig } from '../train/config.ts';
import { refuseUsedFolder, runPaths } from '../train/run-folder.ts';
import { train } from '../train/trainer.ts';
import type { TrainResult } from '../train/trainer.ts';
import { UserError } from '../util/errors.ts';
import type { ExitState } from './main.ts';
import { adapterOption, addConfigOptions, configFlags, wholeNumber } from './options.ts';
import { TrainDisplay } from './display.ts';

interface Flags {
  readonly out?: string;
  readonly config?: string;
  readonly resume?: boolean;
  readonly adapter: string;
  readonly memory?: number;
}

export function trainCommand(state: ExitState): Command {
  const command = new Command('train')
    .description('train on a folder of images, on Fashion-MNIST or on generated avatars')
    .option('--out <dir>', 'run folder: config, metrics, samples, checkpoints')
    .option('--config <file>', 'YAML file of options; flags override it')
    .option('--resume', 'go on from the newest checkpoint in --out, to the same bits')
    .option('--memory <MiB>', 'most GPU memory to use', wholeNumber)
    .addOption(adapterOption());
  addConfigOptions(command);
  command.action(async (options: Flags & Record<string, unknown>) => {
    const result = await runTraining(options, configFlags(options));
    if (result.why === 'stopped') state.code = 130;
  });
  return command;
}

/** Everything from flags to a finished run; prints as it goes. */
export async function runTraining(
  flags: Flags,
  asked: Readonly<Record<string, unknown>>,
): Promise<TrainResult> {
  const file = flags.config === undefined ? {} : readConfigFile(flags.config);
  if (flags.out === undefined) throw new UserError('--out is missing: name a folder for the run');
  const run = flags.out;
  const resume = flags.resume === true ? await readNewestCheckpoint(run) : undefined;
  const config = resolveConfig(resume?.config ?? {}, file, asked);
  if (resume === undefined) refuseUsedFolder(run);
  else checkArchitecture(resume, config);

  const display = new TrainDisplay(config);
  const dataset = await openData(config, display);
  const gpu = await openGpu({
    adapter: flags.adapter,
    ...(flags.memory === undefined ? {} : { memoryBytes: flags.memory * 2 ** 20 }),
  });
  const stop = { requested: false };
  const release = onInterrupt(stop, display);
  try {
    display.device(gpu.adapter);
    const result = await train({ gpu, dataset, config, run, resume, stop, events: display });
    display.finish(result, { run, paths: runPaths(run) });
    return result;
  } finally {
    display.close();
    release();
    gpu.close();
  }
}

async function openData(config: TrainConfig, display: TrainDisplay): Promise<Dataset> {
  const dataset = await openDataset(config.data, {
    imageSize: config.imageSize,
    channels: config.channels,
    cacheDir: cacheDir(),
    strict: config.strict,
    onProgress: (progress) => {
      display.dataProgress(progress);
    },
    log: (line) => {
      display.log(line);
    },
  });
  display.dataset(dataset);
  return dataset;
}

/** The first ^C (or SIGTERM) finishes the step and saves; the second quits at once. */
function onInterrupt(stop: { requested: boolean }, display: TrainDisplay): () => void {
  const handler = () => {
    if (stop.requested) process.exit(130);
    stop.requested = true;
    display.log('stopping: finishing this step and saving (again to quit at once)');
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return () => {
    process.off('SIGINT', handler);
    process.off('SIGTERM', handler);
  };
}
