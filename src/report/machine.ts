import os from 'node:os';
import type { AdapterSummary } from '../gpu/adapter.ts';
import { cpuCount, engineVersion, hostMemoryBytes } from '../gpu/platform.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { runPaths } from '../train/run-folder.ts';

/** What is worth knowing of this machine when a run is looked at later, by the names that a report shows. */
export function machineFacts(adapter: AdapterSummary): Record<string, string> {
  const { driver } = adapter;
  const processor = os.cpus()[0]?.model.trim() ?? 'unknown';
  return {
    adapter: `${adapter.name} (${adapter.kind})`,
    driver: driver.version === null ? driver.kind : `${driver.kind} ${driver.version}`,
    description: adapter.description,
    processor: `${processor}, ${cpuCount()} cores`,
    memory: `${(hostMemoryBytes().total / 2 ** 30).toFixed(1)} GiB`,
    system: `${os.type()} ${process.arch}`,
    node: process.versions.node,
    wgsagan: engineVersion(),
    started: new Date().toISOString(),
  };
}

/** Writes machine.json into a run folder: where it was trained last. Throws as `writeFileAtomic` does. */
export function writeMachine(run: string, adapter: AdapterSummary): Promise<void> {
  const text = `${JSON.stringify(machineFacts(adapter), null, 2)}\n`;
  return writeFileAtomic(runPaths(run).machine, text);
}
