/** What a sitting found, as plain data and as text. No number here is typed by hand. */
import { markdownTable } from '../output/text.ts';
import type { PeerCase } from './cases.ts';
import { asItComes } from './peers.ts';
import type { Absence, Peer, PeerKind } from './peers.ts';

interface Label {
  readonly case: string;
  readonly peer: string;
  /** Null where the peer declines the case in every setting. */
  readonly setting: string | null;
}

export interface Timed extends Label {
  readonly state: 'timed';
  /** Median over all rounds, with the tenth and ninetieth percentile beside it. */
  readonly ms: number;
  readonly p10: number;
  readonly p90: number;
  readonly samples: number;
  /** Largest error against the reference, as a share of the tensor's largest value. */
  readonly error: number;
  /** Most memory that the process held; of the GPU's, under CUDA. */
  readonly peakMiB: number;
  /** Share of the machine that other programs had meanwhile: the median of the turns; 0 where it is not known. */
  readonly others: number;
}

export interface Untimed extends Label {
  readonly state: 'cannot' | 'wrong' | 'failed';
  readonly reason: string;
}

export type Measurement = Timed | Untimed;

export interface Standing {
  readonly peer: string;
  readonly title: string;
  readonly kind: PeerKind;
  /** The setting in which it was fastest. */
  readonly best: Timed | null;
  readonly asItComes: Timed | null;
  /** Why there is no time, or why some setting has none. Empty if all have. */
  readonly reason: string;
}

/** Times of a peer over ours: above 1, ours is faster. */
export interface Ratio {
  readonly peer: string;
  readonly ratio: number;
}

export interface CaseComparison {
  readonly case: string;
  readonly title: string;
  readonly gflop: number;
  readonly standings: readonly Standing[];
  /** The fastest other WebGPU peer, everybody at their best. */
  readonly best: Ratio | null;
  /** The same, everybody as installed. */
  readonly asItComes: Ratio | null;
  /** PyTorch over ours at its best. */
  readonly torch: readonly Ratio[];
}

export interface PeersResult {
  readonly date: string;
  readonly machine: {
    readonly adapter: string;
    readonly kind: string;
    readonly driver: string;
    readonly cpu: string;
    readonly cores: number;
    readonly memoryGiB: number;
  };
  readonly versions: Readonly<Record<string, string>>;
  readonly quick: boolean;
  readonly rounds: number;
  readonly absent: readonly Absence[];
  readonly measurements: readonly Measurement[];
  readonly comparison: readonly CaseComparison[];
}

export function compare(
  cases: readonly PeerCase[],
  peers: readonly Peer[],
  measurements: readonly Measurement[],
): CaseComparison[] {
  return cases.map((c) => {
    const standings = peers.map((peer) => standingOf(c, peer, measurements));
    const ours = standings.find((s) => s.kind === 'ours');
    const webgpu = standings.filter((s) => s.kind === 'webgpu');
    const torch = standings.filter((s) => s.kind === 'torch');
    const fastest = (key: 'best' | 'asItComes'): Ratio | null =>
      webgpu
        .flatMap((s) => ratio(s, s[key], ours?.[key] ?? null))
        .reduce<Ratio | null>((a, b) => (a === null || b.ratio < a.ratio ? b : a), null);
    return {
      case: c.name,
      title: c.title,
      gflop: c.flops / 1e9,
      standings,
      best: fastest('best'),
      asItComes: fastest('asItComes'),
      torch: torch.flatMap((s) => ratio(s, s.best, ours?.best ?? null)),
    };
  });
}

function ratio({ title }: Standing, theirs: Timed | null, ours: Timed | null): Ratio[] {
  return theirs === null || ours === null ? [] : [{ peer: title, ratio: theirs.ms / ours.ms }];
}

function standingOf(c: PeerCase, peer: Peer, measurements: readonly Measurement[]): Standing {
  const own = measurements.filter((m) => m.case === c.name && m.peer === peer.id);
  const timed = own.filter((m) => m.state === 'timed').sort((a, b) => a.ms - b.ms);
  const reasons = own.flatMap((m) => (m.state === 'timed' ? [] : [`${m.state}: ${m.reason}`]));
  return {
    peer: peer.id,
    title: peer.title,
    kind: peer.kind,
    best: timed[0] ?? null,
    asItComes: timed.find((m) => m.setting === asItComes) ?? null,
    reason: [...new Set(reasons)].join('; '),
  };
}

// ---- Markdown -------------------------------------------------------------------------------------------------------

