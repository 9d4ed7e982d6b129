import { existsSync, mkdirSync } from 'node:fs';
import { extname, join } from 'node:path';
import { Command, Option } from 'commander';
import pc from 'picocolors';
import { resolveCases } from '../../bench/cases.ts';
import { slugOf } from '../../bench/environment.ts';
import { families } from '../../bench/families/all.ts';
import { precisionIn } from '../../bench/families/family.ts';
import type { CaseSizes, Family } from '../../bench/families/family.ts';
import { formatOf, formatted, formats } from '../../bench/output/formats.ts';
import type { Format } from '../../bench/output/formats.ts';
import { report } from '../../bench/report.ts';
import type { BenchResult } from '../../bench/results.ts';
import { runOverhead } from '../../bench/overhead.ts';
import { runFamily } from '../../bench/run.ts';
import { gpuSteps, runSteps, softwareSteps } from '../../bench/step.ts';
import type { StepChoice } from '../../bench/step.ts';
import { openGpu } from '../gpu/device.ts';
import type { Gpu } from '../gpu/device.ts';
import { chooseAdapter } from '../gpu/adapter.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { UserError } from '../util/errors.ts';
import { unknownWord } from '../util/nearest.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { adapterOption, positiveInt, positiveNumber, someText } from './options.ts';
import { runPeersOf } from './peers.ts';
import { tunedChoices } from './tuned.ts';

const resultsFolder = join('bench', 'results');

/** Flags of every bench. */
interface Flags {
  readonly adapter: string;
  readonly rounds: number;
  readonly format?: string;
  readonly out?: string;
  readonly save?: string | true;
  readonly robustness: boolean;
}

interface FamilyFlags extends Flags {
  readonly sizes?: string;
  readonly cases?: string;
  readonly pass?: string;
  readonly seconds: number;
  readonly tiles?: boolean;
  readonly flush: boolean;
}

export function benchCommand(_state: ExitState): Command {
  const command = new Command('bench').description(
    'measure kernels side by side, each verified before it is timed',
  );
  for (const family of families) command.addCommand(familyCommand(family));
  command.addCommand(stepCommand()).addCommand(overheadCommand());
  command.addCommand(reportCommand()).addCommand(peersCommand());
  return command;
}

function familyCommand(family: Family): Command {
  const numbers = family.axes.filter((axis) => axis.words === undefined).map((axis) => axis.name);
  const command = new Command(family.name)
    .description(family.help)
    .option('--sizes <list>', `cases between commas, each ${numbers.join('x')}`, someText)
    .option('--cases <file>', `YAML or JSON: a list of records of ${numbers.join(', ')}`, someText);
  for (const { name, help, words, usual } of family.axes) {
    const known = words === undefined ? '' : ` (${words.join(', ')})`;
    const needed = usual === undefined ? '' : '; has a usual value';
    const text = `${help}${known}, between commas: every case with each${needed}`;
    command.option(`--${name} <list>`, text, someText);
  }
  const passes = family.passes.map((pass) => pass.name).join(',');
  command
    .option('--pass <list>', `of ${passes}; all if left out`, someText)
    .option('--seconds <number>', 'most seconds for the samples of a case', positiveNumber, 3)
    .option('--tiles', 'every legal tile of every rung')
    .option('--no-flush', 'leave the caches warm between samples');
  addCommon(command, 10);
  command.action(async (flags: FamilyFlags & Readonly<Record<string, unknown>>) => {
    await runLadders(family, flags);
  });
  return command;
}

function addCommon(command: Command, rounds: number): void {
  command
    .option('--rounds <count>', 'samples of each', positiveInt, rounds)
    .option('--no-robustness', 'let shaders read past the end of a buffer')
    .option('--format <name>', `${formats.join(', ')}; else as --out ends, else a table`)
    .option('--out <file>', 'write there instead of printing', someText)
    .addOption(
      new Option(
        '--save [dir]',
        `keep the JSON as <bench>-<adapter>.json; default ${resultsFolder}`,
      ).preset(resultsFolder),
    )
    .addOption(adapterOption());
}

