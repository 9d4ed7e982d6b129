import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openDataset } from '../../src/data/dataset.ts';
import type { Dataset } from '../../src/data/dataset.ts';
import { fingerprintOf } from '../../src/data/fingerprint.ts';
import { openGpu } from '../../src/gpu/device.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { cacheDir } from '../../src/gpu/platform.ts';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import { listCheckpoints, readNewestCheckpoint } from '../../src/train/checkpoint.ts';
import { resolveConfig } from '../../src/train/config.ts';
import { evaluateCheckpoint } from '../../src/train/eval/evaluate.ts';
import type { Extractor } from '../../src/train/eval/extractor.ts';
import { appendEvaluation, readEvaluations } from '../../src/train/eval/lines.ts';
import { openExtractor } from '../../src/train/eval/open-extractor.ts';
import type { TrainConfig } from '../../src/train/options.ts';
import { readMetrics } from '../../src/train/run-folder.ts';
import { lockRun, unlockRun } from '../../src/train/run-lock.ts';
import { train } from '../../src/train/trainer.ts';
import { UserError, messageOf } from '../../src/util/errors.ts';
import { environmentOf, slugOf } from '../environment.ts';
import { ablationTable, trainedOf } from './report.ts';
import type { Ablation, Trained } from './report.ts';

/*
 * Does attention help? Trains one preset with its attention block and without it, in everything else alike, for each seed, and
 * measures the averaged generators by one classifier of the data. A training that was ended goes on where it stood, and one
 * that is measured is not made again, so the command may be stopped and typed again.
 */

const usage = `node bench/ablation [--steps N] [--seeds 0,1,2] [--preset NAME] [--attention plain,none]
  [--data SOURCE] [--channels 1|3] [--n IMAGES] [--runs DIR] [--out DIR] [--adapter NAME]`;

interface Plan {
  readonly preset: string;
  readonly data: string;
  readonly channels: number;
  readonly steps: number;
  readonly seeds: readonly number[];
  readonly kinds: readonly string[];
  readonly n: number;
  /** Where the run folders are, and where the results go. */
  readonly runs: string;
  readonly out: string;
  readonly adapter: string;
}

/** Runs the ablation; resolves to the exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    await ablate(planOf(argv));
    return 0;
  } catch (error) {
    process.stderr.write(`ablation: ${messageOf(error)}\n`);
    return error instanceof UserError ? 2 : 1;
  }
}

function planOf(argv: readonly string[]): Plan {
  const text = (value: string) => ({ type: 'string' as const, default: value });
  const options = {
    ...{ steps: text('2000'), seeds: text('0,1,2'), n: text('2048'), channels: text('1') },
    ...{ preset: text('sagan-32-tiny'), attention: text('plain,none') },
    ...{ data: text('fashion-mnist'), runs: text('runs/ablation'), adapter: text('auto') },
    out: text(join('bench', 'results')),
  };
  let values: Record<keyof typeof options, string>;
  try {
    ({ values } = parseArgs({ args: [...argv], options }));
  } catch (error) {
    throw new UserError(`${messageOf(error)}\n${usage}`, { cause: error });
  }
  const whole = (name: 'steps' | 'n' | 'channels') => wholeNumber(name, values[name], 1);
  const { preset, data, runs, out, adapter } = values;
  return {
    ...{ preset, data, runs, out, adapter },
    ...{ steps: whole('steps'), n: whole('n'), channels: whole('channels') },
    seeds: values.seeds.split(',').map((seed) => wholeNumber('seeds', seed, 0)),
    kinds: values.attention.split(','),
  };
}

function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (text !== '' && Number.isSafeInteger(value) && value >= least) return value;
  throw new UserError(`--${name} "${text}" is not a whole number from ${least}`);
}

async function ablate(plan: Plan): Promise<void> {
  const { preset, data, steps, seeds, kinds, n } = plan;
  const configs = seeds.flatMap((seed) => kinds.map((kind) => configOf(plan, kind, seed)));
  const [first] = configs;
  if (first === undefined) throw new UserError('--seeds and --attention name nothing to train');
  const { imageSize, channels, batch } = first;
  const log = (line: string) => process.stdout.write(`${line}\n`);
  const dataset = await openDataset(data, { imageSize, channels, cacheDir: cacheDir(), log });
  const gpu = await openGpu({ adapter: plan.adapter });
  try {
    const source = { cacheDir: cacheDir(), log, onWork: working('training the classifier: step') };
    const extractor = await openExtractor(gpu, dataset, source);
    log(`${extractor.name}, held out ${JSON.stringify(extractor.accuracy)}`);
    const trained: Trained[] = [];
    for (const [i, config] of configs.entries()) {
      log(`[${i + 1} of ${configs.length}] ${config.attention}, seed ${config.seed}`);
      trained.push(await trainedAndMeasured(gpu, { plan, config, dataset, extractor }));
    }
    const ablation: Ablation = {
      ...{ preset, data, imageSize, steps, batch, n, real: Math.min(n, dataset.size) },
      ...{ extractor: extractor.name, weights: extractor.weightsHash, trained },
      environment: { ...environmentOf(gpu) },
    };
    await write(plan, ablation, slugOf(gpu.adapter.name));
  } finally {
    gpu.close();
  }
}

/** The options of one training: all but the attention and the seed are the same for every one. */
function configOf(plan: Plan, attention: string, seed: number): TrainConfig {
  const { preset, data, channels, steps } = plan;
  const every = { sampleEvery: steps, checkpointEvery: Math.min(steps, 500), logEvery: 50 };
  return resolveConfig({ preset, data, channels, steps, seed, attention, ...every });
}

