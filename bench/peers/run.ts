/**
 * The same work by wgsagan and by every library that can do it, in one sitting, each verified before it is timed.
 *   npx tsx bench/peers/run.ts [--cases matmul,gan-step] [--peers tfjs,jax,onnx,torch] [--quick] [--rounds 5]
 * Writes bench/results/peers-<adapter>.json, .md and .svg. README.md says what to install.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chooseAdapter } from '../../src/gpu/adapter.ts';
import type { AdapterSummary } from '../../src/gpu/adapter.ts';
import type { VectorWidth } from '../../src/gpu/platform.ts';
import { writeFileAtomic } from '../../src/io/atomic.ts';
import { UserError, fail, messageOf } from '../../src/util/errors.ts';
import { chooseCases } from './cases.ts';
import type { PeerProcess } from './child.ts';
import { writeGolden } from './golden.ts';
import { gatherPeers, settingsFor } from './peers.ts';
import { barChart } from './chart.ts';
import { compare, markdown } from './report.ts';
import type { Measurement, PeersResult } from './report.ts';
import { runCase } from './sitting.ts';

export interface PeersOptions {
  /** Names of cases, or beginnings of names. Default: all but the largest presets. */
  readonly cases?: readonly string[];
  /** Of ours, ours-f16, tfjs, jax, onnx, torch. Default: all; ours-f16 on a GPU only. */
  readonly peers?: readonly string[];
  /** Sides of the square matmul. Default 256, 512, 1024. */
  readonly sizes?: readonly number[];
  /** Images of a preset's step. Default: the preset's own; fewer on a software driver. */
  readonly batch?: number;
  /** Vector widths that are tried on lavapipe. Default 128 and 256. */
  readonly widths?: readonly VectorWidth[];
  /** Turns that each peer gets at a case. Default 5; 2 if quick. */
  readonly rounds?: number;
  /** Fewer and shorter samples: to see that all is right, not to be quoted. */
  readonly quick?: boolean;
  /** As openGpu's. Default auto. */
  readonly adapter?: string;
  /** A python3 that has torch. Default: the first that is found. */
  readonly python?: string;
  /** Seconds that a peer may take to make a case ready, and again for each turn. Default 300. */
  readonly limit?: number;
  /** Where the three files go. Default bench/results. */
  readonly out?: string;
  /** Stands in the names of the files, so that sittings of other cases lie side by side. Default: no name. */
  readonly name?: string;
  /** Where lines of progress go. Default: stderr. */
  readonly say?: (line: string) => void;
}

const defaults = {
  widths: [128, 256] as const,
  adapter: 'auto',
  limit: 300,
};

/** Runs the sitting, writes the result files and returns what is in them. A peer that fails is a line in the report. */
export async function runPeers(options: PeersOptions = {}): Promise<PeersResult> {
  const { sizes, batch, widths, adapter: wanted, limit } = { ...defaults, ...options };
  const say = options.say ?? ((line: string) => process.stderr.write(`${line}\n`));
  const pace =
    options.quick === true
      ? { rounds: 2, samples: 3, targetMs: 20 }
      : { rounds: 5, samples: 5, targetMs: 100 };
  const rounds = options.rounds ?? pace.rounds;
  const results = options.out ?? fileURLToPath(new URL('../results', import.meta.url));
  // Before the work, so that an hour of it is not lost to a folder that cannot be made.
  mkdirSync(results, { recursive: true });
  const { summary } = await chooseAdapter({ adapter: wanted });
  const software = summary.kind === 'software';
  const cases = chooseCases(options.cases, { sizes, batch, software });
  const { peers, absent, versions } = gatherPeers(
    options.peers,
    { adapter: summary, settings: settingsFor(summary, widths) },
    options.python,
  );
  for (const { title, reason } of absent) say(`${title} does not take part: ${reason}`);

  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-peers-'));
  const running = new Set<PeerProcess>();
  const killAll = () => running.forEach((child) => child.kill());
  process.once('exit', killAll);
  const measurements: Measurement[] = [];
  try {
    for (const [i, c] of cases.entries()) {
      say(`[${i + 1}/${cases.length}] ${c.title}`);
      const { python } = options;
      const sitting = { c, folder, summary, limit, rounds, pace, python, running, say };
      measurements.push(...(await runCase(sitting, peers)));
    }
  } finally {
    killAll();
    process.removeListener('exit', killAll);
    rmSync(folder, { recursive: true, force: true });
  }
  const result: PeersResult = {
    date: new Date().toISOString(),
    machine: machineOf(summary),
    versions: { node: process.versions.node, ...versions },
    quick: options.quick ?? false,
    rounds,
    absent,
    measurements,
    comparison: compare(cases, peers, measurements),
  };
  await writeResults(result, results, options.name);
  return result;
}

