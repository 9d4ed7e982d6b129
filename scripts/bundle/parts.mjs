// What `gpu-run` runs, in which order and for how long, and the number of each part that its table shows.
import { join } from 'node:path';

/** Seconds for everything, and what of them goes to unpacking and to the search for a driver. */
export const TOTAL_SECONDS = 480;
export const PREPARING_SECONDS = 45;

const MIB = 2 ** 20;

/**
 * @typedef {{ read: (name: string) => string, json: (name: string) => any, log: string }} Written `read` gives the text of a
 *   file of the results folder, by name or as the first that begins so and ends in .json; it throws where there is none
 * @typedef {{ name: string, seconds: number, command: string[], cwd?: string, keep?: string,
 *   headline: (written: Written) => string }} Part `keep`: a folder that is there when the part begins, and whose
 *   pictures and tables, not its weights, are copied to the results
 * @param {{ node: string, work: string, out: string, cache: string, software: string | null, cores: number, patience: number }} where
 *   `work`: where the bundle was unpacked; `software`: the kind of the driver where there is no GPU (`lavapipe`, …), else null;
 *   `patience`: how many times as long as on a GPU everything may take
 * @returns {Part[]}
 */
export function gpuParts({ node, work, out, cache, software, cores, patience }) {
  const [app, suite] = [join(work, 'app'), join(work, 'suite')];
  const cli = [node, join(app, 'scripts', 'wgsagan.mjs')];
  const preset = software === null ? 'sagan-64' : 'sagan-32-tiny';
  const to = (name) => join(out, name);
  return [
    {
      name: 'doctor',
      seconds: 15,
      command: [...cli, 'doctor'],
      headline: ({ log }) => /^chosen +(.*)$/m.exec(log)?.[1] ?? '',
    },
    {
      name: 'dispatch',
      seconds: 15,
      command: [node, join(app, 'scripts', 'bundle', 'dispatch.mjs'), to('dispatch.json')],
      headline: ({ json }) => {
        const { chained } = json('dispatch.json');
        return `${us(chained.encodeUs)} to encode, ${us(chained.wallUs)} to run a launch`;
      },
    },
    {
      name: 'tests',
      seconds: 100,
      command: [node, ...vitest(suite), ...testFlags(software, cores), ...jsonTo(to('tests.json'))],
      cwd: suite,
      headline: testCounts,
    },
    {
      name: 'tune',
      seconds: 50,
      command: [...cli, 'tune', '--preset', preset, '--limit', '40'],
      keep: join(cache, 'wgsagan', 'tuning'),
      headline: ({ log }) => /^ *each once: (.*)$/m.exec(log)?.[1] ?? '',
    },
    ...Object.entries(BENCH_SECONDS).map(([bench, seconds]) => ({
      name: `bench-${bench}`,
      seconds,
      command: [
        ...[...cli, 'bench', bench, '--rounds', '5'],
        ...(bench === 'step' ? [] : ['--seconds', '0.4']),
        // The relatives of plain attention would take four times as long again.
        ...(bench === 'attention' ? ['--kind', 'plain'] : []),
        // Operands that tensor cores may round, and tensors of f16, beside those of f32.
        ...(software === null && IN_HALVES.has(bench) ? ['--precision', 'f32,f16,stored-f16'] : []),
        ...['--save', out, '--out', to(`bench-${bench}.svg`)],
      ],
      headline: ({ json }) => (bench === 'step' ? steps : bestRung)(json(`${bench}-`)),
    })),
    {
      name: 'profile',
      seconds: 20,
      command: [
        ...[...cli, 'profile', '--preset', preset, '--json', to('profile.json')],
        ...['--svg', to('profile-roofline.svg'), '--trace', to('profile-trace.json')],
      ],
      headline: ({ log }) => /^step +(.*)$/m.exec(log)?.[1] ?? '',
    },
    ...peers({ node, work, suite, preset, software, patience }),
    training('train-tiny', 15, { preset: 'sagan-32-tiny', cli, work }),
    // A software driver would not come to its first grid.
    ...(software === null
      ? [training('train-64-f16', 20, { preset: 'sagan-64', precision: 'f16', cli, work })]
      : []),
  ];
}

const IN_HALVES = new Set(['attention', 'matmul', 'conv']);
const BENCH_SECONDS = { attention: 28, matmul: 22, conv: 28, softmax: 8, spectral: 7, step: 27 };

const vitest = (suite) => [join(suite, '..', 'node_modules', 'vitest', 'vitest.mjs'), 'run'];
/** Each test is printed when it ends: what is slow, or hangs, is seen in the log of a part whose time was up. */
const jsonTo = (file) => ['--reporter=verbose', '--reporter=json', `--outputFile.json=${file}`];

/** A GPU serves several processes at once; a software driver takes all cores for one. */
function testFlags(software, cores) {
  const project = `--project=device-${software ?? 'auto'}`;
  const workers = Math.max(1, Math.min(4, Math.floor(cores / 2)));
  return software === null && workers > 1
    ? [project, '--fileParallelism', `--maxWorkers=${workers}`]
    : [project];
}

