import type { Dataset } from '../../data/dataset.ts';
import type { Gpu } from '../../gpu/device.ts';
import { readCheckpoint } from '../checkpoint.ts';
import type { TrainConfig } from '../options.ts';
import type { TrainEvents } from '../trainer.ts';
import { messageOf } from '../../util/errors.ts';
import { distanceOf, keepBest } from './best.ts';
import { evaluateCheckpoint } from './evaluate.ts';
import type { Evaluation } from './evaluate.ts';
import { appendEvaluation, readEvaluations, rewindEvaluations } from './lines.ts';
import type { OnWork } from './dots.ts';
import type { MetricName } from './measure.ts';
import { openExtractor } from './open-extractor.ts';
import { evaluatesAt } from './schedule.ts';

export interface DuringTraining {
  readonly run: string;
  readonly config: TrainConfig;
  readonly cacheDir: string;
  /** Set when the run is to stop: then nothing is measured any more. */
  readonly stop?: { readonly requested: boolean };
  /** The device and the data of the run, asked for at each evaluation. */
  readonly gpu: () => Gpu;
  readonly dataset: () => Dataset;
  readonly onWork?: ((what: string) => OnWork) | undefined;
  readonly log?: ((line: string) => void) | undefined;
  /** Takes each evaluation, and the best so far. */
  readonly onEvaluation?: (evaluation: Evaluation, best: Evaluation | undefined) => void;
}

/** What is measured while training: all that there is. */
const metrics: readonly MetricName[] = ['fd', 'kid', 'is', 'pr'];

class Stopped extends Error {}

/**
 * An observer that evaluates every `evalEvery` steps: the checkpoint, as it is read back from its file, so that it gives the
 * numbers that `wgsagan eval` gives, and no bit of the training is touched. Adds a line to eval.jsonl and keeps the best
 * checkpoint. An evaluation that cannot be made is left out with a line, and the training goes on; one that a stop cut short is
 * made when the run goes on.
 */
export function evaluationDuring(options: DuringTraining): TrainEvents {
  const { run, config, gpu, dataset, cacheDir, log, onEvaluation, stop } = options;
  const onWork = (what: string): OnWork => {
    const told = options.onWork?.(what);
    return (done, total) => {
      if (stop?.requested === true) throw new Stopped('the run is to stop');
      told?.(done, total);
    };
  };
  const evaluated = (path: string): Promise<Evaluation> =>
    gpu().loans.during(async () => {
      const training = onWork('training a classifier on the images: step');
      const inception = config.evalInception;
      const source = { cacheDir, log, inception, onWork: training };
      const extractor = await openExtractor(gpu(), dataset(), source);
      const checkpoint = await readCheckpoint(path);
      const what = { dataset: dataset(), extractor };
      const how = {
        n: config.evalSamples,
        generator: 'ema' as const,
        metrics,
        cacheDir,
        onWork,
        log,
      };
      try {
        return await evaluateCheckpoint(gpu(), checkpoint, what, how);
      } finally {
        extractor.close();
      }
    });
  const onCheckpoint = async (path: string, step: number): Promise<void> => {
    if (!evaluatesAt(step, config) || stop?.requested === true) return;
    let evaluation: Evaluation;
    try {
      evaluation = await evaluated(path);
    } catch (error) {
      log?.(`evaluation of step ${step} left out: ${messageOf(error)}`);
      return;
    }
    // A run that was resumed from a step before this one comes to it again, to the same numbers.
    await rewindEvaluations(run, step - 1);
    const best = await keepBest(run, evaluation);
    // The line last: it says that the best is kept too.
    await appendEvaluation(run, evaluation);
    onEvaluation?.(evaluation, best);
  };
  return {
    onCheckpoint,
    onResume: async (path, step) => {
      if (lacksEvaluation(run, step, config)) await onCheckpoint(path, step);
    },
  };
}

/** Is a step to be evaluated, and was the run ended before it was? `wgsagan eval` may have measured it in another way. */
export function lacksEvaluation(run: string, step: number, config: TrainConfig): boolean {
  const isIt = (line: Evaluation) =>
    line.step === step && line.generator === 'ema' && line.n === config.evalSamples;
  return evaluatesAt(step, config) && !readEvaluations(run).some(isIt);
}

/** An evaluation in a line for people. */
export function evaluationLine(evaluation: Evaluation, best: Evaluation | undefined): string {
  const { fid, kid, precision, recall, seconds } = evaluation;
  const parts = [
    `${fid === undefined ? 'FD' : 'FID'} ${distanceOf(evaluation).toFixed(3)}`,
    ...(kid === undefined ? [] : [`KID ${kid.toFixed(4)}`]),
    ...(precision === undefined ? [] : [`precision ${precision.toFixed(2)}`]),
    ...(recall === undefined ? [] : [`recall ${recall.toFixed(2)}`]),
    best === undefined || best.step === evaluation.step
      ? 'the best so far'
      : `best ${distanceOf(best).toFixed(3)} at step ${best.step}`,
  ];
  return `${parts.join(', ')} (${seconds.toFixed(1)} s)`;
}
