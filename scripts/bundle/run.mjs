// What `gpu-run` starts once everything is unpacked: finds the driver, runs the parts, keeps what they say, prints a table.
import { spawn } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, stripVTControlCharacters } from 'node:util';
import {
  PREPARING_SECONDS,
  TOTAL_SECONDS,
  allowance,
  chooseParts,
  gpuParts,
  stateOf,
  table,
} from './parts.mjs';
import { describeMachine, findDriver } from './vulkan.mjs';

const app = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const work = dirname(app);
const cache = process.env.XDG_CACHE_HOME ?? join(work, 'cache');

function readArguments() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      only: { type: 'string' },
      patience: { type: 'string', default: '1' },
      bundle: { type: 'string' },
      began: { type: 'string' },
    },
  });
  const patience = Number(values.patience);
  if (!(patience > 0)) throw new Error(`--patience ${values.patience} is not a number above 0`);
  const only = values.only?.split(',').filter(Boolean);
  if (only?.includes('list')) return { list: true };
  chooseParts(partsFor('', null), only);
  if (positionals.length !== 1) {
    throw new Error(`${positionals.length} folders were named for the results, not one`);
  }
  const out = resolve(positionals[0]);
  // Numbers are read from what lies there, and must be of this run.
  if (existsSync(out) && readdirSync(out).length > 0) {
    throw new Error(`${out} is not empty: name a new folder for the results`);
  }
  const began = values.began === undefined ? Date.now() : Number(values.began) * 1000;
  return { out, only, patience, began, bundle: values.bundle };
}

const interruption = { requested: false, stop: () => undefined };
process.on('SIGTERM', () => {
  interruption.requested = true;
  interruption.stop();
});

/** Runs a part's command under `timeout`, both its streams into a log. Resolves to the exit code. */
function runCommand({ command, cwd = work }, { seconds, log, env }) {
  const stream = openSync(log, 'w');
  return new Promise((done) => {
    const limited = ['--kill-after=5', String(Math.ceil(seconds)), ...command];
    const child = spawn('timeout', limited, { cwd, env, stdio: ['ignore', stream, stream] });
    // `timeout` passes it on to everything that the command has started.
    interruption.stop = () => child.kill('SIGTERM');
    child.on('error', () => done(127));
    child.on('close', (code, signal) => {
      interruption.stop = () => undefined;
      closeSync(stream);
      // Where it had to kill the command, `timeout` goes the same way itself.
      done(code ?? 128 + os.constants.signals[signal]);
    });
  });
}

/** Reads what a part wrote: by a file's name, or by the beginning of one that ends in .json. */
function reader(out) {
  return (name) => {
    const found = readdirSync(out).find(
      (file) => file === name || (file.startsWith(name) && file.endsWith('.json')),
    );
    if (found === undefined) throw new Error(`there is no ${name}`);
    return readFileSync(join(out, found), 'utf8');
  };
}

/** Copies the pictures and tables below a folder to the results, flat, the part's name before each. */
function keepOf({ name: part, keep }, out) {
  if (keep === undefined) return;
  for (const path of readdirSync(keep, { recursive: true })) {
    if (!/\.(json|jsonl|yaml|md|png|svg)$/.test(path)) continue;
    copyFileSync(join(keep, path), join(out, `${part}-${basename(path)}`));
  }
}

async function runPart(part, { out, seconds, env }) {
  const log = join(out, `${part.name}.log`);
  if (part.keep !== undefined) mkdirSync(part.keep, { recursive: true });
  const began = performance.now();
  const ended = await runCommand(part, { seconds, log, env });
  const code = ended === part.unfinished ? 0 : ended;
  const took = (performance.now() - began) / 1000;
  keepOf(part, out);
  const read = reader(out);
  const json = (name) => JSON.parse(read(name));
  const text = stripVTControlCharacters(readFileSync(log, 'utf8'));
  return {
    ...{ part: part.name, state: stateOf(code), seconds: took, allowed: seconds, code },
    headline: headlineOf(part, { read, json, log: text }, code),
  };
}

