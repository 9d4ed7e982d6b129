// Writes the measurements of docs/reliability.md, between its markers, from test/soak/results.
//   npx tsx test/soak/report.ts [--check]     changes nothing by --check; exit code 1 where the page is out of date
import { readFileSync } from 'node:fs';
import { format } from 'prettier';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import type { FuzzCount } from '../fuzz/files.ts';
import type { Flatness } from './flat.ts';

const page = 'docs/reliability.md';
const [begin, end] = ['<!-- reliability:begin -->', '<!-- reliability:end -->'];

const read = (name: string): unknown =>
  JSON.parse(readFileSync(`test/soak/results/${name}.json`, 'utf8'));
const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
const table = (head: readonly string[], rows: readonly (readonly (string | number)[])[]) =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');

interface Kills {
  readonly kills: number;
  readonly runs: number;
  readonly same: number;
  readonly steps: number;
  readonly moments: Readonly<Record<string, number>>;
}

function killed(): string {
  const { kills, runs, same, steps, moments } = read('kill') as Kills;
  const rows = Object.entries(moments).map(([moment, times]) => [moment, times]);
  return [
    '### Killed at random moments',
    `\`npx tsx test/soak/kill.ts\`: ${kills} times \`kill -9\` over ${runs} runs of ${steps} steps of the real command, each resumed until it was done. ${same} of the ${runs} ended to the bit as the run that was never killed: checkpoint, grid and losses.`,
    table(['killed', 'times'], rows),
  ].join('\n\n');
}

interface LongRun {
  readonly steps: number;
  readonly from: number;
  readonly adapter: string;
  readonly load: number;
  readonly flatness: Readonly<Record<string, Flatness>>;
  readonly rows: readonly { readonly step: number; readonly codeBytes: number }[];
}

/** What the series of a long run are, their unit, and how many of what is counted make one. */
const series: Readonly<Record<string, readonly [string, string, number]>> = {
  gpuBytes: ['GPU bytes in use', 'KiB', 1024],
  gpuHeldBytes: ['GPU bytes held', 'KiB', 1024],
  gpuBuffers: ['GPU buffers in use', '', 1],
  bindGroups: ['bind groups kept for launches', '', 1],
  handles: ['open file handles', '', 1],
  rssBytes: ['memory of the process', 'MiB', 2 ** 20],
  heapBytes: ['of it JavaScript objects, without compiled code', 'MiB', 2 ** 20],
  arrayBytes: ['of it arrays, at the least', 'MiB', 2 ** 20],
  stepTime: ['a step by the clock, the median of 500', 'works', 1],
  stepCpu: ['a step in processor time, the median of 500', 'works', 1],
  allCpu: ['500 steps and all between them in processor time, a step', 'works', 1],
};

function long(): string {
  const { steps, from, adapter, load, flatness, rows } = read('long-run') as LongRun;
  const code = [rows.find(({ step }) => step >= from), rows.at(-1)].map((row) =>
    ((row?.codeBytes ?? NaN) / 2 ** 20).toFixed(1),
  );
  const lines = Object.entries(flatness).map(([name, one]) => {
    const { first, last, drift, interval, bound, verdict } = one;
    const [what, unit, size] = series[name] ?? [name, '', 1];
    const show = (value: number) => `${Number((value / size).toFixed(2))} ${unit}`.trim();
    const told = interval.map(percent).join(' to ');
    const flat = { flat: 'yes', 'not flat': 'no', drowned: 'drowned' }[verdict];
    return [what, show(first), show(last), percent(drift), told, percent(bound), flat];
  });
  return [
    '### A long run',
    `\`node --expose-gc --import tsx test/soak/long-run.ts\`: ${steps} steps of a tiny net through the real trainer, from a folder of images, a grid, attention maps and a report every 20 steps, a checkpoint every 250, an evaluation every 500, a line of metrics and TensorBoard's scalars every step, on ${adapter}; the machine's load was ${load.toFixed(1)}. Times are given in those of a fixed work, as many launches as a step has on a device of its own, done three times after every 20 steps, because what a shared machine gives changes: by the clock, and in processor time of all threads. The code that V8 compiles went from ${code.join(' to ')} MiB meanwhile. Drift is what the line through the points from step ${from} on gains (Theil and Sen), as a share of their median. A time is flat where all of its drift's interval of 95 % (a bootstrap of the residuals in blocks) is within the bound; where the bound is inside it, the answer drowns in the noise.`,
    table(
      ['', `at step ${from}`, `at step ${steps}`, 'drift', 'of it 95 %', 'at most', 'flat'],
      lines,
    ),
  ].join('\n\n');
}

/** Where blocks of one kind differ by more, a difference between kinds says nothing. */
const mostSpread = 0.03;

const parts = {
  memory: 'images in memory',
  cache: 'images in the cache on disk',
  decoding: 'images decoded again for every batch',
  metrics: 'a line of metrics every step',
} as const;
type Part = keyof typeof parts;

interface Overhead {
  readonly preset: string;
  readonly batch: number;
  readonly adapter: string;
  readonly load: number;
  readonly stepMs: number;
  readonly spread: number;
  readonly fileSize: number;
  readonly waited: Readonly<Record<Part, number>>;
  readonly differences: Readonly<Record<Part, number>>;
}

function overhead(): string {
  const result = read('overhead') as Overhead;
  const { preset, batch, adapter, load, stepMs, spread, fileSize, waited, differences } = result;
  const rows = (Object.keys(parts) as Part[]).map((part) => {
    const told = spread < mostSpread ? percent(differences[part]) : 'drowned';
    return [parts[part], percent(waited[part]), told];
  });
  return [
    '### Loader and metrics',
    `\`npx tsx test/soak/overhead.ts\`: ${preset}, batch ${batch}, JPEG files of ${fileSize}×${fileSize}, on ${adapter}; a step took ${stepMs.toFixed(0)} ms with a load of ${load.toFixed(0)} on the machine. The differences are between interleaved blocks with and without the part; blocks of one kind differed by ${percent(spread)}, and from ${percent(mostSpread)} on a difference drowns in that. Where the adapter is software, decoding takes the same cores as the step.`,
    table(['', 'time of a step spent in it', 'difference without it'], rows),
  ].join('\n\n');
}

interface Fuzzed {
  readonly cases: number;
  readonly seed: number;
  readonly counts: readonly FuzzCount[];
}

function fuzzed(): string {
  const { cases, seed, counts } = read('fuzz') as Fuzzed;
  const rows = counts.map(({ kind, cases: tried, refused }) => [kind, tried, refused]);
  return [
    '### Bad files',
    `\`node scripts/fuzz.mjs --cases ${cases} --seed ${seed}\`: each was read whole or refused by one line, none crashed, hung or wrote elsewhere.`,
    table(['kind', 'cases', 'refused'], rows),
  ].join('\n\n');
}

const text = readFileSync(page, 'utf8');
const [from, to] = [text.indexOf(begin), text.indexOf(end)];
if (from < 0 || to < from) throw new Error(`${page} lacks ${begin} … ${end}`);
const body = [killed(), long(), overhead(), fuzzed()].join('\n\n');
const filled = `${text.slice(0, from + begin.length)}\n\n${body}\n\n${text.slice(to)}`;
const whole = await format(filled, { parser: 'markdown', printWidth: 100 });
if (process.argv.includes('--check')) process.exitCode = whole === text ? 0 : 1;
else await writeFileAtomic(page, whole);
