import { SingleBar } from 'cli-progress';
import { Command } from 'commander';
import { askedByStep, tune } from '../../bench/tune.ts';
import type { Found } from '../../bench/tune.ts';
import { shown } from '../../bench/output/sheet.ts';
import { plainTable } from '../../bench/output/text.ts';
import { openGpu } from '../gpu/device.ts';
import { resolveConfig } from '../train/config.ts';
import type { TrainConfig } from '../train/options.ts';
import type { ExitState } from './main.ts';
import { adapterOption, positiveInt, positiveNumber, someText } from './options.ts';
import { codeOfSignal, onInterrupt } from './signals.ts';
import { readTuned, writeTuned } from './tuned.ts';
import type { TunedChoice } from './tuned.ts';

interface TuneFlags {
  readonly adapter: string;
  readonly limit?: number;
  readonly force?: boolean;
}

/** Seconds: a software adapter does not get through in that, and goes on in the next call. */
const usualLimit = 300;

export function tuneCommand(state: ExitState): Command {
  return new Command('tune')
    .description("measure which kernels are fastest here for a preset's training step, and keep it")
    .option('--preset <name>', 'preset whose step is tuned', someText, 'sagan-32')
    .option('--batch <count>', "images of a step; the preset's own if left out", positiveInt)
    .option('--precision <name>', 'f32 or f16', someText, 'f32')
    .option('--limit <seconds>', 'most seconds; a later call goes on', positiveNumber, usualLimit)
    .option('--force', 'measure again what is known already')
    .addOption(adapterOption())
    .action(async (flags: TuneFlags & { preset: string; batch?: number; precision: string }) => {
      const { preset, batch, precision } = flags;
      const asked = { preset, batch, precision };
      const config = resolveConfig({ data: 'none', ...asked });
      if ((await tuneFor(config, flags)) === 'wrong') state.code = 1;
    });
}

/**
 * Tunes the operations of a training step that the adapter's cache does not know yet (all of them with `force`), prints what
 * was gained, and writes the cache. ^C ends it early; what was found is kept. `wrong` where a kernel was wrong.
 */
export async function tuneFor(config: TrainConfig, flags: TuneFlags): Promise<'right' | 'wrong'> {
  // What to tune is asked on a device of its own: the nets must not take memory from what is measured.
  const asking = await openGpu({ adapter: flags.adapter });
  const asked = askedByStep(asking, config);
  const { adapter } = asking;
  asking.close();
  const before = readTuned(adapter);
  if (before.complaint !== '' && flags.force !== true)
    process.stderr.write(`${before.complaint}\n`);
  const known: ReadonlyMap<string, TunedChoice> = flags.force === true ? new Map() : before.choices;
  const open = new Map([...asked].filter(([key]) => !known.has(key)));
  const half = config.precision === 'f32' ? '' : ` in ${config.precision}`;
  const name = `${config.preset}${half}, batch ${config.batch}, on ${adapter.name}`;
  if (open.size === 0) {
    say(`tuning    ${name}: all ${asked.size} operations are known (--force measures them again)`);
    return 'right';
  }
  say(`tuning    ${name}: ${open.size} of ${asked.size} operations`);
  const outcome = await tuneOpen(open, flags);
  // What other presets found stays, whatever was forced here.
  const choices = new Map<string, TunedChoice>(before.choices);
  for (const { key, best, ms, usualMs } of outcome.found) {
    choices.set(key, { rung: best.rung, tile: { ...best.tile }, ms, usualMs });
  }
  printGains(outcome.found, open.size);
  if (outcome.found.length > 0) say(`kept      ${await writeTuned(adapter, choices)}`);
  return outcome.wrong ? 'wrong' : 'right';
}

async function tuneOpen(open: ReturnType<typeof askedByStep>, flags: TuneFlags) {
  const gpu = await openGpu({ adapter: flags.adapter });
  const bar = process.stdout.isTTY ? openBar(open.size) : undefined;
  const stop = { requested: false };
  const release = onInterrupt(
    () => (stop.requested = true),
    (signal) => process.exit(codeOfSignal(signal)),
  );
  let wrong = false;
  try {
    const found = await tune(gpu, open, {
      limit: flags.limit ?? usualLimit,
      stop: () => stop.requested,
      onStart: ({ done, key }) => bar?.update(done, { key }),
      onWrong: (error) => {
        wrong = true;
        process.stderr.write(`${error.message}; it is not chosen\n`);
      },
    });
    return { found, wrong };
  } finally {
    bar?.stop();
    release();
    gpu.close();
  }
}

function openBar(total: number): SingleBar {
  const bar = new SingleBar({
    format: '{bar} {value}/{total}  {key}',
    barsize: 24,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    stream: process.stdout,
    clearOnComplete: true,
    hideCursor: true,
    gracefulExit: false,
  });
  bar.start(total, 0, { key: '' });
  return bar;
}

/** The operations that another kernel is faster at, and all of them together. */
function printGains(found: readonly Found[], open: number): void {
  const faster = found.filter(({ ms, usualMs }) => ms < usualMs);
  const sum = (of: (one: Found) => number) => found.reduce((total, one) => total + of(one), 0);
  const [usual, tuned] = [sum((one) => one.usualMs), sum((one) => one.ms)];
  const notes = [
    `${found.length} of ${open} measured, ${faster.length} of them faster by another kernel or tile`,
    `each once: ${shown(usual)} ms as the adapter's class has it, ${shown(tuned)} ms tuned`,
    ...(found.length < open ? ['ended early: another call goes on where this one ended'] : []),
  ];
  const tile = (choice: Found['best']) =>
    Object.entries(choice.tile).map(([name, value]) => `${name}=${value}`);
  const rows = faster.map(({ key, usual: was, best, usualMs, ms }) => [
    ...[key, was.rung, [best.rung, ...tile(best)].join(' ')],
    ...[usualMs, ms, usualMs / ms],
  ]);
  const head = ['operation', 'usual kernel', 'fastest', 'ms', 'tuned ms', 'times faster'];
  const table = plainTable({ title: 'tuned', notes, head, rows, texts: 3 });
  say(
    (rows.length === 0
      ? ['tuned', ...notes.map((note) => `  ${note}`)].join('\n')
      : table
    ).trimEnd(),
  );
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