/** What Dawn prints on every start on a software driver. */
const NOISE = /^Warning: max\w+ artificially reduced/;

/** The part's own number; of a part that failed without one, its last line with an error, or its last. */
function headlineOf(part, written, code) {
  try {
    const headline = part.headline(written).trim();
    if (headline !== '') return headline;
  } catch {
    // It did not come to writing what the number is read from.
  }
  const lines = written.log.split('\n').filter((line) => line.trim() !== '' && !NOISE.test(line));
  const told = lines.findLast((line) => /error/i.test(line)) ?? lines.at(-1) ?? '';
  return code === 0 ? '' : told.trim();
}

const cores = os.availableParallelism();
const partsFor = (out, software, patience = 1) =>
  gpuParts({ node: process.execPath, work, out, cache, cores, software, patience });

function listParts() {
  const rows = partsFor('', null).map(({ name, seconds }) => [name, `${seconds} s`]);
  process.stdout.write(`${table([['part', 'at most'], ...rows])}\n`);
}

async function measure({ out, only, patience, began, bundle }) {
  mkdirSync(out, { recursive: true });
  const elapsed = () => (Date.now() - began) / 1000;
  const say = (line) => process.stdout.write(`${elapsed().toFixed(0).padStart(4)} s  ${line}\n`);
  say('unpacked');

  writeFileSync(join(out, 'machine.txt'), await describeMachine());
  const doctor = [process.execPath, join(app, 'scripts', 'wgsagan.mjs'), 'doctor', '--json'];
  const driver = await findDriver({ doctor, seconds: 20 * patience, work, cache, say });
  if (driver.chosen === null) say('no driver works: machine.txt says what is installed');
  writeFileSync(join(out, 'doctor.json'), `${JSON.stringify(driver.chosen, null, 2)}\n`);
  const threads = String(Math.max(4, cores));
  const quiet = { NO_COLOR: '1', FORCE_COLOR: undefined };
  // Images are drawn on libuv's threads, of which there are four otherwise.
  const env = { ...process.env, ...driver.env, ...quiet, UV_THREADPOOL_SIZE: threads };

  const made =
    bundle && existsSync(join(bundle, 'bundle.json')) ? join(bundle, 'bundle.json') : null;
  const about = {
    bundle: made === null ? null : JSON.parse(readFileSync(made, 'utf8')),
    date: new Date(began).toISOString(),
    driver: { way: driver.way, software: driver.software, tried: driver.tried, env: driver.env },
    patience,
  };
  const results = [];
  // What is over of the time that was set aside for what came so far.
  let due = PREPARING_SECONDS * patience;
  const wanted = chooseParts(partsFor(out, null), only).map(({ name }) => name);
  for (const part of partsFor(out, driver.software, patience).filter(({ name }) =>
    wanted.includes(name),
  )) {
    const seconds = allowance({ seconds: part.seconds * patience }, due - elapsed());
    due += part.seconds * patience;
    say(`${part.name} …`);
    results.push(await runPart(part, { out, seconds, env }));
    const whole = { ...about, seconds: elapsed(), parts: results };
    writeFileSync(join(out, 'results.json'), `${JSON.stringify(whole, null, 2)}\n`);
    if (interruption.requested) return 1;
  }

  const rows = results.map(({ part, state, seconds, headline }) => [
    ...[part, state, seconds.toFixed(1), headline.slice(0, 110)],
  ]);
  const total = ['all', '', elapsed().toFixed(1), `of at most ${TOTAL_SECONDS * patience} s`];
  const text = `${table([['part', 'result', 'seconds', ''], ...rows, total])}\n`;
  writeFileSync(join(out, 'summary.txt'), text);
  process.stdout.write(`\n${text}`);
  return results.every(({ state }) => state === 'ok') ? 0 : 1;
}

let options;
try {
  options = readArguments();
} catch (error) {
  process.stderr.write(`gpu-run: ${error.message}\n`);
  process.exit(2);
}
if (options.list) listParts();
else process.exitCode = await measure(options);
