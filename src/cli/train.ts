import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { Command } from 'commander';
import { checkFrames, isPath, kindOfSource } from '../data/dataset.ts';
import type { Dataset } from '../data/dataset.ts';
import { openThreaded } from '../data/threaded.ts';
import { openGpu } from '../gpu/device.ts';
import type { Gpu } from '../gpu/device.ts';
import { cacheDir, hostMemoryBytes } from '../gpu/platform.ts';
import { keepReport } from '../report/observer.ts';
import { checkArchitecture, listCheckpoints, readCheckpoint } from '../train/checkpoint.ts';
import type { Checkpoint } from '../train/checkpoint.ts';
import { readConfigFile, resolveConfig } from '../train/config.ts';
import { dataOptions } from '../train/data-options.ts';
import { readNewestWhole } from '../train/fallback.ts';
import type { PartialConfig, TrainConfig } from '../train/options.ts';
import { trainWithRollbacks } from '../train/rollback.ts';
import { refuseUsedFolder, runPaths } from '../train/run-folder.ts';
import { lockRun, unlockRun } from '../train/run-lock.ts';
import { evaluationDuring, evaluationLine, lacksEvaluation } from '../train/eval/during.ts';
import type { DuringTraining } from '../train/eval/during.ts';
import { finishLast } from '../train/eval/last.ts';
import { together } from '../train/observers.ts';
import type { TrainEvents, TrainResult } from '../train/trainer.ts';
import type { Evaluation } from '../train/eval/evaluate.ts';
import { UserError, fail } from '../util/errors.ts';
import type { ExitState } from './main.ts';
import {
  adapterOption,
  addConfigOptions,
  configFlags,
  positiveInt,
  someText,
  wholeNumber,
} from './options.ts';
import { TrainDisplay } from './display.ts';
import { previewKind, previewOption, terminal } from './preview.ts';
import { codeOfRun, codeOfSignal, onInterrupt } from './signals.ts';
import type { Stop } from './signals.ts';
import { tuneFor } from './tune.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly out?: string;
  readonly config?: string;
  readonly resume?: boolean;
  readonly adapter: string;
  readonly memory?: number;
  readonly tune?: boolean;
  readonly every?: number;
  readonly preview?: string;
}

export function trainCommand(state: ExitState): Command {
  const command = new Command('train')
    .description('train on a folder of images, on Fashion-MNIST, on generated avatars or clips')
    .option('--out <dir>', 'run folder: config, metrics, samples, checkpoints', someText)
    .option('--config <file>', 'YAML file of options; flags override it', someText)
    .option('--resume', 'go on from the newest whole checkpoint in --out, to the same bits')
    .option('--memory <MiB>', 'most GPU memory to use', wholeNumber)
    .option('--tune', 'measure first which kernels are fastest here, where that is not known yet')
    .option('--every <number>', 'the same as --checkpoint-every', positiveInt)
    .addOption(previewOption())
    .addOption(adapterOption());
  addConfigOptions(command);
  command.action(async (options: Flags & Record<string, unknown>) => {
    const { why, signal } = await runTraining(options, {
      ...every(options),
      ...configFlags(options),
    });
    state.code = codeOfRun(why, signal);
  });
  return command;
}

/** `--every` as the option that it stands for. Throws a `UserError` where both are given and differ. */
function every({ every: steps, checkpointEvery }: Flags & { readonly checkpointEvery?: number }) {
  if (steps === undefined) return {};
  if (checkpointEvery !== undefined && checkpointEvery !== steps) {
    throw new UserError(
      `--every ${steps} and --checkpoint-every ${checkpointEvery} are one option; give one of them`,
    );
  }
  return { checkpointEvery: steps };
}

/** How a run ended, and the signal that stopped it. */
export type Ended = TrainResult & Pick<Stop, 'signal'>;

/** Everything from flags to a finished run; prints as it goes. */
export async function runTraining(
  flags: Flags,
  asked: Readonly<Record<string, unknown>>,
): Promise<Ended> {
  const file = flags.config === undefined ? {} : readConfigFile(flags.config);
  if (flags.out === undefined) throw new UserError('--out is missing: name a folder for the run');
  const run = flags.out;
  // A word that means nothing is refused before anything is made.
  previewKind(flags.preview, terminal());
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
  /** What is wrong with newer checkpoints. */
  readonly refused: readonly string[];
}