function machineOf({ name, kind, driver, description }: AdapterSummary): PeersResult['machine'] {
  const cpus = os.cpus();
  return {
    adapter: adapterName(name),
    kind,
    driver: `${driver.kind} ${driver.version ?? description}`.trim(),
    cpu: cpus[0]?.model ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
  };
}

/** lavapipe's name holds the vector width, which is not the machine's but a setting's. */
function adapterName(name: string): string {
  return name.replace(/\W+\d+.bits/, '').replace(/-$/, '');
}

async function writeResults(result: PeersResult, folder: string, name?: string): Promise<void> {
  const slug = (text: string) => text.replaceAll(/[^\w.]+/g, '-').replace(/-$/, '');
  const parts = ['peers', ...(name === undefined ? [] : [name]), result.machine.adapter];
  const file = parts.map(slug).join('-');
  const path = (ending: string) => join(folder, `${file}.${ending}`);
  await writeFileAtomic(path('json'), `${JSON.stringify(result, null, 2)}\n`);
  await writeFileAtomic(path('md'), markdown(result));
  await writeFileAtomic(path('svg'), barChart(result));
}

// ---- command line ---------------------------------------------------------------------------------------------------

async function main(): Promise<void> {
  const text = { type: 'string' } as const;
  const flag = { type: 'boolean' } as const;
  const { values } = parseArgs({
    options: {
      ...{ cases: text, peers: text, sizes: text, widths: text, rounds: text, adapter: text },
      ...{ batch: text, name: text, python: text, limit: text, out: text },
      ...{ quick: flag, golden: flag },
    },
  });
  const list = (value: string | undefined) => value?.split(',').filter((name) => name !== '');
  const whole = (name: string, value: string) =>
    /^[1-9]\d*$/.test(value)
      ? Number(value)
      : fail(`--${name} ${value} is not a whole number from 1`);
  const entries = {
    cases: list(values.cases),
    peers: list(values.peers),
    sizes: list(values.sizes)?.map((size) => whole('sizes', size)),
    widths: list(values.widths)?.map(widthOf),
    ...Object.fromEntries(
      (['batch', 'rounds', 'limit'] as const).map((name) => {
        const value = values[name];
        return [name, value === undefined ? undefined : whole(name, value)];
      }),
    ),
    name: values.name,
    quick: values.quick,
    adapter: values.adapter,
    python: values.python,
    out: values.out,
  };
  const given = Object.entries(entries).filter(([, value]) => value !== undefined);
  const options = Object.fromEntries(given) as PeersOptions;
  if (values.golden === true) {
    const { cases, batch, python } = options;
    return writeGolden(chooseCases(cases, { batch }), python);
  }
  const result = await runPeers(options);
  process.stdout.write(`\n${markdown(result)}\n`);
}

function widthOf(value: string): VectorWidth {
  const width = ([128, 256, 512] as const).find((known) => String(known) === value);
  return width ?? fail(`--widths ${value} is unknown; there are 128, 256 and 512`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main();
  } catch (error) {
    process.stderr.write(`bench peers: ${messageOf(error)}\n`);
    process.exitCode = error instanceof UserError ? 2 : 1;
  }
}
