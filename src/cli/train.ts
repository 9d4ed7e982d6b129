import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { Command } from 'commander';
import { checkFrames, kindOfSource, openDataset } from '../data/dataset.ts';
import type { Dataset } from '../data/dataset.ts';
import { openGpu } from '../gpu/device.ts';
import type { Gpu } from '../gpu/device.ts';
import { cacheDir, hostMemoryBytes } from '../gpu/platform.ts';
import { keepReport } from '../report/observer.ts';
import { checkArchitecture, listCheckpoints, readNewestCheckpoint } from '../train/checkpoint.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { readConfigFile, resolveConfig } from '../train/config.ts';
import type { PartialConfig, TrainConfig } from '../train/options.ts';
import { together } from '../train/observers.ts';
import { refuseUsedFolder, runPaths } from '../train/run-folder.ts';
import { lockRun, unlockRun } from '../train/run-lock.ts';
import { train } from '../train/trainer.ts';
import type { TrainEvents, TrainResult } from '../train/trainer.ts';
import { UserError } from '../util/errors.ts';
import type { ExitState } from './main.ts';
import { adapterOption, addConfigOptions, configFlags, someText, wholeNumber } from './options.ts';
import { TrainDisplay } from './display.ts';
import { onInterrupt } from './signals.ts';
import { tuneFor } from './tune.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly out?: string;
  readonly config?: string;
  readonly resume?: boolean;
  readonly adapter: string;
  readonly memory?: number;
  readonly tune?: boolean;
}

export function trainCommand(state: ExitState): Command {
  const command = new Command('train')
    .description('train on a folder of images, on Fashion-MNIST, on generated avatars or clips')
    .option('--out <dir>', 'run folder: config, metrics, samples, checkpoints', someText)
    .option('--config <file>', 'YAML file of options; flags override it', someText)
    .option('--resume', 'go on from the newest checkpoint in --out, to the same bits')
    .option('--memory <MiB>', 'most GPU memory to use', wholeNumber)
    .option('--tune', 'measure first which kernels are fastest here, where that is not known yet')
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
  try {
    const saved = flags.resume === true ? await takeUp(run) : undefined;
    const config = await checkedConfig(run, [saved?.config ?? {}, file, asked], saved);
    return await trainInto(run, { config, flags, saved });
  } finally {
    unlockRun(run);
  }
}

/** What `--resume` goes on from: without a checkpoint the run was ended before its first, and begins again. */
interface Saved {
  readonly config: PartialConfig;
  readonly checkpoint: Checkpoint | undefined;
}

/** Takes the folder of a run for this process, and reads where the run stands. */
async function takeUp(run: string): Promise<Saved> {
  if (existsSync(run)) lockRun(run);
  const { config: path } = runPaths(run);
  const fresh = existsSync(path) && (await listCheckpoints(run)).length === 0;
  const checkpoint = fresh ? undefined : await readNewestCheckpoint(run);
  // Every call has a time limit of its own.
  const config = { ...(checkpoint?.config ?? readConfigFile(path)), timeLimit: undefined };
  return { config, checkpoint };
}

/** The config of the layers, and everything about it that can be checked without opening a device or the data. */
async function checkedConfig(
  run: string,
  layers: readonly Readonly<Record<string, unknown>>[],
  saved: Saved | undefined,
): Promise<TrainConfig> {
  const config = resolveConfig(...layers);
  if (saved === undefined) refuseUsedFolder(run);
  if (saved?.checkpoint !== undefined) {
    const { step } = saved.checkpoint.progress;
    checkArchitecture(saved.checkpoint, config);
    if (step >= config.steps) {
      throw new UserError(`${run} has ${step} steps already; give more by --steps to go on`);
    }
  }
  const kind = await kindOfSource(config.data);
  checkFrames(config.data, kind, config.frames);
  if (kind === 'images') refuseInside(run, config.data);
  // A run is resumed from any folder.
  const isFolder = kind === 'images' || kind === 'idx';
  return isFolder ? { ...config, data: resolve(config.data) } : config;
}

/** Refuses a run folder among the images, which would take its sample grids for more of them. */
function refuseInside(run: string, data: string): void {
  const way = relative(realpathSync(data), realPath(resolve(run)));
  if (way === '..' || way.startsWith(`..${sep}`) || isAbsolute(way)) return;
  throw new UserError(
    `--out ${run} lies in the data folder ${data}: its sample grids would become training images; choose another --out`,
  );
}

/** An absolute path without symbolic links, as far as it is there. */
function realPath(path: string): string {
  return existsSync(path) ? realpathSync(path) : join(realPath(dirname(path)), basename(path));
}

async function trainInto(
  run: string,
  { config: asked, flags, saved }: { config: TrainConfig; flags: Flags; saved: Saved | undefined },
): Promise<TrainResult> {
  const display = new TrainDisplay(asked);
  // How many classes there are has a part in the nets, and only the data tell it.
  const counted =
    asked.conditional && asked.classes === 0 ? await openDataOf(asked, display) : undefined;
  const config = counted === undefined ? asked : withClasses(asked, counted);
  if (flags.tune === true) await tuneFor(config, { adapter: flags.adapter });
  const gpu = await openGpu({
    adapter: flags.adapter,
    tuned: tunedChoices,
    ...(flags.memory === undefined ? {} : { memoryBytes: flags.memory * 2 ** 20 }),
  });
  const stop = { requested: false };
  const quit = () => {
    display.close();
    unlockRun(run);
    process.exit(130);
  };
  const release = onInterrupt(() => {
    if (!display.ready) quit();
    stop.requested = true;
    display.log('stopping: finishing this step and saving (again to quit at once)');
  }, quit);
  try {
    display.device(gpu.adapter);
    if (saved !== undefined && saved.checkpoint === undefined) {
      display.log(`resumed   at step 0, from config.yaml: ${run} has no checkpoint yet`);
    }
    const openData = () =>
      openBeside(gpu, flags, async () => counted ?? (await openDataOf(config, display)));
    const resume = saved?.checkpoint;
    const events = together(display, reporting(run, gpu));
    const result = await train({ gpu, openData, config, run, resume, stop, events });
    display.finish(result, { run, paths: runPaths(run) });
    return result;
  } finally {
    display.close();
    release();
    gpu.close();
  }
}

/** Writes the report of a run, anew whenever there are new pictures. */
function reporting(run: string, gpu: Gpu): TrainEvents {
  const report = keepReport(run, gpu.adapter);
  return { onReady: report.begin, onSamples: report.write };
}

/** The config that tells both nets the classes of the data. Throws a `UserError` where there is but one. */
function withClasses(config: TrainConfig, { classes, name }: Dataset): TrainConfig {
  if (classes.length < 2) {
    throw new UserError(
      `--conditional: ${name} is of one class; put its images into a folder for each class, or leave --conditional out`,
    );
  }
  return { ...config, classes: classes.length };
}

/** Opens the data, and takes the memory that they fill from what the device was to have, unless that was said. */
async function openBeside(gpu: Gpu, flags: Flags, open: () => Promise<Dataset>): Promise<Dataset> {
  const before = hostMemoryBytes().available;
  const dataset = await open();
  const filled = Math.max(0, before - hostMemoryBytes().available);
  if (flags.memory === undefined) gpu.pool.budgetBytes -= filled;
  return dataset;
}

async function openDataOf(config: TrainConfig, display: TrainDisplay): Promise<Dataset> {
  const dataset = await openDataset(config.data, {
    imageSize: config.imageSize,
    channels: config.channels,
    frames: config.frames,
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
