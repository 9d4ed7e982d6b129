import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import pc from 'picocolors';
import { openGpu } from '../gpu/device.ts';
import { keepReport } from '../report/observer.ts';
import type { ReportKeeper } from '../report/observer.ts';
import { optionName } from '../train/check.ts';
import { refuseUsedFolder, runPaths } from '../train/run-folder.ts';
import { lockRun, unlockRun } from '../train/run-lock.ts';
import { checkSameRun, readSaved } from '../train/seq2seq/checkpoint.ts';
import type { Saved } from '../train/seq2seq/checkpoint.ts';
import { openPairs, resolveSeq2Seq, seq2seqSchema } from '../train/seq2seq/config.ts';
import type { Seq2SeqConfig, Seq2SeqKey } from '../train/seq2seq/config.ts';
import { trainSeq2Seq } from '../train/seq2seq/trainer.ts';
import type {
  Seq2SeqEvents,
  Seq2SeqLine,
  Seq2SeqReady,
  Seq2SeqResult,
} from '../train/seq2seq/trainer.ts';
import { UserError } from '../util/errors.ts';
import { shellQuote } from '../util/quote.ts';
import type { ExitState } from './main.ts';
import { adapterOption, someText, toNumber } from './options.ts';
import { Progress } from './progress.ts';
import { codeOfRun, codeOfSignal, onInterrupt } from './signals.ts';
import type { Stop } from './signals.ts';
import { tunedChoices } from './tuned.ts';

interface Flags {
  readonly out: string;
  readonly resume?: boolean;
  readonly adapter: string;
}

const keys = Object.keys(seq2seqSchema.shape) as Seq2SeqKey[];
const textKeys = new Set<Seq2SeqKey>(['task', 'pairs', 'tokens', 'decay']);

export function seq2seqCommand(state: ExitState): Command {
  const command = new Command('seq2seq')
    .description('train a Transformer to translate sequences: a generated task, or pairs of a file')
    .requiredOption('--out <dir>', 'run folder: config, metrics, checkpoints', someText)
    .option('--resume', 'go on from the newest checkpoint in --out, to the same bits')
    .addOption(adapterOption());
  for (const key of keys) {
    const text = textKeys.has(key);
    const value = key === 'pairs' ? 'file' : text ? 'name' : 'number';
    const option = new Option(
      `--${optionName(key)} <${value}>`,
      seq2seqSchema.shape[key].description ?? '',
    );
    command.addOption(text ? option : option.argParser(toNumber));
  }
  return command.action(async (flags: Flags & Record<string, unknown>) => {
    const asked = Object.fromEntries(keys.map((key) => [key, flags[key]]));
    const result = await train(flags, asked);
    state.code = codeOfRun(result.why, result.signal);
  });
}

async function train(flags: Flags, asked: Readonly<Record<string, unknown>>): Promise<Ended> {
  const run = flags.out;
  try {
    if (flags.resume === true && existsSync(run)) lockRun(run);
    const saved = flags.resume === true ? await readSaved(run) : undefined;
    const config = checkedConfig(run, asked, saved);
    return await trainInto(run, { config, flags, saved });
  } finally {
    unlockRun(run);
  }
}

/** The config, and everything about it that can be checked without the pairs or a device. */
function checkedConfig(
  run: string,
  asked: Readonly<Record<string, unknown>>,
  saved: Saved | undefined,
): Seq2SeqConfig {
  // Every call has a time limit of its own.
  const config = resolveSeq2Seq({ ...saved?.config, timeLimit: undefined }, asked);
  if (saved === undefined) refuseUsedFolder(run);
  if (saved?.checkpoint !== undefined) {
    const { step } = saved.checkpoint;
    checkSameRun(saved.checkpoint, config);
    if (step >= config.steps) {
      throw new UserError(`${run} has ${step} steps already; give more by --steps to go on`);
    }
  }
  // A run is resumed from any folder.
  return { ...config, ...(config.pairs !== undefined && { pairs: resolve(config.pairs) }) };
}

/** How a run ended, and the signal that stopped it. */
type Ended = Seq2SeqResult & Pick<Stop, 'signal'>;

interface Parts {
  readonly config: Seq2SeqConfig;
  readonly flags: Flags;
  readonly saved: Saved | undefined;
}

