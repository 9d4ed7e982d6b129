import { groupLaunches } from './groups.ts';
import type { Group } from './groups.ts';
import type { StepProfile } from './profile.ts';
import { escapeXml, meet, palette, px, svgDocument } from './svg.ts';
import type { Box } from './svg.ts';
import { roofsOf } from './tables.ts';

const frame = { width: 960, height: 600, left: 64, right: 24, top: 76, bottom: 48 };
const plot: Box = {
  x: frame.left,
  y: frame.top,
  width: frame.width - frame.left - frame.right,
  height: frame.height - frame.top - frame.bottom,
};
/** Pixels² of a dot that takes the whole step. */
const wholeArea = 9000;
const leastRadius = 3;
const mostLabels = 16;
/** Pixels of a letter in a wide font. */
const letter = 7;
/** A kernel of less of the step than this is left out: a dot that nobody sees would stretch the axes. */
const leastShare = 0.001;

/** A kernel in the picture: centre, size, and the box of its label where there was room for one. */
export interface Dot {
  readonly group: Group;
  readonly x: number;
  readonly y: number;
  readonly r: number;
  readonly label: Box | undefined;
}

/**
 * A roofline (Williams, Waterman & Patterson 2009) of a step: flops a byte to the right, GFLOP/s upwards, both in
 * decades; the roofs are the measured peaks. One dot a kernel, its area the share of the step that it takes, labelled
 * from the largest down where a label meets nothing.
 */
export function rooflineSvg(profile: StepProfile): string {
  const { peaks, preset, batch, adapter } = profile;
  const { dots, scale, left } = layOut(profile);
  const families = [...new Set(dots.map(({ group }) => familyOf(group)))].sort();
  const colourOf = (group: Group) =>
    palette[families.indexOf(familyOf(group)) % palette.length] ?? palette[0];
  const title = `Roofline of ${preset}, batch ${batch}, on ${adapter.name}`;
  const drawn = dots.map(({ group, x, y, r }) => {
    const { name, share, gflops, gbs, ofPeak, launches } = group;
    const told = `${name}: ${(100 * share).toFixed(1)} % of the step in ${launches.length} launches, ${gflops.toFixed(1)} GFLOP/s, ${gbs.toFixed(1)} GB/s, ${(100 * ofPeak).toFixed(0)} % of peak`;
    return `<circle class="dot" cx="${px(x)}" cy="${px(y)}" r="${px(r)}" fill="${colourOf(group)}"><title>${escapeXml(told)}</title></circle>`;
  });
  const labels = dots.flatMap((dot) =>
    dot.label === undefined
      ? []
      : [
          ...leaderPath(dot, dot.label),
          `<text x="${px(dot.label.x)}" y="${px(dot.label.y + 10)}">${escapeXml(dot.group.name)}</text>`,
        ],
  );
  const share = left.reduce((n, group) => n + group.share, 0);
  const rest =
    left.length === 0
      ? ''
      : `${left.length} kernels without arithmetic or time (${(100 * share).toFixed(1)} % of the step) are left out`;
  return svgDocument(frame, {
    title,
    style:
      '.roof{stroke-width:2}.higher{stroke-dasharray:6 4}.dot{fill-opacity:.75;stroke:#8888}.leader{stroke:#888}',
    body: [
      `<text class="title" x="${frame.left}" y="22">${escapeXml(title)}</text>`,
      `<text x="${frame.left}" y="40">Measured roofs: ${roofsOf(peaks)}.</text>`,
      `<text class="end" x="${plot.x + plot.width}" y="${frame.height - 10}">${rest}</text>`,
      ...legend(families),
      ...axes(scale),
      roof(scale, { ceiling: peaks.fmaGflops, copyGBs: peaks.copyGBs }, 'roof'),
      ...[peaks.f16Gflops ?? 0, peaks.matrixGflops ?? 0]
        .filter((ceiling) => ceiling > peaks.fmaGflops)
        .map((ceiling) => roof(scale, { ceiling, copyGBs: peaks.copyGBs }, 'higher')),
      ...drawn,
      ...labels,
    ],
  });
}

type Roofs = StepProfile['peaks'];

const familyOf = (group: Group) => group.name.split('/')[0] ?? '';

