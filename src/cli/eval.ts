import { dirname, resolve } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { openDataset } from '../data/dataset.ts';
import type { Dataset } from '../data/dataset.ts';
import { openGpu } from '../gpu/device.ts';
import { cacheDir } from '../gpu/platform.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { checkpointFolder } from '../train/checkpoint.ts';
import { dataOptions } from '../train/data-options.ts';
import type { TrainConfig } from '../train/options.ts';
import { evaluateCheckpoint, refuseEvaluation } from '../train/eval/evaluate.ts';
import { appendEvaluation } from '../train/eval/lines.ts';
import { metricNames } from '../train/eval/measure.ts';
import type { MetricName } from '../train/eval/measure.ts';
import { openExtractor } from '../train/eval/open-extractor.ts';
import { evaluationTable } from '../train/eval/table.ts';
import { UserError } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';
import { checkWritable } from './files.ts';
import { addGeneratorOptions, openChosen } from './generator.ts';
import type { GeneratorFlags } from './generator.ts';
import type { ExitState } from './main.ts';
import { adapterOption, positiveInt, someText } from './options.ts';
import { Progress } from './progress.ts';
import { tunedChoices } from './tuned.ts';

interface Flags extends GeneratorFlags {
  readonly data?: string;
  readonly n: number;
  readonly metrics: readonly MetricName[];
  readonly classifier?: string;
  readonly inception?: string;
  readonly json?: string;
  readonly adapter: string;
}

export function evalCommand(_state: ExitState): Command {
  const command = new Command('eval').description(
    'measure how far the images of a run are from real ones',
  );
  return addGeneratorOptions(command)
    .option('--data <source>', 'real images, as for train; default the run’s own', someText)
    .option('--n <count>', 'images to make, and real ones to hold them against', positiveInt, 2048)
    .option(
      '--metrics <names>',
      `some of ${metricNames.join(', ')}; pr: precision, recall, density, coverage`,
      parseMetrics,
      metricNames,
    )
    .option('--classifier <file>', 'classifier that another machine trained', someText)
    .option(
      '--inception <file>',
      "measure in Inception's features, with weights that scripts/convert-inception.py wrote",
      someText,
    )
    .option(
      '--json <file>',
      'write the result there too; a file that is there is replaced',
      someText,
    )
    .addOption(adapterOption())
    .action(async (flags: Flags) => {
      await evaluate(flags);
    });
}

function parseMetrics(text: string): readonly MetricName[] {
  const known: readonly string[] = metricNames;
  const names = text.split(',');
  for (const name of names) {
    if (!known.includes(name)) {
      throw new InvalidArgumentError(unknownWord(name, metricNames, metricNames.join(', ')));
    }
  }
  return names as MetricName[];
}

async function evaluate(flags: Flags): Promise<void> {
  const { run, n, metrics, classifier, inception, json, adapter } = flags;
  if (json !== undefined) checkWritable('--json', json, 'the result', 'json');
  if (classifier !== undefined && inception !== undefined) {
    throw new UserError('--classifier and --inception cannot be given together: one of them sees');
  }
  const { checkpoint, weights: generator } = await openChosen(flags);
  refuseEvaluation(checkpoint.config);
  const progress = new Progress();
  const onWork = (what: string) => (done: number, total: number) => {
    progress.show(`${what}: ${done} of ${total}`);
  };
  const log = (line: string) => {
    progress.clear();
    process.stderr.write(`${line}\n`);
  };
  const source = flags.data ?? checkpoint.config.data;
  const dataset = await openRealImages(source, checkpoint.config, { onWork, log });
  const gpu = await openGpu({ adapter, tuned: tunedChoices });
  try {
    const from = { cacheDir: cacheDir(), log };
    const training = onWork('training a classifier on the real images: step');
    const extractor = await openExtractor(gpu, dataset, {
      ...from,
      ...{ classifier, inception, onWork: training },
    });
    const evaluation = await evaluateCheckpoint(
      gpu,
      checkpoint,
      { dataset, extractor },
      { ...from, n, generator, metrics, onWork },
    );
    extractor.close();
    progress.clear();
    // Whose step another run's checkpoint is, is not this run's.
    if (resolve(dirname(checkpoint.path)) === resolve(checkpointFolder(run))) {
      await appendEvaluation(run, evaluation);
    }
    if (json !== undefined) await writeFileAtomic(json, `${JSON.stringify(evaluation, null, 2)}\n`);
    process.stdout.write(`${evaluationTable(evaluation)}\n`);
  } finally {
    progress.clear();
    await dataset.close?.();
    gpu.close();
  }
}

/** The real images of a run as its nets were shown them. */
function openRealImages(
  source: string,
  config: TrainConfig,
  tell: {
    onWork: (what: string) => (done: number, total: number) => void;
    log: (line: string) => void;
  },
): Promise<Dataset> {
  return openDataset(source, {
    ...dataOptions(config),
    ...{ cacheDir: cacheDir(), log: tell.log },
    onProgress: ({ stage, done, total }) => {
      tell.onWork(stage)(done, total ?? done);
    },
  });
}
