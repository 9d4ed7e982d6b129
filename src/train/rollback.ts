import type { Gpu } from '../gpu/device.ts';
import { writeSafetensors } from '../io/safetensors.ts';
import { optionName } from './check.ts';
import { NonFiniteError, readCheckpoint } from './checkpoint.ts';
import type { Checkpoint } from './checkpoint.ts';
import { configToYaml } from './config.ts';
import { readNewestWhole, setAsideAfter } from './fallback.ts';
import { listCheckpoints } from './checkpoint.ts';
import type { TrainConfig } from './options.ts';
import { train } from './trainer.ts';
import type { TrainOptions, TrainResult } from './trainer.ts';

/** How a run goes on after a loss that was not finite. */
export interface Rollback {
  readonly config: TrainConfig;
  readonly resume: Checkpoint;
  /** One line: what happened, and from where it goes on by which rates. */
  readonly text: string;
}

/**
 * `train`, which where the config says so is rolled back after a NaN or an infinity: to the bits of `--resume` with the
 * lower rates. Each part has a device of its own, opened by `openGpu` and closed here, so that nothing of the part before
 * is left in memory. `onRollback` is told each time.
 */
export async function trainWithRollbacks({
  openGpu,
  onRollback,
  ...options
}: Omit<TrainOptions, 'gpu'> & {
  readonly openGpu: () => Promise<Gpu>;
  readonly onRollback?: (text: string) => void;
}): Promise<TrainResult> {
  let next = { ...options, clock: { startedAt: undefined } };
  for (;;) {
    const gpu = await openGpu();
    try {
      return await train({ ...next, gpu });
    } catch (error) {
      const back = await rollBack(next.run, next.config, error);
      if (back === undefined) throw error;
      onRollback?.(back.text);
      next = { ...next, config: back.config, resume: back.resume };
    } finally {
      gpu.close();
    }
  }
}

/**
 * Lowers the rates of a run that ended in `error`, and writes them into its newest checkpoint, so that a run that is
 * killed now goes on by them too. Undefined where the error is another than a number that is not finite, where the run
 * is to stop at one or has been rolled back as often as it may, or where there is nothing to go back to.
 */
export async function rollBack(
  run: string,
  config: TrainConfig,
  error: unknown,
): Promise<Rollback | undefined> {
  const { cause } = error instanceof Error ? error : {};
  if (config.onNan !== 'rollback' || !(cause instanceof NonFiniteError)) return undefined;
  if ((await listCheckpoints(run)).length === 0) return undefined;
  const { checkpoint } = await readNewestWhole(run, readCheckpoint);
  const rollbacks = (checkpoint.progress.rollbacks ?? 0) + 1;
  if (rollbacks > config.rollbacks) return undefined;
  const { lrG, lrD, rollbackFactor } = config;
  const rates = { lrG: lrG * rollbackFactor, lrD: lrD * rollbackFactor };
  const lowered = { ...config, ...rates };
  const { path, file } = checkpoint;
  const metadata = {
    ...file.metadata,
    rollbacks: String(rollbacks),
    config: configToYaml({ ...checkpoint.config, ...rates }),
  };
  await setAsideAfter(run, path);
  await writeSafetensors(path, file.tensors, metadata, { checksum: true });
  const now = Object.entries(rates).map(([key, rate]) => `--${optionName(key)} ${rate}`);
  return {
    config: lowered,
    resume: await readCheckpoint(path),
    text: `${cause.message}; rolled back to ${path}, on with ${now.join(' ')} (${rollbacks} of at most ${config.rollbacks})`,
  };
}