async function trainInto(run: string, { config: asked, flags, saved }: Parts): Promise<Ended> {
  const resume = saved?.checkpoint;
  const pairs = openPairs(asked);
  const config = { ...asked, length: pairs.length, heldOut: pairs.heldOut.length };
  const display = new Display(config);
  display.log(`pairs     ${pairs.description}`);
  const gpu = await openGpu({ adapter: flags.adapter, tuned: tunedChoices });
  const stop: Stop = { requested: false };
  const quit = (signal: NodeJS.Signals) => {
    unlockRun(run);
    process.exit(codeOfSignal(signal));
  };
  const release = onInterrupt((signal) => {
    if (!display.ready) quit(signal);
    Object.assign(stop, { requested: true, signal });
    display.log('stopping: finishing this step and saving (^C again quits at once)');
  }, quit);
  try {
    display.log(`adapter   ${gpu.adapter.name} (${gpu.adapter.kind})`);
    for (const message of saved?.refused ?? []) {
      display.log(`damaged   ${message}; it is set aside, and the one before it taken`);
    }
    if (saved !== undefined && resume === undefined) {
      display.log(`resumed   at step 0, from config.yaml: ${run} has no checkpoint yet`);
    }
    const events = reporting(display, keepReport(run, gpu.adapter));
    const result = await trainSeq2Seq({ gpu, pairs, config, run, resume, stop, events });
    display.finish(result, run);
    return { ...result, signal: stop.signal };
  } finally {
    release();
    gpu.close();
  }
}

/** What the display is told, and the report anew with every checkpoint. */
function reporting(display: Display, report: ReportKeeper): Seq2SeqEvents {
  return {
    onReady: (info) => {
      display.onReady(info);
      return report.begin();
    },
    onStep: (step) => {
      display.onStep(step);
    },
    onLine: (line) => {
      display.onLine(line);
    },
    onCheckpoint: () => report.write(),
  };
}

/** What the command shows while it trains. */
class Display implements Seq2SeqEvents {
  readonly #config: Seq2SeqConfig;
  readonly #progress = new Progress(process.stdout);
  #firstStep = 0;
  #started = performance.now();
  #line: Seq2SeqLine | undefined;
  /** Is there a step to finish, and something to save? */
  ready = false;

  constructor(config: Seq2SeqConfig) {
    this.#config = config;
  }

  log(text: string): void {
    this.#progress.clear();
    process.stdout.write(`${text}\n`);
  }

  onReady(info: Seq2SeqReady): void {
    this.ready = true;
    this.#firstStep = info.firstStep;
    const { dModel, layers, heads, batch, length } = this.#config;
    this.log(
      `model     ${(info.parameters / 1e6).toFixed(2)} M parameters: ${layers} + ${layers} layers of ${dModel}, ${heads} heads`,
    );
    this.log(
      `step      batch ${batch} of up to ${length}, ${info.launches} launches, ${info.gflopPerStep.toFixed(2)} GFLOP, ` +
        `${(info.plannedBytes / 2 ** 20).toFixed(0)} MiB planned`,
    );
    if (info.firstStep > 0) this.log(`resumed   at step ${info.firstStep}`);
    this.#started = performance.now();
  }

  onStep(step: number): void {
    const done = step - this.#firstStep;
    const elapsed = (performance.now() - this.#started) / 1000;
    const { steps, timeLimit = Infinity } = this.#config;
    const left = Math.min((steps - step) * (elapsed / done), timeLimit * 60 - elapsed);
    const loss = this.#line?.loss === undefined ? '' : `  loss ${this.#line.loss.toFixed(3)}`;
    const time = `${Math.max(0, Math.round(left))} s left`;
    this.#progress.show(`step ${step}/${steps}${loss}  ${time}`);
  }

  onLine(line: Seq2SeqLine): void {
    if (line.exact === undefined) this.#line = line;
    else this.log(`step ${line.step}  ${exactly(line.exact)} of the held-out pairs exact`);
  }

  finish(result: Seq2SeqResult, run: string): void {
    const how = {
      finished: `finished ${result.step} steps`,
      stopped: `stopped after step ${result.step}, saved`,
      time: `time is up after step ${result.step}, saved`,
    }[result.why];
    const folder = shellQuote(run);
    const more = result.why === 'finished' ? ` --steps ${2 * result.step}` : '';
    const examples = result.examples.map(
      ({ source, target, found }) =>
        `  ${source} → ${found}${found === target ? '' : pc.red(`   (it is ${target})`)}`,
    );
    const measured =
      result.exact === undefined
        ? []
        : [
            `held out    ${exactly(result.exact)} of ${this.#config.heldOut} pairs exact, decoded greedily`,
            ...examples,
          ];
    this.log(
      [
        ...['', pc.bold(how), ...measured],
        `losses      ${runPaths(run).losses}`,
        `report      ${runPaths(run).report}`,
        `run folder  ${run}`,
        `go on       npx wgsagan seq2seq --out ${folder} --resume${more}`,
        `translate   npx wgsagan translate --run ${folder} ${shellQuote(result.examples[0]?.source ?? 'text')}`,
      ].join('\n'),
    );
  }
}

function exactly(part: number): string {
  return `${(100 * part).toFixed(2)} %`;
}