/** Takes the folder of a run for this process, and reads where the run stands. */
async function takeUp(run: string): Promise<Saved> {
  if (existsSync(run)) lockRun(run);
  const { config: path } = runPaths(run);
  const fresh = existsSync(path) && (await listCheckpoints(run)).length === 0;
  const whole = fresh ? undefined : await readNewestWhole(run, readCheckpoint);
  const { checkpoint, refused = [] } = whole ?? {};
  // Every call has a time limit of its own.
  const config = { ...(checkpoint?.config ?? readConfigFile(path)), timeLimit: undefined };
  return { config, checkpoint, refused };
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
    if (step > config.steps || (step === config.steps && !lacksEvaluation(run, step, config))) {
      throw new UserError(`${run} has ${step} steps already; give more by --steps to go on`);
    }
  }
  const kind = await kindOfSource(config.data);
  checkFrames(config.data, kind, config.frames);
  if (kind === 'images') refuseInside(run, config.data);
  const { evalInception } = config;
  if (evalInception !== undefined && !existsSync(evalInception)) {
    throw new UserError(`--eval-inception ${evalInception}: there is no such file`);
  }
  // A run is resumed from any folder.
  return {
    ...config,
    ...(isPath(kind) && { data: resolve(config.data) }),
    ...(evalInception !== undefined && { evalInception: resolve(evalInception) }),
  };
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
): Promise<Ended> {
  const display = new TrainDisplay(asked, previewKind(flags.preview, terminal()));
  // How many classes there are has a part in the nets, and only the data tell it.
  let data =
    asked.conditional && asked.classes === 0
      ? await openDataOf(asked, { run, display })
      : undefined;
  const config = data === undefined ? asked : withClasses(asked, data);
  if (flags.tune === true) await tuneFor(config, { adapter: flags.adapter });
  const stop: Stop = { requested: false };
  const quit = (signal: NodeJS.Signals) => {
    display.close();
    unlockRun(run);
    process.exit(codeOfSignal(signal));
  };
  const release = onInterrupt((signal) => {
    if (!display.ready) quit(signal);
    Object.assign(stop, { requested: true, signal });
    display.log('stopping: finishing this step and saving (^C again quits at once)');
  }, quit);
  let gpu = await open(flags);
  try {
    display.device(gpu.adapter);
    tellWhereFrom(run, saved, display);
    const opened = { gpu: () => gpu, dataset: () => data ?? fail('the data are not open') };
    const events = together(
      display,
      ...evaluations({ run, config, stop, ...opened }, display),
      reporting(run, config, gpu),
    );
    const openData = async () =>
      (data ??= await openBeside(gpu, flags, () => openDataOf(config, { run, display })));
    const resume = saved?.checkpoint;
    const parts = { run, config, events };
    let first: Gpu | undefined = gpu;
    const finish = async (last: Checkpoint) => {
      const dataset = await openData();
      display.begin();
      return finishLast({ ...parts, last, dataset });
    };
    const result =
      resume?.progress.step === config.steps
        ? await finish(resume)
        : await trainWithRollbacks({
            openGpu: async () => {
              gpu = first ?? (await open(flags));
              first = undefined;
              return gpu;
            },
            onRollback: (text) => {
              display.close();
              display.log(`rollback  ${text}`);
            },
            ...{ ...parts, resume, stop, openData },
          });
    // A run that a signal kept from its last evaluation is not done: whoever starts it again has that made.
    const cut =
      result.why === 'finished' && stop.requested && lacksEvaluation(run, result.step, config);
    const ended = cut ? { ...result, why: 'stopped' as const } : result;
    display.finish(ended, { run, paths: runPaths(run) });
    return { ...ended, signal: stop.signal };
  } finally {
    display.close();
    release();
    gpu.close();
    await data?.close?.();
  }
}

function open({ adapter, memory }: Flags): Promise<Gpu> {
  return openGpu({
    adapter,
    tuned: tunedChoices,
    ...(memory === undefined ? {} : { memoryBytes: memory * 2 ** 20 }),
  });
}

/** What a resumed run begins with, where that is not its newest checkpoint. */
function tellWhereFrom(run: string, saved: Saved | undefined, display: TrainDisplay): void {
  if (saved === undefined) return;
  const { checkpoint, refused } = saved;
  for (const message of refused) {
    display.log(`damaged   ${message}; it is set aside, and the one before it taken`);
  }
  if (checkpoint !== undefined) return;
  display.log(`resumed   at step 0, from config.yaml: ${run} has no checkpoint yet`);
}

/** What evaluates a run while it trains, where that is asked for. */
function evaluations(
  parts: Pick<DuringTraining, 'run' | 'config' | 'stop' | 'gpu' | 'dataset'>,
  display: TrainDisplay,
): TrainEvents[] {
  const { config } = parts;
  if (config.evalEvery === undefined) return [];
  const log = (line: string) => {
    display.log(line);
  };
  const onEvaluation = (evaluation: Evaluation, best: Evaluation | undefined) => {
    log(`eval      step ${evaluation.step}: ${evaluationLine(evaluation, best)}`);
  };
  const onWork = (what: string) => (done: number, total: number) => {
    display.work(what, done, total);
  };
  return [evaluationDuring({ ...parts, cacheDir: cacheDir(), log, onWork, onEvaluation })];
}

/** Writes the report of a run, anew whenever there are new pictures or an evaluation. */
function reporting(run: string, { evalEvery }: TrainConfig, { adapter }: Gpu): TrainEvents {
  const report = keepReport(run, adapter);
  const evaluated = evalEvery === undefined ? {} : { onCheckpoint: report.write };
  return { onReady: report.begin, onSamples: report.write, ...evaluated };
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

async function openDataOf(
  config: TrainConfig,
  { run, display }: { run: string; display: TrainDisplay },
): Promise<Dataset> {
  const dataset = await openThreaded(config.data, {
    ...dataOptions(config),
    ...{ run, cacheDir: cacheDir() },
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
