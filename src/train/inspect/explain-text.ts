import { textTable } from '../../util/table.ts';
import type { ExplainedEntry, Explanation, PlannedSlot } from './explain.ts';
import { pairs } from './tables.ts';

/** The whole program: a line or more a launch, then the plan of its memory. */
export function explanationText(explanation: Explanation): string {
  const { preset, batch, adapter, entries } = explanation;
  const flops = entries.reduce((n, e) => n + e.flops, 0);
  return [
    `${preset}, batch ${batch}, on ${adapter}: ${entries.length} launches, ${(flops / 1e9).toFixed(2)} GFLOP`,
    '',
    ...passesOf(entries).flatMap(({ pass, part }) => [
      `${pass}: launches ${part[0]?.index} to ${part.at(-1)?.index}`,
      ...part.map(entryText),
      '',
    ]),
    memoryText(explanation),
  ].join('\n');
}

/** Neighbours of one pass together. */
function passesOf(entries: readonly ExplainedEntry[]) {
  const passes: { pass: string; part: ExplainedEntry[] }[] = [];
  for (const entry of entries) {
    const now = passes.at(-1);
    if (now?.pass === entry.pass) now.part.push(entry);
    else passes.push({ pass: entry.pass, part: [entry] });
  }
  return passes;
}

/** A launch in a few lines: where it belongs, what runs, on what. */
export function entryText({ index, layer, kernel, tile, ...entry }: ExplainedEntry): string {
  const margin = ' '.repeat(6);
  const constants = pairs(tile);
  const lines = [
    `${String(index).padStart(4)}  ${kernel}  grid ${entry.grid.join('×')}  in ${layer === '' ? '(no layer)' : layer}`,
    `${margin}${constants === '' ? '' : `[${constants}]  `}${pairs(entry.immediates)}`,
    ...entry.buffers.map(({ binding, access, tensor, bytes, slot }) => {
      const place = slot === null ? 'resident' : `slot ${slot}`;
      const arrow = access === 'read' ? ' ' : '→';
      return `${margin}${arrow} ${binding}: ${tensor}, ${size(bytes)}, ${place}`;
    }),
  ];
  return lines.join('\n');
}

const barWidth = 48;

function memoryText({ entries, memory }: Explanation): string {
  const { plannedBytes, unplannedBytes, liveBytes, slots } = memory;
  const tensors = slots.reduce((n, slot) => n + slot.tensors.length, 0);
  const order = slots
    .map((slot, number) => ({ slot, number }))
    .sort((a, b) => b.slot.bytes - a.slot.bytes || a.number - b.number);
  const columns = [
    { title: 'slot' },
    { title: 'size' },
    { title: 'tensors' },
    { title: `in use, launch 0 to ${entries.length - 1}`, text: true },
    { title: 'shared by', text: true },
  ];
  const rows = order.map(({ slot, number }) => [
    String(number),
    size(slot.bytes),
    String(slot.tensors.length),
    useBar(slot, entries.length),
    sharers(slot),
  ]);
  return [
    `memory: ${tensors} tensors in ${slots.length} buffers; ${size(plannedBytes)} planned, ${size(unplannedBytes)} with a buffer a tensor, ` +
      `${size(liveBytes)} alive at once`,
    textTable(columns, rows),
  ].join('\n');
}

/** When a slot holds something: a mark for each part of the step in which it does. */
function useBar({ tensors }: PlannedSlot, launches: number): string {
  const used = Array.from({ length: barWidth }, (_u, i) => {
    const [from, to] = [(i * launches) / barWidth, ((i + 1) * launches) / barWidth];
    return tensors.some(({ first, last }) => first < to && last + 1 > from);
  });
  return used.map((on) => (on ? '█' : '·')).join('');
}

/** The names of what lies there in turn, each with how often it comes. */
function sharers({ tensors }: PlannedSlot): string {
  const counts = new Map<string, number>();
  for (const { tensor } of tensors) counts.set(tensor, (counts.get(tensor) ?? 0) + 1);
  return [...counts].map(([name, n]) => (n === 1 ? name : `${n} ${name}`)).join(', ');
}

function size(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 2 ** 20
    ? `${(bytes / 1024).toFixed(1)} KiB`
    : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
