import type { Peaks } from '../../kernels/peaks.ts';
import type { LaunchProfile } from './profile.ts';

export const groupings = ['kernel', 'layer', 'pass', 'launch'] as const;
export type Grouping = (typeof groupings)[number];

/** Launches that belong together, and what they took together. */
export interface Group {
  readonly name: string;
  readonly launches: readonly LaunchProfile[];
  readonly ms: number;
  /** Of the time of all launches, from 0 to 1. */
  readonly share: number;
  readonly flops: number;
  readonly bytes: number;
  /** 10⁹ a second; 0 where the clock saw no time pass. */
  readonly gflops: number;
  readonly gbs: number;
  /** Which peak its launches would meet first. */
  readonly roof: 'compute' | 'memory';
  /**
   * The time that the binding peak of each launch allows, over the time it took. Past 1, the bytes came from a cache: the
   * peak is that of memory.
   */
  readonly ofPeak: number;
}

/** Groups of a profile; by pass and by launch in the order of the step, else the longest first. */
export function groupLaunches(
  launches: readonly LaunchProfile[],
  by: Grouping,
  peaks: Peaks,
): Group[] {
  const members = new Map<string, LaunchProfile[]>();
  for (const launch of launches) {
    const name = nameOf(launch, by);
    const list = members.get(name);
    if (list === undefined) members.set(name, [launch]);
    else list.push(launch);
  }
  const total = sum(launches, (l) => l.ms);
  const groups = [...members].map(([name, list]) => groupOf(name, list, { peaks, total }));
  return by === 'pass' || by === 'launch' ? groups : groups.sort((a, b) => b.ms - a.ms);
}

function nameOf(launch: LaunchProfile, by: Grouping): string {
  switch (by) {
    case 'kernel':
      return launch.kernel;
    case 'layer':
      return launch.layer === '' ? '(no layer)' : launch.layer;
    case 'pass':
      return launch.pass;
    case 'launch':
      return String(launch.index);
  }
}

function groupOf(
  name: string,
  launches: readonly LaunchProfile[],
  { peaks, total }: { peaks: Peaks; total: number },
): Group {
  const ms = sum(launches, (l) => l.ms);
  const flops = sum(launches, (l) => l.flops);
  const bytes = sum(launches, (l) => l.bytes);
  const least = { compute: 0, memory: 0 };
  for (const launch of launches) {
    const most = launch.unit === 'matrix' ? peaks.matrixGflops : undefined;
    const computing = launch.flops / (most ?? peaks.fmaGflops) / 1e6;
    const moving = launch.bytes / peaks.copyGBs / 1e6;
    least[computing > moving ? 'compute' : 'memory'] += Math.max(computing, moving);
  }
  const per = (amount: number) => (ms > 0 ? amount / ms : 0);
  return {
    name,
    launches,
    ms,
    share: total > 0 ? ms / total : 0,
    flops,
    bytes,
    gflops: per(flops / 1e6),
    gbs: per(bytes / 1e6),
    roof: least.compute > least.memory ? 'compute' : 'memory',
    ofPeak: per(least.compute + least.memory),
  };
}

function sum<T>(list: readonly T[], of: (one: T) => number): number {
  return list.reduce((n, one) => n + of(one), 0);
}
