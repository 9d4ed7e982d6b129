import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { runPaths } from '../train/run-folder.ts';
import { attentionFolder } from './attention.ts';
import type { RunSummary } from './data.ts';
import { findRuns } from './discover.ts';
import type { FoundRun } from './discover.ts';
import { RunReader } from './reader.ts';

/** A run that is looked at again and again. */
export interface WatchedRun extends FoundRun {
  readonly reader: RunReader;
}

interface Known extends WatchedRun {
  stamp: string;
  summary: RunSummary;
}

/** The runs of some folders as they come, change and go. Reads what changed only. */
export class WatchedRuns {
  readonly #folders: readonly string[];
  readonly #known = new Map<string, Known>();
  #versions = 0;

  constructor(folders: readonly string[]) {
    this.#folders = folders;
  }

  get(id: string): WatchedRun | undefined {
    return this.#known.get(id);
  }

  /** Looks at the folders. Returns a line for each run, by name. */
  look(): RunSummary[] {
    const found = findRuns(this.#folders);
    const ids = new Set(found.map(({ id }) => id));
    for (const id of this.#known.keys()) if (!ids.has(id)) this.#known.delete(id);
    const all = found.flatMap((run) => {
      try {
        return this.#look(run);
      } catch {
        // It went away while it was read; the next look knows.
        return [];
      }
    });
    return all.sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
  }

  #look(run: FoundRun): RunSummary {
    const stamp = stampOf(run.folder);
    const known = this.#known.get(run.id);
    const reader = known?.reader ?? new RunReader(run.folder, run.name);
    const state = reader.state();
    if (known?.stamp === stamp && known.summary.status === state.status) return known.summary;
    const { id, name } = run;
    const changed = statSync(runPaths(run.folder).metrics, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    const version = ++this.#versions;
    const summary = { ...{ id, name, changed, version }, ...state, alarms: reader.alarms() };
    this.#known.set(id, { ...run, reader, stamp, summary });
    return summary;
  }
}

/** Differs when anything that a page shows of a run did: files by time and size, folders by what is in them. */
function stampOf(run: string): string {
  const { config, metrics, samples, machine } = runPaths(run);
  const more = ['eval.jsonl', 'alarms.jsonl'].map((name) => join(run, name));
  const files = [config, metrics, machine, ...more].map((path) => {
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat === undefined ? '' : `${stat.ino} ${stat.mtimeMs} ${stat.size}`;
  });
  const folders = [samples, join(run, attentionFolder)].map((folder) => {
    const stat = statSync(folder, { throwIfNoEntry: false });
    return stat?.isDirectory() === true ? `${stat.mtimeMs} ${readdirSync(folder).length}` : '';
  });
  return [...files, ...folders].join('|');
}
