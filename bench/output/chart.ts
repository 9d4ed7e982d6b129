import type { BenchResult } from '../results.ts';
import { nameAmong, shown } from './sheet.ts';

interface Bar {
  readonly name: string;
  readonly value: number;
  /** What ships, drawn full. */
  readonly strong: boolean;
  readonly note: string;
}

interface Group {
  readonly label: string;
  readonly bars: readonly Bar[];
}

const frame = { width: 880, right: 156, letter: 6.8, top: 76, bar: 15, gap: 3, group: 30 };

/** Distinct on white and on near-black, and to the colour-blind (after Okabe and Ito 2008). */
const colours = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9', '#8c8c8c'];

/**
 * Bars, a group a case, one colour a name: GFLOP/s of rungs, those that ship outlined, and of steps; milliseconds of steps
 * with and without attention. A self-contained SVG.
 */
export function barChart(result: BenchResult): string {
  const groups = groupsOf(result);
  const names = [...new Set(groups.flatMap((group) => group.bars.map((bar) => bar.name)))];
  const colourOf = (name: string) => colours[names.indexOf(name) % colours.length] ?? '';
  const most = Math.max(...groups.flatMap((group) => group.bars.map((bar) => bar.value)), 1e-9);
  const left = 24 + frame.letter * Math.max(...names.map((name) => name.length), 0);
  const scale = (frame.width - left - frame.right) / most;
  const parts: string[] = [];
  let y = frame.top;
  for (const group of groups) {
    parts.push(text(12, y + 12, group.label, 'label'));
    y += 20;
    for (const bar of group.bars) {
      const width = Math.max(1, bar.value * scale).toFixed(1);
      const base = y + frame.bar - 4;
      const edge = bar.strong ? ' class="ships"' : '';
      parts.push(
        text(left - 8, base, bar.name, 'end'),
        `<rect x="${left.toFixed(1)}" y="${y}" width="${width}" height="${frame.bar}" fill="${colourOf(bar.name)}"${edge}/>`,
        text(left + Number(width) + 6, base, `${shown(bar.value)}${bar.note}`),
      );
      y += frame.bar + frame.gap;
    }
    y += frame.group - 20;
  }
  const title = `bench ${result.bench}: ${result.kind === 'overhead' ? 'ms' : 'GFLOP/s'}`;
  const about = result.kind === 'ladder' ? '; outlined: what ships' : '';
  const { adapter, driver, wgsagan, date } = result.environment;
  const height = y + 8;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${frame.width} ${height}" role="img" aria-label="${escape(title)}">
<style>text{font:12px system-ui,sans-serif;fill:#333}.end{text-anchor:end}.label{font-weight:600}.title{font-size:15px;font-weight:600}.ships{stroke:#111;stroke-width:1.5}.bg{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#ccc}.ships{stroke:#fff}.bg{fill:#161616}}</style>
<rect class="bg" width="${frame.width}" height="${height}"/>
${text(12, 24, title, 'title')}
${text(12, 44, `${adapter}, driver ${driver}; wgsagan ${wgsagan}, ${date.slice(0, 10)}${about}`)}
${parts.join('\n')}
</svg>
`;
}

function groupsOf(result: BenchResult): Group[] {
  switch (result.kind) {
    case 'ladder':
      return rungGroups(result);
    case 'step':
      return stepGroups(result);
    case 'overhead':
      return overheadGroups(result);
  }
}

function rungGroups(result: Extract<BenchResult, { kind: 'ladder' }>): Group[] {
  return result.cases.map(({ label, pass, rungs }) => ({
    label: `${label}, ${pass}`,
    bars: rungs.flatMap((one) => {
      const { shipped, gflops, percentOfPeak } = one;
      if (gflops === undefined) return [];
      const rung = nameAmong(rungs, one);
      const note = percentOfPeak === undefined ? '' : `  (${shown(percentOfPeak)} % of peak)`;
      return [{ name: rung, value: gflops, strong: shipped, note }];
    }),
  }));
}

function stepGroups(result: Extract<BenchResult, { kind: 'step' }>): Group[] {
  return result.cases.map(({ preset, precision = 'f32', batch, gflops, ms }) => ({
    label: `${preset}${precision === 'f32' ? '' : ` ${precision}`}, batch ${batch}`,
    bars: [{ name: 'step', value: gflops, strong: true, note: `  (${shown(ms.median)} ms)` }],
  }));
}

function overheadGroups({ cases }: Extract<BenchResult, { kind: 'overhead' }>): Group[] {
  const labelOf = ({ preset, precision, batch }: (typeof cases)[number]) =>
    `${preset}${precision === 'f32' ? '' : ` ${precision}`}, batch ${batch}`;
  return [...new Set(cases.map(labelOf))].map((label) => ({
    label,
    bars: cases
      .filter((one) => labelOf(one) === label)
      .map(({ attention, ms, overNone }) => ({
        ...{ name: attention, value: ms.median, strong: false },
        note: ` ms  (× ${shown(overNone.median)})`,
      })),
  }));
}

function text(x: number, y: number, words: string, kind = ''): string {
  const named = kind === '' ? '' : ` class="${kind}"`;
  return `<text x="${x.toFixed(1)}" y="${y}"${named}>${escape(words)}</text>`;
}

function escape(words: string): string {
  return words
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
