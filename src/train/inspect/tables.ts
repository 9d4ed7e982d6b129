import type { Peaks } from '../../kernels/peaks.ts';
import { textTable } from '../../util/table.ts';
import type { Column } from '../../util/table.ts';
import { groupLaunches } from './groups.ts';
import type { Group, Grouping } from './groups.ts';
import type { LaunchProfile, StepProfile } from './profile.ts';

/** What a profile says of the whole step, in a few lines. */
export function profileHead(profile: StepProfile): string {
  const { adapter, peaks, launches, stepMs } = profile;
  const flops = launches.reduce((n, l) => n + l.flops, 0);
  const ms = launches.reduce((n, l) => n + l.ms, 0);
  const version = adapter.driver.version === null ? '' : ` ${adapter.driver.version}`;
  const off = adapter.toggles.disabled.join(', ');
  const clock = profile.clock === 'gpu' ? 'the GPU clock' : 'the wall clock (no timestamp-query)';
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  return [
    `adapter   ${adapter.name} (${adapter.kind}), driver ${adapter.driver.kind}${version}; off: ${off}`,
    `peaks     ${roofsOf(peaks)}, measured now`,
    `step      ${profile.preset}, batch ${profile.batch}: ${launches.length} launches, ${(flops / 1e9).toFixed(2)} GFLOP, ` +
      `${figure(stepMs)} ms in one pass = ${figure(flops / stepMs / 1e6)} GFLOP/s`,
    `launches  ${figure(ms)} ms one by one on ${clock}, median of ${profile.replays}`,
    `encoding  ${profile.encodeUs.toFixed(2)} µs a launch, ${figure((profile.encodeUs * launches.length) / 1000)} ms a step`,
    `memory    ${mib(profile.plannedBytes)} planned (${mib(profile.unplannedBytes)} unplanned) + ${mib(profile.residentBytes)} resident`,
  ].join('\n');
}

/** The measured peaks in words. */
export function roofsOf(peaks: Peaks): string {
  const gflops = (value: number | undefined, what: string) =>
    value === undefined ? [] : [`${figure(value)} GFLOP/s of ${what}`];
  return [
    ...gflops(peaks.fmaGflops, 'f32 multiply-adds'),
    ...gflops(peaks.f16Gflops, 'f16 multiply-adds'),
    ...gflops(peaks.matrixGflops, 'f16 matrices'),
    `${figure(peaks.copyGBs)} GB/s of copies`,
  ].join(', ');
}

const measures: readonly Column[] = [
  ...['share', 'ms', 'GFLOP/s', 'GB/s', '% of peak'].map((title) => ({ title })),
  { title: 'roof', text: true },
];

function measuresOf(group: Group): string[] {
  return [
    `${(100 * group.share).toFixed(1)} %`,
    group.ms.toFixed(3),
    group.flops > 0 ? figure(group.gflops) : '–',
    group.bytes > 0 ? figure(group.gbs) : '–',
    group.ofPeak > 0 ? (100 * group.ofPeak).toFixed(1) : '–',
    group.roof,
  ];
}

/** The groups of a profile as a table for a terminal. */
export function profileTable(profile: StepProfile, by: Grouping): string {
  const groups = groupLaunches(profile.launches, by, profile.peaks);
  if (by === 'launch') return launchTable(groups);
  const shapes = by === 'kernel' ? [{ title: 'tile; sizes; grid', text: true }] : [];
  const columns = [...measures, { title: 'calls' }, { title: by, text: true }, ...shapes];
  const rows = groups.map((group) => [
    ...measuresOf(group),
    String(group.launches.length),
    group.name,
    ...(by === 'kernel' ? [shapesOf(group.launches)] : []),
  ]);
  return textTable(columns, rows);
}

function launchTable(groups: readonly Group[]): string {
  const texts = ['pass', 'layer', 'kernel', 'tile; sizes; grid'];
  const columns = [
    { title: 'launch' },
    ...measures,
    ...texts.map((title) => ({ title, text: true })),
  ];
  const rows = groups.map((group) => {
    const [launch] = group.launches;
    const { pass = '', layer = '', kernel = '' } = launch ?? {};
    return [group.name, ...measuresOf(group), pass, layer, kernel, shapesOf(group.launches)];
  });
  return textTable(columns, rows);
}

/** Tile, sizes and grid where all launches have the same; how many there are where they differ. */
function shapesOf(launches: readonly LaunchProfile[]): string {
  const parts = (['tile', 'sizes', 'grid'] as const).map((what) => {
    const all = new Set(launches.map((launch) => shown(launch, what)));
    return all.size === 1
      ? [...all].join('')
      : `${all.size} ${what === 'sizes' ? what : `${what}s`}`;
  });
  return parts.filter((part) => part !== '').join('; ');
}

function shown(launch: LaunchProfile, what: 'tile' | 'sizes' | 'grid'): string {
  if (what === 'grid') return launch.grid.join('×');
  return pairs(what === 'tile' ? launch.tile : launch.dims);
}

/** `M=4 N=8`. */
export function pairs(record: Readonly<Record<string, number | string>>): string {
  return Object.entries(record)
    .map(([name, value]) => `${name}=${typeof value === 'number' ? figureOf(value) : value}`)
    .join(' ');
}

const figureOf = (value: number) =>
  Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));

/** Three figures and no exponent. */
function figure(value: number): string {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
