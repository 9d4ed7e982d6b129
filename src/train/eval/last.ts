import { join } from 'node:path';
import type { Dataset } from '../../data/dataset.ts';
import { Loader } from '../../data/loader.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { setAsideAfter } from '../fallback.ts';
import type { TrainConfig } from '../options.ts';
import { removeTemporaries, rewindMetrics, runPaths, saveConfig, stepName } from '../run-folder.ts';
import type { TrainEvents, TrainResult } from '../trainer.ts';

/**
 * What is left of a run whose steps are all done, and that was ended in its last evaluation: tells of the last checkpoint once
 * more. Throws a `UserError` where the images are others than those it was trained on.
 */
export async function finishLast({
  run,
  config,
  last,
  dataset,
  events,
}: {
  readonly run: string;
  readonly config: TrainConfig;
  readonly last: Checkpoint;
  readonly dataset: Dataset;
  readonly events: TrainEvents;
}): Promise<TrainResult> {
  const { step, loader } = last.progress;
  if (loader !== undefined) new Loader(dataset, config).restore(loader);
  removeTemporaries(run);
  await setAsideAfter(run, last.path);
  await rewindMetrics(run, step);
  await saveConfig(run, config);
  await events.onCheckpoint?.(last.path, step);
  const samples = join(runPaths(run).samples, `step-${stepName(step)}.png`);
  return { step, why: 'finished', samples, checkpoint: last.path, wait: 0 };
}
