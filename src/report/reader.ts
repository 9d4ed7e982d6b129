import { basename, join, resolve } from 'node:path';
import { parseYaml } from '../train/check.ts';
import { runPaths } from '../train/run-folder.ts';
import { refuseLocked, holdsRun } from '../train/run-lock.ts';
import type { Fact, RunData, RunState } from './data.ts';
import { factsOf } from './facts.ts';
import { JsonLines, LineTail } from './lines.ts';
import { readOwn } from './own-files.ts';
import { Curves, alarmsOf, evaluationsOf } from './series.ts';

/** What of a run's data does not depend on how its pictures reach the page. */
export type RunNumbers = Omit<RunData, 'tracks' | 'attention'>;

/**
 * Reads a run folder of any kind as often as asked, and of its files of lines only what was added since. Missing parts
 * are empty; parts that cannot be read are named in `broken`.
 */
export class RunReader {
  readonly run: string;
  readonly #name: string;
  readonly #metrics: LineTail;
  #curves = new Curves();
  readonly #evaluations: JsonLines;
  readonly #alarms: JsonLines;

  constructor(run: string, name = basename(resolve(run))) {
    this.run = run;
    this.#name = name;
    this.#metrics = new LineTail(runPaths(run).metrics);
    this.#evaluations = new JsonLines(join(run, 'eval.jsonl'));
    this.#alarms = new JsonLines(join(run, 'alarms.jsonl'));
  }

  /** How far the run came, and whether a process is training it now. */
  state(): RunState {
    const curves = this.#read();
    const step = curves.last('step') ?? 0;
    const steps = Number(this.#config([]).find(([name]) => name === 'steps')?.[1] ?? NaN);
    return {
      step,
      steps: Number.isFinite(steps) ? steps : null,
      seconds: curves.last('seconds') ?? 0,
      status: inUse(this.run) ? 'running' : step >= steps ? 'finished' : 'stopped',
    };
  }

  /** How many alarms were raised. */
  alarms(): number {
    return alarmsOf(this.#alarms.read()).length;
  }

  read(): RunNumbers {
    const broken: string[] = [];
    const config = this.#config(broken);
    return {
      name: this.#name,
      made: new Date().toISOString(),
      state: this.state(),
      series: [...this.#read().series(), ...evaluationsOf(this.#evaluations.read())],
      alarms: alarmsOf(this.#alarms.read()),
      config,
      machine: this.#machine(broken),
      broken,
    };
  }

  /** The curves of the metrics so far. */
  #read(): Curves {
    const { anew, lines } = this.#metrics.read();
    if (anew) this.#curves = new Curves();
    for (const line of lines) this.#curves.add(line);
    return this.#curves;
  }

  #config(broken: string[]): Fact[] {
    const { config } = runPaths(this.run);
    return tableOf(config, (text) => parseYaml(text, config), broken);
  }

  #machine(broken: string[]): Fact[] {
    return tableOf(runPaths(this.run).machine, (text) => JSON.parse(text) as unknown, broken);
  }
}

/** The entries of a file; none of one that is not there. */
function tableOf(path: string, parse: (text: string) => unknown, broken: string[]): Fact[] {
  try {
    const bytes = readOwn(path);
    return bytes === undefined ? [] : factsOf(parse(bytes.toString()));
  } catch {
    broken.push(basename(path));
    return [];
  }
}

/** Is a process, this one included, training into the folder? */
function inUse(run: string): boolean {
  try {
    refuseLocked(run);
    return holdsRun(run);
  } catch {
    return true;
  }
}
