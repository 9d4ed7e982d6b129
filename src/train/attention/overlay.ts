import { toByte } from '../../io/png.ts';
import type { Picture } from '../../io/png.ts';
import type { GridSize } from './look.ts';

/** A pixel of an image, from 0 at the top left. */
export type Pixel = readonly [row: number, column: number];

type Colour = readonly [red: number, green: number, blue: number];

/** What marks the first point that is looked from, the second, and so on. */
export const pointColours: readonly { readonly name: string; readonly rgb: Colour }[] = [
  { name: 'red', rgb: [230, 25, 75] },
  { name: 'green', rgb: [60, 180, 75] },
  { name: 'blue', rgb: [67, 99, 216] },
  { name: 'orange', rgb: [245, 130, 49] },
  { name: 'cyan', rgb: [66, 212, 244] },
  { name: 'magenta', rgb: [240, 50, 230] },
];

/** The weights of a map [rows · columns]. */
export interface HeatMap {
  readonly weights: Float32Array;
  readonly size: GridSize;
}

export interface OverlayParts {
  /** [channels, side, side] in [−1, 1] */
  readonly image: Float32Array;
  readonly channels: 1 | 3;
  readonly side: number;
  /** Pixels that are looked from. */
  readonly points: readonly Pixel[];
  /** A row of the picture each, with a map for each point. */
  readonly rows: readonly (readonly HeatMap[])[];
}

/** Pixels of a panel's side, about: each of the image's becomes a square. */
const panelSide = 256;
const gap = 8;
const frame = 4;
const paper = 255;
/** What of the image is left below the heat. */
const dimming = 0.4;

/** Heat from 0 to 1, in equal steps: dark violet, red, orange, pale yellow. */
const heatStops: readonly Colour[] = [
  [20, 11, 52],
  [132, 32, 107],
  [229, 92, 48],
  [246, 215, 70],
  [252, 255, 190],
];

/**
 * A picture as in the paper's figures (Zhang et al. 2019, figures 1 and 5): in each row the image with the points marked, and
 * then for each point, framed in its colour, how its attention lies over the image, brightest where it is largest.
 */
export function drawOverlay(parts: OverlayParts): Picture {
  const { side, points, rows } = parts;
  const zoom = Math.max(1, Math.floor(panelSide / side));
  const panel = side * zoom;
  const width = gap + (1 + points.length) * (panel + gap);
  const height = gap + rows.length * (panel + gap);
  const pixels = new Uint8Array(3 * width * height).fill(paper);
  const colours = coloursOf(parts);
  rows.forEach((maps, row) => {
    const panels = [undefined, ...maps];
    panels.forEach((heat, column) => {
      const canvas = {
        ...{ pixels, width, panel },
        left: gap + column * (panel + gap),
        top: gap + row * (panel + gap),
      };
      const heatAt = heat && heatOf(heat);
      paint(canvas, ([y, x]) => {
        const under = colours(Math.floor(y / zoom), Math.floor(x / zoom));
        return heatAt === undefined ? under : heated(under, heatAt(y / panel, x / panel));
      });
      points.forEach((point, i) => {
        if (heat !== undefined && i !== column - 1) return;
        const colour = pointColours[i % pointColours.length]?.rgb ?? [0, 0, 0];
        if (heat !== undefined) drawFrame(canvas, colour);
        drawDot(canvas, { at: point.map((p) => (p + 0.5) * zoom), colour });
      });
    });
  });
  return { pixels, width, height, channels: 3 };
}

/** The image's colour at a row and column. */
function coloursOf({ image, channels, side }: OverlayParts): (y: number, x: number) => Colour {
  const level = (c: number, at: number) =>
    toByte(image[Math.min(c, channels - 1) * side ** 2 + at] ?? 0);
  return (y, x) => [level(0, y * side + x), level(1, y * side + x), level(2, y * side + x)];
}

/** How large the weight at a place in [0, 1)² is, of the map's largest. */
function heatOf({ weights, size: [rows, columns] }: HeatMap): (y: number, x: number) => number {
  const most = weights.reduce((a, b) => Math.max(a, b), 0);
  return (y, x) => {
    const weight = weights[Math.floor(y * rows) * columns + Math.floor(x * columns)] ?? 0;
    return most > 0 ? weight / most : 0;
  };
}

/** The image, dim and grey, under the colour of a heat. */
function heated([r, g, b]: Colour, heat: number): Colour {
  const grey = dimming * (0.299 * r + 0.587 * g + 0.114 * b);
  const place = heat * (heatStops.length - 1);
  const low = Math.min(Math.floor(place), heatStops.length - 2);
  const [from, to] = [heatStops[low] ?? [0, 0, 0], heatStops[low + 1] ?? [0, 0, 0]];
  const mix = (c: 0 | 1 | 2) => {
    const colour = from[c] + (place - low) * (to[c] - from[c]);
    return Math.round(grey + (colour - grey) * (0.35 + 0.65 * heat));
  };
  return [mix(0), mix(1), mix(2)];
}

/** A square part of a picture. */
interface Canvas {
  readonly pixels: Uint8Array;
  readonly width: number;
  readonly left: number;
  readonly top: number;
  readonly panel: number;
}

/** Gives every pixel of a canvas its colour; undefined leaves it. */
function paint(canvas: Canvas, colour: (at: readonly [number, number]) => Colour | undefined) {
  const { pixels, width, left, top, panel } = canvas;
  for (let y = 0; y < panel; y++) {
    for (let x = 0; x < panel; x++) {
      const rgb = colour([y, x]);
      if (rgb !== undefined) pixels.set(rgb, 3 * ((top + y) * width + left + x));
    }
  }
}

function drawFrame(canvas: Canvas, colour: Colour): void {
  const inner = canvas.panel - frame;
  paint(canvas, ([y, x]) =>
    Math.min(x, y) < frame || Math.max(x, y) >= inner ? colour : undefined,
  );
}

/** A disc with a white ring round it, which shows on every ground. */
function drawDot(canvas: Canvas, { at, colour }: { at: readonly number[]; colour: Colour }): void {
  const radius = canvas.panel / 40;
  const [cy = 0, cx = 0] = at;
  paint(canvas, ([y, x]) => {
    const distance = Math.hypot(y + 0.5 - cy, x + 0.5 - cx);
    if (distance > radius * 1.5) return undefined;
    return distance > radius ? [255, 255, 255] : colour;
  });
}
