import {
  accessSync,
  appendFileSync,
  constants,
  existsSync,
  readFileSync,
  readdirSync,
  rmSync,
  rmdirSync,
  statSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { isTemporary, makeFolder, writeFileAtomic } from '../io/atomic.ts';
import { fileError } from '../io/errno.ts';
import { UserError } from '../util/errors.ts';
import { configToYaml } from './config.ts';
import type { TrainConfig } from './options.ts';
import { holdsRun, lockName, lockRun, refuseLocked } from './run-lock.ts';

/** One line of metrics.jsonl: means over the steps since the line before. */
export interface MetricLine {
  readonly step: number;
  readonly imagesPerSecond: number;
  /** Seconds of training since the run began, resumed parts added up. */
  readonly seconds: number;
  /**
   * What the steps report (`Learner.reports`), then `lossScale…` of the last step where the nets compute in f16: it falls
   * after an overflow.
   */
  readonly [report: string]: number;
}

/** What a run folder holds, by role. */
export function runPaths(run: string) {
  return {
    config: join(run, 'config.yaml'),
    metrics: join(run, 'metrics.jsonl'),
    alarms: join(run, 'alarms.jsonl'),
    samples: join(run, 'samples'),
    attention: join(run, 'attention'),
    losses: join(run, 'losses.svg'),
    machine: join(run, 'machine.json'),
    report: join(run, 'report.html'),
  };
}

/** Those of a new run, and one that is made where there is something to put into it. */
const newFolders: readonly string[] = ['samples', 'checkpoints'];
const runFolders: readonly string[] = [...newFolders, 'attention'];

/** A step as it is written in the names of files. */
export function stepName(step: number): string {
  return String(step).padStart(7, '0');
}

/** Throws a `UserError` if the folder holds a run, or anything else, or cannot be written to. Changes nothing. */
export function refuseUsedFolder(run: string): void {
  refuseLocked(run);
  if (existsSync(runPaths(run).config)) {
    throw new UserError(
      `${run} holds another run; go on with it by --resume, or choose another --out`,
    );
  }
  try {
    refuseUnwritable(run);
    if (existsSync(run) && !isBare(run)) {
      throw new UserError(`${run} is not empty and holds no run; choose another --out`);
    }
  } catch (error) {
    throw fileError(error, 'make', run);
  }
}

/** Is nothing in the folder but what a process killed while making a run leaves: a lock, empty folders? */
function isBare(run: string): boolean {
  const empty = (folder: string) => readdirSync(folder).every(isTemporary);
  return readdirSync(run, { withFileTypes: true }).every((entry) => {
    const { name } = entry;
    if (entry.isFile()) return name === lockName || isTemporary(name);
    return entry.isDirectory() && runFolders.includes(name) && empty(join(run, name));
  });
}

/** Looks at the folder, or at the nearest one above it that is there. */
function refuseUnwritable(run: string): void {
  let folder = resolve(run);
  while (!existsSync(folder)) folder = dirname(folder);
  if (!statSync(folder).isDirectory()) {
    throw new UserError(`--out ${run}: ${folder} is a file, not a folder; choose another --out`);
  }
  accessSync(folder, constants.W_OK);
}

/**
 * Makes the folder of a new run and takes it for this process: the config first, so that a run killed at any moment can
 * be begun again. A folder that this process has taken already is a run that begins again at step 0.
 */
export function createRunFolder(run: string, config: TrainConfig): Promise<void> {
  return makeRunFolder(run, configToYaml(config), newFolders);
}

/** The same for a run of any kind, of its options as YAML and the folders in it, which are of `createRunFolder`'s. */
export async function makeRunFolder(
  run: string,
  config: string,
  folders: readonly string[],
): Promise<void> {
  const again = holdsRun(run);
  if (!again) refuseUsedFolder(run);
  await makeFolder(run);
  if (!again) {
    lockRun(run);
    // Another process may have been faster than this one, and be done already.
    refuseUsedFolder(run);
  }
  removeTemporaries(run);
  await saveOptions(run, config);
  for (const name of folders) await makeFolder(join(run, name));
}

/**
 * Takes back a run that was made and could not be filled: config, folders and what is in them. The folder itself stays
 * where it was there before.
 */
export function discardRun(run: string, options: { readonly wasThere: boolean }): void {
  const made = [runPaths(run).config, ...runFolders.map((name) => join(run, name))];
  for (const path of options.wasThere ? made : [run])
    rmSync(path, { recursive: true, force: true });
}

/** Removes a run folder in which nothing could be made. */
export function removeIfEmpty(run: string): void {
  if (existsSync(run) && readdirSync(run).length === 0) rmdirSync(run);
}

export function saveConfig(run: string, config: TrainConfig): Promise<void> {
  return saveOptions(run, configToYaml(config));
}

/** Writes config.yaml of options that are YAML already. */
export async function saveOptions(run: string, config: string): Promise<void> {
  const text = `# wgsagan: the resolved options of this run\n${config}`;
  await writeFileAtomic(runPaths(run).config, text);
}

/** Adds a line to metrics.jsonl. Throws a `UserError` where it cannot, as on a full disk. */
export function appendMetrics(run: string, line: { readonly step: number }): void {
  appendLine(runPaths(run).metrics, line);
}

/** Adds a line to alarms.jsonl, as `appendMetrics` does. */
export function appendAlarm(run: string, alarm: { readonly step: number }): void {
  appendLine(runPaths(run).alarms, alarm);
}

function appendLine(path: string, line: { readonly step: number }): void {
  try {
    appendFileSync(path, `${JSON.stringify(line)}\n`);
  } catch (error) {
    throw fileError(error, 'write', path);
  }
}

/** Makes the lines that were added so far last through a power cut. */
export async function syncLines(run: string): Promise<void> {
  const { metrics, alarms } = runPaths(run);
  for (const path of [metrics, alarms]) {
    if (!existsSync(path)) continue;
    try {
      const file = await open(path, 'r+');
      await file.sync().finally(() => file.close());
    } catch (error) {
      throw fileError(error, 'write', path);
    }
  }
}

/** Removes what a killed process was writing. */
export function removeTemporaries(run: string): void {
  for (const folder of [run, ...runFolders.map((name) => join(run, name))]) {
    if (!existsSync(folder)) continue;
    for (const name of readdirSync(folder).filter(isTemporary)) {
      rmSync(join(folder, name), { force: true });
    }
  }
}

/** The lines of metrics.jsonl; a last line cut by a kill is left out. */
export function readMetrics<L extends { readonly step: number } = MetricLine>(run: string): L[] {
  return readLines<L>(runPaths(run).metrics);
}

/** The lines of a file of JSON, a line each; none where it is not there; a last line cut by a kill is left out. */
function readLines<L>(path: string): L[] {
  if (!existsSync(path)) return [];
  const lines: L[] = [];
  for (const text of readFileSync(path, 'utf8').split('\n')) {
    try {
      lines.push(JSON.parse(text) as L);
    } catch {
      // Only the line that was being written can be broken; what follows it would be later still.
      break;
    }
  }
  return lines;
}

/** Takes back what was logged after the step that a resumed run starts from, alarms too. Returns the lines kept. */
export async function rewindMetrics<L extends { readonly step: number } = MetricLine>(
  run: string,
  step: number,
): Promise<L[]> {
  const { metrics, alarms } = runPaths(run);
  if (existsSync(alarms)) await rewind(alarms, step);
  return rewind<L>(metrics, step);
}

async function rewind<L extends { readonly step: number }>(
  path: string,
  step: number,
): Promise<L[]> {
  const kept = readLines<L>(path).filter((line) => line.step <= step);
  await writeFileAtomic(path, kept.map((line) => `${JSON.stringify(line)}\n`).join(''));
  return kept;
}