/** The short form: the ratios of one sitting, and what they were taken on. */
export function summary(result: PeersResult): string {
  const { machine, comparison } = result;
  const on = `${machine.adapter}, ${machine.cpu}, ${machine.cores} cores, ${result.date.slice(0, 10)}`;
  const about = `Times of a peer over wgsagan's, ${result.rounds} interleaved rounds; above 1, wgsagan is faster.`;
  const quick = result.quick ? ['**A quick run: noisy, not to be quoted.**'] : [];
  const notes = [`**${on}.**`, about, ...quick, ...loadNote(result.measurements)].join(' ');
  return `${notes}\n\n${ratioTable(comparison)}`;
}

export function markdown(result: PeersResult): string {
  const { machine, comparison } = result;
  const titles = [...new Set(comparison.flatMap((c) => c.standings.map((s) => s.title)))];
  const hasOurs = comparison.some((c) => c.standings.some((s) => s.kind === 'ours'));
  const notes = [
    `${machine.adapter} (${machine.driver}), ${machine.cpu}, ${machine.cores} cores, ${result.date.slice(0, 10)}; ` +
      `${Object.entries(result.versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(', ')}.`,
    `Median ms [10 %–90 %] over ${result.rounds} interleaved rounds, each peer in its best setting; GFLOP/s in round brackets.`,
    ...(result.quick ? ['**A quick run: noisy, not to be quoted.**'] : []),
    ...loadNote(result.measurements),
  ];
  const cells = (key: 'best' | 'asItComes') =>
    comparison.map((c) => [
      c.title,
      ...titles.map((title) =>
        cell(
          c,
          c.standings.find((s) => s.title === title),
          key,
        ),
      ),
    ]);
  const parts = [
    notes.join(' '),
    table(['case', ...titles], cells('best')),
    ...(hasOurs
      ? ['Times of a peer over wgsagan’s; above 1, wgsagan is faster.', ratioTable(comparison)]
      : []),
    'The WebGPU peers as they come: no throttled polling, the driver’s own vector width (wgsagan: its own defaults).',
    table(
      ['case', ...titles.filter((t) => !t.startsWith('PyTorch'))],
      cells('asItComes').map((row) =>
        row.filter((_, i) => !(titles[i - 1]?.startsWith('PyTorch') ?? false)),
      ),
    ),
    lacking(result),
  ];
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}

/** From this share on, other programs are seen in the times. */
const noisyShare = 0.08;

function loadNote(measurements: readonly Measurement[]): string[] {
  const timed = measurements.filter((m) => m.state === 'timed');
  const disturbed = timed.filter((m) => m.others > noisyShare);
  if (disturbed.length === 0) return [];
  const most = Math.max(...disturbed.map((m) => m.others));
  return [
    `**Disturbed: in ${disturbed.length} of ${timed.length} measurements other programs had more than ` +
      `${100 * noisyShare} % of the machine, up to ${(100 * most).toFixed(0)} %.**`,
  ];
}

function cell(
  c: CaseComparison,
  standing: Standing | undefined,
  key: 'best' | 'asItComes',
): string {
  const found = standing?.[key] ?? null;
  if (found === null) return standing?.reason.startsWith('wrong') === true ? 'wrong' : '–';
  const { ms, p10, p90 } = found;
  return `${digits(ms)} [${digits(p10)}–${digits(p90)}] (${digits((c.gflop / ms) * 1000)})`;
}

function ratioTable(comparison: readonly CaseComparison[]): string {
  const torch = [...new Set(comparison.flatMap((c) => c.torch.map((r) => r.peer)))];
  const show = (r: Ratio | null) => (r === null ? '–' : `${r.ratio.toFixed(2)}× (${r.peer})`);
  return table(
    ['case', 'fastest WebGPU peer, at its best', 'as they come', ...torch],
    comparison.map((c) => [
      c.title,
      show(c.best),
      show(c.asItComes),
      ...torch.map(
        (name) =>
          c.torch
            .find((r) => r.peer === name)
            ?.ratio.toPrecision(2)
            .concat('×') ?? '–',
      ),
    ]),
  );
}

/** Everything that has no time, and why. */
function lacking({ absent, comparison }: PeersResult): string {
  const lines = absent.map(({ title, reason }) => `- ${title}: ${reason}`);
  for (const { title, standings } of comparison) {
    for (const s of standings)
      if (s.reason !== '') lines.push(`- ${s.title}, ${title}: ${s.reason}`);
  }
  return lines.length === 0 ? '' : ['Not timed:', '', ...lines].join('\n');
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return markdownTable({ title: '', notes: [], head, rows, texts: 1 }).trimEnd();
}

/** Three digits, and no exponent. */
function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