interface Scale {
  readonly x: readonly [number, number];
  readonly y: readonly [number, number];
  readonly toX: (intensity: number) => number;
  readonly toY: (gflops: number) => number;
}

/** Whole decades that hold all values; at least one. */
function decades(values: readonly number[]): [number, number] {
  const logs = values.map((v) => Math.log10(v));
  const low = Math.floor(Math.min(...logs));
  return [low, Math.max(low + 1, Math.ceil(Math.max(...logs)))];
}

/** Where everything stands. Exported for the test of the picture. */
export function layOut({ launches, peaks }: StepProfile): {
  dots: Dot[];
  scale: Scale;
  left: Group[];
} {
  const all = groupLaunches(launches, 'kernel', peaks);
  const groups = all.filter((g) => g.flops > 0 && g.bytes > 0 && g.share >= leastShare);
  const intensity = (g: Group) => g.flops / g.bytes;
  const ridge = peaks.fmaGflops / peaks.copyGBs;
  const highest = Math.max(peaks.fmaGflops, peaks.f16Gflops ?? 0, peaks.matrixGflops ?? 0);
  const x = decades([ridge / 2, (2 * highest) / peaks.copyGBs, ...groups.map(intensity)]);
  const y = decades([highest * 1.01, ...groups.map((g) => g.gflops)]);
  const scale: Scale = {
    ...{ x, y },
    toX: (v) => plot.x + ((Math.log10(v) - x[0]) / (x[1] - x[0])) * plot.width,
    toY: (v) => plot.y + plot.height - ((Math.log10(v) - y[0]) / (y[1] - y[0])) * plot.height,
  };
  const circles = groups.map((group) => ({
    group,
    x: scale.toX(intensity(group)),
    y: scale.toY(group.gflops),
    r: Math.max(leastRadius, Math.sqrt((wholeArea * group.share) / Math.PI)),
  }));
  const taken: Taken = { labels: [], others: [...circles.map(boxOf), ...beads(scale, peaks)] };
  const dots = circles.map((circle, i): Dot => {
    const label = i < mostLabels ? placeLabel(circle, taken) : undefined;
    if (label !== undefined) {
      taken.labels.push(label);
      taken.others.push(...beadsOf(leaderOf(circle, label)));
    }
    return { ...circle, label };
  });
  return { dots, scale, left: all.filter((g) => !groups.includes(g)) };
}

/** Small boxes along the roof, for labels to keep off. */
function beads({ x, toX, toY }: Scale, peaks: Roofs): Box[] {
  const count = 200;
  return Array.from({ length: count }, (_u, i) => {
    const intensity = 10 ** (x[0] + ((x[1] - x[0]) * i) / count);
    const height = Math.min(peaks.fmaGflops, intensity * peaks.copyGBs);
    return { x: toX(intensity) - 2, y: toY(height) - 2, width: 4, height: 4 };
  });
}

type Circle = Omit<Dot, 'label'>;

/** What a label must not meet; nor may the line to it cross another label. */
interface Taken {
  readonly labels: Box[];
  readonly others: Box[];
}

function boxOf({ x, y, r }: Circle): Box {
  return { x: x - r, y: y - r, width: 2 * r, height: 2 * r };
}

/** The first place round a dot, near before far, where its label meets no dot, no label and no edge. */
function placeLabel(circle: Circle, { labels, others }: Taken): Box | undefined {
  const { group, x, y, r } = circle;
  const [width, height] = [letter * group.name.length, 14];
  for (const gap of [3, 10, 20, 32, 48]) {
    const sides = [
      [x + r + gap, y - height / 2],
      [x - r - gap - width, y - height / 2],
      [x - width / 2, y - r - gap - height],
      [x - width / 2, y + r + gap],
      [x + 0.7 * r + gap, y - 0.7 * r - gap - height],
      [x + 0.7 * r + gap, y + 0.7 * r + gap],
      [x - 0.7 * r - gap - width, y - 0.7 * r - gap - height],
      [x - 0.7 * r - gap - width, y + 0.7 * r + gap],
    ] as const;
    for (const [left, top] of sides) {
      const box = { x: left, y: top, width, height };
      const inside =
        left >= plot.x &&
        top >= plot.y &&
        left + width <= plot.x + plot.width &&
        top + height <= plot.y + plot.height;
      const meets = (other: Box) => meet(box, other);
      if (!inside || labels.some(meets) || others.some(meets)) continue;
      const crossed = beadsOf(leaderOf(circle, box)).some((b) => labels.some((l) => meet(b, l)));
      if (!crossed) return box;
    }
  }
  return undefined;
}

