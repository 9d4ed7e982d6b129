import { statSync } from 'node:fs';
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
  readonly #config: TableFile;
  readonly #machine: TableFile;

  constructor(run: string, name = basename(resolve(run))) {
    this.run = run;
    this.#name = name;
    const { metrics, config, machine } = runPaths(run);
    this.#metrics = new LineTail(metrics);
    this.#config = new TableFile(config, (text) => parseYaml(text, config));
    this.#machine = new TableFile(machine, (text) => JSON.parse(text) as unknown);
    this.#evaluations = new JsonLines(join(run, 'eval.jsonl'));
    this.#alarms = new JsonLines(join(run, 'alarms.jsonl'));
  }

  /** How far the run came, and whether a process is training it now. */
  state(): RunState {
    const curves = this.#read();
    const step = curves.last('step') ?? 0;
    const steps = Number(this.#config.read([]).find(([name]) => name === 'steps')?.[1] ?? NaN);
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
    const config = this.#config.read(broken);
    return {
      name: this.#name,
      made: new Date().toISOString(),
      state: this.state(),
      series: [...this.#read().series(), ...evaluationsOf(this.#evaluations.read())],
      alarms: alarmsOf(this.#alarms.read()),
      config,
      machine: this.#machine.read(broken),
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
}

/** The table in a file, read again only where the file is another. */
class TableFile {
  readonly #path: string;
  readonly #parse: (text: string) => unknown;
  #stamp = '';
  #facts: Fact[] = [];

  constructor(path: string, parse: (text: string) => unknown) {
    this.#path = path;
    this.#parse = parse;
  }

  /** Its entries; none of one that is not there. */
  read(broken: string[]): Fact[] {
    try {
      const stat = statSync(this.#path, { throwIfNoEntry: false });
      const stamp = stat === undefined ? '' : `${stat.ino} ${stat.mtimeMs} ${stat.size}`;
      if (stamp === this.#stamp) return this.#facts;
      const bytes = readOwn(this.#path);
      this.#facts = bytes === undefined ? [] : factsOf(this.#parse(bytes.toString()));
      this.#stamp = stamp;
      return this.#facts;
    } catch {
      broken.push(basename(this.#path));
      return [];
    }
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