/** One sitting a case: what is done is kept if a later one runs out of time. */
function peers({ node, work, suite, preset, software, patience }) {
  const limit = String(Math.ceil(15 * patience));
  const sittings = [
    { name: 'peers-matmul', seconds: 20, of: 'matmul-1024' },
    { name: 'peers-attention', seconds: 20, of: 'attention-32' },
    { name: 'peers-step', seconds: 30, of: preset },
  ];
  return sittings.map(({ name, seconds, of }) => ({
    name,
    seconds,
    command: [
      ...[node, '--import', 'tsx', join('bench', 'peers', 'run.ts')],
      ...['--peers', software === null ? 'ours,ours-f16,torch' : 'ours,torch'],
      ...['--cases', of, '--rounds', '3', '--limit', limit, '--out', join(work, 'runs', name)],
    ],
    cwd: suite,
    keep: join(work, 'runs', name),
    headline: ({ json }) => standings(json(`${name}-peers`)),
  }));
}

/** The run's time limit leaves room for drawing the data, compiling, sampling and saving. */
function training(name, seconds, { preset, precision = 'f32', cli, work }) {
  const minutes = (0.4 * seconds) / 60;
  const folder = join(work, 'runs', name);
  return {
    name,
    seconds,
    command: [
      ...[...cli, 'train', '--preset', preset, '--data', 'avatars:thumbs', '--flip'],
      ...['--precision', precision],
      ...['--out', join(folder, 'run'), '--time-limit', minutes.toFixed(3)],
    ],
    // A training that its time limit ended, with steps left.
    unfinished: 75,
    keep: folder,
    headline: ({ read }) => {
      const lines = read(`${name}-metrics.jsonl`)
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      const rate = Math.max(...lines.map(({ imagesPerSecond }) => imagesPerSecond));
      return `${lines.at(-1).step} steps, ${rate.toFixed(0)} images/s`;
    },
  };
}

// ---- headlines ------------------------------------------------------------------------------------------------------

const us = (value) => `${value.toFixed(1)} µs`;

/** Of vitest's report, or, where time was up before it was written, of its line for each test. */
function testCounts({ json, log }) {
  try {
    const { numPassedTests, numFailedTests, numPendingTests } = json('tests.json');
    return `${numPassedTests} passed, ${numFailedTests} failed, ${numPendingTests} skipped`;
  } catch {
    const count = (mark) =>
      [...log.matchAll(new RegExp(`^ *${mark} .*\\.test\\.ts >`, 'gm'))].length;
    return `${count('✓')} passed, ${count('×')} failed, then time was up`;
  }
}

/** The rung with the most arithmetic a second that ran. */
function bestRung({ cases }) {
  const rungs = cases.flatMap((one) => one.rungs.map((rung) => ({ ...rung, of: one })));
  const rate = ({ gflops, gbs }) => gflops ?? gbs ?? 0;
  const best = rungs.reduce((a, b) => (rate(b) > rate(a) ? b : a), { gflops: 0 });
  if (best.of === undefined) return 'nothing was timed';
  const share = best.percentOfPeak === undefined ? '' : `, ${best.percentOfPeak.toFixed(0)} %`;
  return `${best.of.label} ${best.of.pass}, ${best.rung}: ${flops(best.gflops ?? 0)}${share}`;
}

function flops(gflops) {
  return gflops >= 1000 ? `${(gflops / 1000).toFixed(1)} TFLOP/s` : `${gflops.toFixed(0)} GFLOP/s`;
}

function steps({ cases }) {
  return cases
    .map(({ preset, batch, ms, plannedBytes }) => {
      const memory = `${(plannedBytes / MIB).toFixed(0)} MiB`;
      return `${preset}×${batch} ${ms.median.toFixed(1)} ms, ${memory}`;
    })
    .join('; ');
}

/** Each peer's best time at the one case of a sitting. */
function standings({ comparison: [only] }) {
  return only.standings
    .filter(({ best }) => best !== null)
    .map(({ title, best }) => `${title} ${best.ms.toFixed(2)} ms`)
    .join(', ');
}

// ---- time and table -------------------------------------------------------------------------------------------------

/**
 * Seconds that a part may take: its own, and what the parts before it left over, up to as much again. So a sum of the parts'
 * own times bounds the whole.
 * @param {number} saved seconds that earlier parts left over
 */
export function allowance({ seconds }, saved) {
  return seconds + Math.min(seconds, Math.max(0, saved));
}

/** What `timeout` says of a command. */
export function stateOf(code) {
  if (code === 0) return 'ok';
  return code === 124 || code === 137 ? 'timed out' : 'failed';
}

/** Rows of text in columns; the last column is not padded. */
export function table(rows) {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  const pad = (cell, i, row) => (i === row.length - 1 ? cell : cell.padEnd(widths[i]));
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n');
}

/** The parts of these names, in their own order; all without names. Throws for a name that none has. */
export function chooseParts(parts, names) {
  if (names === undefined) return parts;
  const known = parts.map(({ name }) => name);
  const fits = (name, asked) => name === asked || name.startsWith(`${asked}-`);
  const unknown = names.find((asked) => !known.some((name) => fits(name, asked)));
  if (unknown !== undefined) {
    throw new Error(`--only ${unknown}: there is ${known.join(', ')}`);
  }
  return parts.filter(({ name }) => names.some((asked) => fits(name, asked)));
}
