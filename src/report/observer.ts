import type { AdapterSummary } from '../gpu/adapter.ts';
import { writeMachine } from './machine.ts';
import { ReportWriter } from './report.ts';

/** Keeps the report of a run that is being trained: `begin` before its first step, `write` whenever there is more to see. */
export interface ReportKeeper {
  readonly begin: () => Promise<void>;
  readonly write: () => Promise<void>;
}

/** Of a run folder that this process trains into, on this adapter. What it does throws as `writeFileAtomic`. */
export function keepReport(run: string, adapter: AdapterSummary): ReportKeeper {
  const writer = new ReportWriter(run);
  return {
    begin: () => writeMachine(run, adapter),
    write: () => writer.write(),
  };
}