const axesOf = (family: Family, flags: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(
    family.axes.flatMap(({ name }) => {
      const value = flags[name];
      return typeof value === 'string' ? [[name, value] as const] : [];
    }),
  );

async function runLadders(
  family: Family,
  flags: FamilyFlags & Readonly<Record<string, unknown>>,
): Promise<void> {
  const format = formatFor(flags);
  const { sizes, cases: file, pass, rounds, seconds, flush, tiles = false } = flags;
  const choice = {
    axes: axesOf(family, flags),
    ...(sizes === undefined ? {} : { sizes }),
    ...(file === undefined ? {} : { file }),
  };
  // What is wrong with the cases is said before a device is opened.
  resolveCases(family, choice, true);
  const gpu = await openGpu(deviceOptions(flags));
  try {
    const asked = resolveCases(family, choice, gpu.adapter.kind === 'software');
    const cases = runnable(asked, gpu);
    const result = await runFamily(gpu, family, cases, {
      ...{ rounds, seconds, flush, everyTile: tiles, passes: pass?.split(',') },
      onCase: ({ label, pass: name }, place) => {
        progress(`${label}, ${name}`, place);
      },
    });
    await hand(result, flags, format);
  } finally {
    gpu.close();
  }
}

/** Cases of tensors that the device cannot hold are left out with a line, where there are others. */
function runnable(cases: readonly CaseSizes[], gpu: Gpu): readonly CaseSizes[] {
  if (gpu.features.has('shader-f16')) return cases;
  const others = cases.filter((sizes) => precisionIn(sizes).stored !== 'f16');
  const left = cases.length - others.length;
  if (left === 0 || others.length === 0) return cases;
  process.stderr.write(
    `${left} cases of stored-f16 are left out: ${gpu.adapter.name} has no shader-f16\n`,
  );
  return others;
}

/** The format of the output; a file that cannot be written is refused before anything is measured. */
function formatFor({ format, out }: Flags): Format {
  if (out !== undefined) checkWritable('--out', out, 'it', extname(out).slice(1) || 'txt');
  return formatOf(format, out);
}

function deviceOptions(flags: Flags) {
  const toggles = flags.robustness ? [] : ['disable_robustness'];
  return { adapter: flags.adapter, toggles, tuned: tunedChoices };
}

/** A line on a terminal's stderr that the next one takes the place of; nothing in a log. */
function progress(label: string, { done, of }: { done: number; of: number }): void {
  if (!process.stderr.isTTY) return;
  const end = done === of ? '\r\x1b[K' : '';
  process.stderr.write(`\r\x1b[K${pc.dim(`${done}/${of} ${label}`)}${end}`);
}

/** Prints the result or writes it, and keeps it where that was asked for. */
async function hand(result: BenchResult, flags: Flags, format: Format): Promise<void> {
  const text = formatted(result, format);
  if (flags.out === undefined) process.stdout.write(text);
  else await writeFileAtomic(flags.out, text);
  if (flags.save === undefined) return;
  const folder = flags.save === true ? resultsFolder : flags.save;
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${result.bench}-${slugOf(result.environment.adapter)}.json`);
  await writeFileAtomic(path, formatted(result, 'json'));
  if (flags.out !== undefined || format === 'table') process.stdout.write(`kept in ${path}\n`);
}

interface StepFlags extends Flags {
  readonly preset?: string;
  readonly batch?: number;
  readonly precision?: string;
}

function stepCommand(): Command {
  const command = new Command('step').description(
    'one training step of D and G: time, launches, memory',
  );
  addStepFlags(command);
  command.action(async (flags: StepFlags) => {
    const format = formatFor(flags);
    const options = deviceOptions(flags);
    const result = await runSteps(() => openGpu(options), await choicesOf(flags), {
      rounds: flags.rounds,
      onCase: ({ preset }, place) => {
        progress(preset, place);
      },
    });
    await hand(result, flags, format);
  });
  return command;
}

function overheadCommand(): Command {
  const command = new Command('overhead')
    .description('what attention adds to a training step: with and without it, in turn')
    .option('--kind <list>', 'kinds of attention between commas', someText, 'plain');
  addStepFlags(command);
  command.action(async (flags: StepFlags & { kind: string }) => {
    const format = formatFor(flags);
    const options = deviceOptions(flags);
    const result = await runOverhead(() => openGpu(options), await choicesOf(flags), {
      rounds: flags.rounds,
      kinds: flags.kind.split(','),
      onPreset: progress,
    });
    await hand(result, flags, format);
  });
  return command;
}

function addStepFlags(command: Command): void {
  command
    .option(
      '--preset <list>',
      'presets between commas, with batch and precision where they matter: a,b:4,c:4:f16',
      someText,
    )
    .option('--batch <count>', "images of a step; the preset's own if left out", positiveInt)
    .option('--precision <list>', 'f32, f16 or both between commas: every step in each', someText);
  addCommon(command, 10);
}

/** The steps that some flags ask for; without any, those that suit the adapter. */
async function choicesOf(flags: StepFlags): Promise<readonly StepChoice[]> {
  const { summary } = await chooseAdapter(deviceOptions(flags));
  const usual = summary.kind === 'software' ? softwareSteps : gpuSteps;
  const named = flags.preset?.split(',').map(stepNamed) ?? usual;
  const { batch, precision } = flags;
  // A batch that stands by its preset's name is meant for that one.
  const own = (one: StepChoice) => flags.preset !== undefined && one.batch !== undefined;
  const sized = named.map((one) => (batch === undefined || own(one) ? one : { ...one, batch }));
  return precision === undefined ? sized : inEach(sized, precision);
}

/** `PRESET`, `PRESET:BATCH` or `PRESET:BATCH:PRECISION`. Throws a `UserError`; the preset is checked with the config. */
function stepNamed(text: string): StepChoice {
  const [preset = '', size, precision] = text.split(':');
  if (size === undefined) return { preset };
  const batch = Number(size);
  if (!Number.isSafeInteger(batch) || batch < 1) {
    throw new UserError(`--preset ${text}: ${size} is no batch, a whole number from 1`);
  }
  if (precision === undefined) return { preset, batch };
  if (precision === 'f32' || precision === 'f16') return { preset, batch, precision };
  throw new UserError(`--preset ${text}: ${unknownWord(precision, ['f32', 'f16'])}`);
}

/** Every step in each precision of a list, once. */
function inEach(choices: readonly StepChoice[], list: string): StepChoice[] {
  const precisions = list.split(',').map((word) => {
    if (word === 'f32' || word === 'f16') return word;
    throw new UserError(`--precision ${unknownWord(word, ['f32', 'f16'])}`);
  });
  const steps = choices.filter((one, i) => {
    return choices.findIndex((o) => o.preset === one.preset && o.batch === one.batch) === i;
  });
  return steps.flatMap((one) => precisions.map((precision) => ({ ...one, precision })));
}

function reportCommand(): Command {
  return new Command('report')
    .description('rewrite the tables of README.md between <!-- bench:NAME --> from kept results')
    .option('--check', 'change nothing; fail where the file is not what the results say')
    .option('--readme <file>', 'the file with the markers', someText, 'README.md')
    .option('--results <dir>', 'where the results are kept', someText, resultsFolder)
    .action(async (flags: { check?: boolean; readme: string; results: string }) => {
      const { check = false, readme, results } = flags;
      if (!existsSync(readme)) throw new UserError(`there is no ${readme}`);
      const names = await report({ readme, results, check });
      const what = names.length === 0 ? 'has no bench markers' : `holds ${names.join(', ')}`;
      process.stdout.write(`${readme} ${what}, as measured\n`);
    });
}

interface PeersFlags {
  readonly cases?: string;
  readonly peers?: string;
  readonly batch?: number;
  readonly name?: string;
  readonly rounds?: number;
  readonly quick?: boolean;
  readonly adapter: string;
}

function peersCommand(): Command {
  return new Command('peers')
    .description('the same work by other libraries, in one sitting (in a clone of the repository)')
    .option('--cases <list>', 'names of cases, or beginnings of names', someText)
    .option('--peers <list>', 'of ours, tfjs, jax, onnx, torch', someText)
    .option('--batch <count>', "images of a preset's step", positiveInt)
    .option('--name <name>', 'stands in the names of the result files', someText)
    .option('--rounds <count>', 'turns that each peer gets at a case', positiveInt)
    .option('--quick', 'fewer and shorter samples, not to be quoted')
    .addOption(adapterOption())
    .action(async ({ cases, peers, ...rest }: PeersFlags) => {
      await runPeersOf({
        ...rest,
        ...(cases === undefined ? {} : { cases: cases.split(',') }),
        ...(peers === undefined ? {} : { peers: peers.split(',') }),
      });
    });
}