async function trainedAndMeasured(
  gpu: Gpu,
  parts: { plan: Plan; config: TrainConfig; dataset: Dataset; extractor: Extractor },
): Promise<Trained> {
  const { plan, config, dataset, extractor } = parts;
  const { attention, seed, steps } = config;
  const { imageSize, channels, batch } = config;
  // Of other images, or of another shape, it is another run.
  const of = fingerprintOf([dataset.fingerprint, `${imageSize}×${channels}×${batch}`]).slice(0, 8);
  const run = join(plan.runs, `${plan.preset}-${steps}-${of}`, `${attention}-seed${seed}`);
  mkdirSync(join(run, '..'), { recursive: true });
  try {
    await finishTraining(gpu, { run, config, dataset });
    const done = readEvaluations(run).findLast(
      ({ step, weights, n }) => step === steps && weights === extractor.weightsHash && n === plan.n,
    );
    const evaluation = done ?? (await measured(gpu, { run, plan, dataset, extractor }));
    const seconds = readMetrics(run).at(-1)?.seconds;
    return trainedOf({ ...evaluation, attention, seed, seconds });
  } finally {
    unlockRun(run);
  }
}

/** Trains a run to its last step from wherever it stands. */
async function finishTraining(
  gpu: Gpu,
  { run, config, dataset }: { run: string; config: TrainConfig; dataset: Dataset },
): Promise<void> {
  if (existsSync(run)) lockRun(run);
  const there = (await listCheckpoints(run)).length > 0;
  const resume = there ? await readNewestCheckpoint(run) : undefined;
  if (resume !== undefined && resume.progress.step >= config.steps) return;
  const told = working('step');
  const events = {
    onStep: (step: number) => {
      told(step, config.steps);
    },
  };
  const openData = () => Promise.resolve(dataset);
  await gpu.loans.during(() => train({ gpu, openData, config, run, resume, events }));
}

async function measured(
  gpu: Gpu,
  {
    run,
    plan,
    dataset,
    extractor,
  }: { run: string; plan: Plan; dataset: Dataset; extractor: Extractor },
) {
  const checkpoint = await readNewestCheckpoint(run);
  const metrics = ['fd', 'kid', 'is', 'pr'] as const;
  const how = { n: plan.n, generator: 'ema', metrics, cacheDir: cacheDir() } as const;
  const evaluation = await evaluateCheckpoint(
    gpu,
    checkpoint,
    { dataset, extractor },
    { ...how, onWork: working },
  );
  await appendEvaluation(run, evaluation);
  return evaluation;
}

/** Milliseconds between two lines about one piece of work. */
const interval = 10_000;

/** Says now and then how far work is. */
function working(what: string) {
  let last = performance.now();
  return (done: number, total: number) => {
    if (performance.now() - last < interval) return;
    last = performance.now();
    process.stderr.write(`  ${what} ${done} of ${total}\n`);
  };
}

async function write({ out, steps, preset }: Plan, ablation: Ablation, adapter: string) {
  mkdirSync(out, { recursive: true });
  const name = join(out, `ablation-${preset}-${steps}-${adapter}`);
  const table = ablationTable(ablation);
  await writeFileAtomic(`${name}.json`, `${JSON.stringify(ablation, null, 2)}\n`);
  await writeFileAtomic(`${name}.md`, `${table}\n`);
  process.stdout.write(`\n${table}\n${name}.json and .md\n`);
}
