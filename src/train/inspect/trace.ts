import { groupLaunches } from './groups.ts';
import type { LaunchProfile, StepProfile } from './profile.ts';

interface TraceEvent {
  readonly name: string;
  readonly ph: 'X' | 'M';
  readonly pid: number;
  readonly tid: number;
  /** Microseconds. */
  readonly ts?: number;
  readonly dur?: number;
  readonly args: Readonly<Record<string, unknown>>;
}

const tracks = ['passes', 'layers', 'launches'] as const;
const pid = 1;

/**
 * The step in the Trace Event Format that Perfetto and chrome://tracing read: the launches one after the other, each as
 * long as its median, below them on tracks of their own the layers and the passes that they belong to.
 */
export function chromeTrace(profile: StepProfile): { readonly traceEvents: readonly TraceEvent[] } {
  const { adapter, preset, batch, launches } = profile;
  const about = `${preset}, batch ${batch}, on ${adapter.name}`;
  const names = tracks.map((name, i) => metadata('thread_name', i + 1, { name }));
  const order = tracks.map((_name, i) =>
    metadata('thread_sort_index', i + 1, { sort_index: i + 1 }),
  );
  return {
    traceEvents: [
      metadata('process_name', 0, { name: about }),
      ...names,
      ...order,
      ...runs(launches, ({ pass }) => pass, 1),
      ...runs(launches, ({ pass, layer }) => `${layer}\n${pass}`, 2),
      ...launchEvents(profile),
    ],
  };
}

function metadata(name: string, tid: number, args: TraceEvent['args']): TraceEvent {
  return { name, ph: 'M', pid, tid, args };
}

/** One event for each row of neighbours with the same key; the key's first line names it. */
function runs(
  launches: readonly LaunchProfile[],
  keyOf: (launch: LaunchProfile) => string,
  tid: number,
): TraceEvent[] {
  const events: TraceEvent[] = [];
  let start = 0;
  for (let first = 0; first < launches.length;) {
    const one = launches[first];
    if (one === undefined) break;
    const key = keyOf(one);
    let next = first;
    let ms = 0;
    for (let l = launches[next]; l !== undefined && keyOf(l) === key; l = launches[++next]) {
      ms += l.ms;
    }
    const [name = ''] = key.split('\n');
    const args = { pass: one.pass, launches: next - first };
    events.push({ name, ph: 'X', pid, tid, ts: 1000 * start, dur: 1000 * ms, args });
    start += ms;
    first = next;
  }
  return events;
}

function launchEvents({ launches, peaks }: StepProfile): TraceEvent[] {
  let start = 0;
  return groupLaunches(launches, 'launch', peaks).flatMap((group) =>
    group.launches.map((launch): TraceEvent => {
      const { kernel, pass, layer, tile, dims, grid, index, ms } = launch;
      const { gflops, gbs, ofPeak, roof } = group;
      const args = { index, pass, layer, kernel, tile, dims, grid, gflops, gbs, ofPeak, roof };
      const ts = 1000 * start;
      start += ms;
      return { name: kernel, ph: 'X', pid, tid: 3, ts, dur: 1000 * ms, args };
    }),
  );
}
