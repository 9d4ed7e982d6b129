import type { Explanation } from './explain.ts';
import { escapeXml, palette, px, svgDocument } from './svg.ts';

const frame = { width: 960, left: 72, right: 24, top: 76, bottom: 40 };
const leastHeight = 5;
/** Pixels of all slots together, before the least height of each. */
const wholeHeight = 640;

/**
 * When each planned buffer holds which tensor: launches to the right, buffers from the largest down, each as high as its
 * share of the bytes; colours are the passes in which tensors are born.
 */
export function lifetimesSvg({ entries, memory, preset, batch, adapter }: Explanation): string {
  const passes = [...new Set(entries.map(({ pass }) => pass))];
  const width = frame.width - frame.left - frame.right;
  const atLaunch = (i: number) =>
    frame.left + (Math.min(i, entries.length) / entries.length) * width;
  const order = memory.slots
    .map((slot, number) => ({ ...slot, number }))
    .sort((a, b) => b.bytes - a.bytes || a.number - b.number);
  const parts: string[] = [];
  let y = frame.top;
  for (const { bytes, tensors, number } of order) {
    const height = Math.max(leastHeight, (wholeHeight * bytes) / memory.plannedBytes);
    if (height >= 11) {
      parts.push(
        `<text class="end" x="${frame.left - 6}" y="${px(y + height / 2 + 4)}">${mib(bytes)}</text>`,
      );
    }
    for (const { tensor, bytes: own, first, last } of tensors) {
      const [from, to] = [atLaunch(first), atLaunch(last + 1)];
      const colour =
        palette[passes.indexOf(entries[first]?.pass ?? '') % palette.length] ?? palette[0];
      const told = `slot ${number}: ${tensor}, ${mib(own)}, launches ${first} to ${Math.min(last, entries.length - 1)}`;
      parts.push(
        `<rect class="life" x="${px(from)}" y="${px(y)}" width="${px(Math.max(0.5, to - from))}" height="${px(height - 1)}" fill="${colour}"><title>${escapeXml(told)}</title></rect>`,
      );
    }
    y += height;
  }
  const title = `Buffers of a step of ${preset}, batch ${batch}, on ${adapter}`;
  const told = `${mib(memory.plannedBytes)} planned, ${mib(memory.unplannedBytes)} with a buffer a tensor, ${mib(memory.liveBytes)} alive at once`;
  return svgDocument(
    { width: frame.width, height: y + frame.bottom },
    {
      title,
      style: '.life{fill-opacity:.8}',
      body: [
        `<text class="title" x="${frame.left}" y="22">${escapeXml(title)}</text>`,
        `<text x="${frame.left}" y="40">${told}</text>`,
        ...legend(passes),
        ...parts,
        ...[0, 0.25, 0.5, 0.75, 1].map((part) => {
          const launch = Math.round(part * (entries.length - 1));
          return `<text class="mid" x="${px(atLaunch(launch))}" y="${px(y + 16)}">${launch}</text>`;
        }),
        `<text class="mid" x="${frame.left + width / 2}" y="${px(y + 32)}">launch</text>`,
      ],
    },
  );
}

function legend(passes: readonly string[]): string[] {
  let x = frame.left;
  return passes.map((pass, i) => {
    const at = x;
    x += 28 + 7 * pass.length;
    return `<rect class="life" x="${px(at)}" y="50" width="10" height="10" fill="${palette[i % palette.length] ?? ''}"/><text x="${px(at + 15)}" y="59">${escapeXml(pass)}</text>`;
  });
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 2 : 1)} MiB`;
}
