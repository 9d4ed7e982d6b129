import type { CaseComparison, PeersResult } from './report.ts';

const layout = { width: 860, left: 210, right: 90, top: 64, bar: 11, gap: 12 };
const colours = [
  '#0a7d62',
  '#d9782d',
  '#5571c8',
  '#a5569e',
  '#8a8f98',
  '#b9bdc4',
  '#6d727b',
  '#4b4f57',
];

/** A group of bars a case: time over wgsagan's at its best, on a logarithmic axis. A self-contained SVG. */
export function barChart(result: PeersResult): string {
  const groups = result.comparison.flatMap((c) => barsOf(c));
  const peers = [...new Set(groups.flatMap((g) => g.bars.map((b) => b.peer)))];
  const most = Math.max(2, ...groups.flatMap((g) => g.bars.map((b) => b.times)));
  const least = Math.min(0.5, ...groups.flatMap((g) => g.bars.map((b) => b.times)));
  const [low, high] = [Math.log10(least / 1.3), Math.log10(most * 1.1)];
  const x = (times: number) =>
    layout.left +
    ((Math.log10(times) - low) / (high - low)) * (layout.width - layout.left - layout.right);
  const parts: string[] = [];
  let y = layout.top;
  for (const { title, bars } of groups) {
    const middle = y + (bars.length * layout.bar) / 2 + 4;
    parts.push(
      `<text x="${layout.left - 150}" y="${fix(middle)}" text-anchor="end" class="t">${escape(title)}</text>`,
    );
    for (const { peer, ms, times } of bars) {
      const [from, to] = [x(least / 1.3), x(times)];
      const colour = colours[peers.indexOf(peer) % colours.length] ?? '#888';
      parts.push(
        `<rect x="${fix(from)}" y="${fix(y)}" width="${fix(Math.max(1, to - from))}" height="${layout.bar - 2}" fill="${colour}"/>`,
        `<text x="${fix(to + 4)}" y="${fix(y + layout.bar - 3)}" class="s">${times.toPrecision(2)}× · ${ms.toPrecision(3)} ms</text>`,
      );
      y += layout.bar;
    }
    y += layout.gap;
  }
  const legend = peers.map((peer, i) => {
    const at = layout.left - 140 + i * 118;
    return `<rect x="${at}" y="34" width="10" height="10" fill="${colours[i % colours.length] ?? '#888'}"/><text x="${at + 15}" y="43">${escape(peer)}</text>`;
  });
  const one = x(1);
  const title = `Time of a step over wgsagan’s, everybody at their best: ${result.machine.adapter}${result.quick ? ' (a quick run: noisy)' : ''}`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${layout.width} ${fix(y + 8)}" role="img" aria-label="${escape(title)}">
<style>text{font:12px system-ui,sans-serif;fill:#333}.s{font-size:9px}.one{stroke:#8888}.bg{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#ccc}.bg{fill:#161616}}</style>
<rect class="bg" width="${layout.width}" height="${fix(y + 8)}"/>
<text x="${layout.left - 140}" y="20" font-weight="600">${escape(title)}</text>
${legend.join('\n')}
<path class="one" d="M${fix(one)} ${layout.top - 8}V${fix(y)}"/>
${parts.join('\n')}
</svg>
`;
}

/** A case's bars, ours first; none where ours has no time to divide by. */
function barsOf({ title, standings }: CaseComparison) {
  const ours = standings.find((s) => s.kind === 'ours')?.best;
  if (!ours) return [];
  const bars = standings.flatMap((s) =>
    s.best === null ? [] : [{ peer: s.title, ms: s.best.ms, times: s.best.ms / ours.ms }],
  );
  return [{ title, bars }];
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}

function fix(value: number): string {
  return value.toFixed(1);
}