/** A thin line to a label that is not close to its dot. */
function leaderPath(dot: Circle, label: Box): string[] {
  const line = leaderOf(dot, label);
  if (line === undefined) return [];
  const [fromX, fromY, toX, toY] = line.map(px);
  return [`<path class="leader" d="M${fromX} ${fromY}L${toX} ${toY}"/>`];
}

type Line = readonly [fromX: number, fromY: number, toX: number, toY: number];

/** From the edge of a dot to its label, where that is not close by. */
function leaderOf({ x, y, r }: Circle, label: Box): Line | undefined {
  const between = (low: number, value: number, high: number) =>
    Math.max(low, Math.min(value, high));
  const toX = between(label.x, x, label.x + label.width);
  const toY = between(label.y, y, label.y + label.height);
  const distance = Math.hypot(toX - x, toY - y);
  if (distance < r + 5) return undefined;
  return [x + ((toX - x) * r) / distance, y + ((toY - y) * r) / distance, toX, toY];
}

/** Small boxes along a line, for labels to keep off. */
function beadsOf(line: Line | undefined): Box[] {
  if (line === undefined) return [];
  const [fromX, fromY, toX, toY] = line;
  return Array.from({ length: 12 }, (_u, i) => {
    const part = (i + 0.5) / 12;
    const [x, y] = [fromX + part * (toX - fromX), fromY + part * (toY - fromY)];
    return { x: x - 1, y: y - 1, width: 2, height: 2 };
  });
}

function axes({ x, y, toX, toY }: Scale): string[] {
  const whole = ([low, high]: readonly [number, number]) =>
    Array.from({ length: high - low + 1 }, (_u, i) => low + i);
  const bottom = plot.y + plot.height;
  const vertical = whole(x).map((power) => {
    const at = px(toX(10 ** power));
    return `<path class="grid" d="M${at} ${plot.y}V${bottom}"/><text class="mid" x="${at}" y="${bottom + 16}">${decimal(power)}</text>`;
  });
  const horizontal = whole(y).map((power) => {
    const at = toY(10 ** power);
    return `<path class="grid" d="M${plot.x} ${px(at)}H${plot.x + plot.width}"/><text class="end" x="${plot.x - 8}" y="${px(at + 4)}">${decimal(power)}</text>`;
  });
  return [
    ...vertical,
    ...horizontal,
    `<text class="mid" x="${plot.x + plot.width / 2}" y="${frame.height - 10}">flops a byte</text>`,
    `<text x="8" y="${plot.y - 10}">GFLOP/s</text>`,
  ];
}

function decimal(power: number): string {
  return power < 0 ? (10 ** power).toFixed(-power) : String(10 ** power);
}

/** The slope of the bandwidth up to the ridge, then the ceiling of the arithmetic; cut where it leaves the plot. */
function roof(
  { x, y, toX, toY }: Scale,
  { ceiling, copyGBs }: { ceiling: number; copyGBs: number },
  name: string,
): string {
  const from = Math.max(10 ** x[0], 10 ** y[0] / copyGBs);
  const points = [
    [from, from * copyGBs],
    [ceiling / copyGBs, ceiling],
    [10 ** x[1], ceiling],
  ].map(([intensity = 1, gflops = 1]) => `${px(toX(intensity))} ${px(toY(gflops))}`);
  return `<path class="line ${name}" d="M${points.join('L')}"/>`;
}

function legend(families: readonly string[]): string[] {
  let x = frame.left;
  return families.map((family, i) => {
    const at = x;
    x += 26 + letter * family.length;
    return `<circle class="dot" cx="${px(at + 5)}" cy="54" r="5" fill="${palette[i % palette.length] ?? ''}"/><text x="${px(at + 14)}" y="58">${escapeXml(family)}</text>`;
  });
}
