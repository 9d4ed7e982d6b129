import { readFileSync } from 'node:fs';

/** Time of all cores since the machine started, in milliseconds. */
export interface MachineTime {
  readonly busy: number;
  readonly total: number;
}

/** Linux counts in hundredths of a second, whatever the kernel's own clock. */
const MS_PER_TICK = 10;

/** From /proc/stat; null where there is none. What a hypervisor takes away counts as busy. */
export function machineTime(): MachineTime | null {
  try {
    return parseStat(readFileSync('/proc/stat', 'utf8'));
  } catch {
    return null;
  }
}

/** The first line: `cpu user nice system idle iowait irq softirq steal …`. */
export function parseStat(text: string): MachineTime {
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] =
    text.split('\n')[0]?.trim().split(/\s+/).slice(1).map(Number) ?? [];
  const busy = (user + nice + system + irq + softirq + steal) * MS_PER_TICK;
  return { busy, total: busy + (idle + iowait) * MS_PER_TICK };
}

/** Share of the machine that everybody else had between two readings, given the CPU time of one's own. */
export function othersShare(
  before: MachineTime | null,
  after: MachineTime | null,
  ownMs: number,
): number | null {
  if (before === null || after === null || after.total <= before.total) return null;
  return Math.max(0, (after.busy - before.busy - ownMs) / (after.total - before.total));
}
