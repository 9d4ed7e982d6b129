import sharp from 'sharp';
import { type Picture, imageGrid } from '../io/png.ts';
import { printable } from '../util/quote.ts';
import type { Dataset } from './dataset.ts';

/** Images on a sheet, or a few less: rows are full. */
const IMAGES = 64;
const MOST_ROWS = 16;
const MOST_COLUMNS = 16;
const PADDING = 2;
/** Pixels beside the rows for the names of their classes. */
const MARGIN = 160;

/**
 * A contact sheet in colour: up to 64 images spread evenly over the set, of clips the first frame. A set of several classes
 * has a row for each of up to 16 of them, spread evenly, with its name beside it. `from` are the indices to choose from;
 * default all.
 */
export async function contactSheet(
  set: Dataset,
  from: readonly number[] = [...new Array<undefined>(set.size).keys()],
): Promise<Picture> {
  const byClass = new Map<number, number[]>();
  for (const index of from) {
    const members = byClass.get(set.label(index));
    if (members === undefined) byClass.set(set.label(index), [index]);
    else members.push(index);
  }
  if (byClass.size < 2) return pictureOf(set, spread(from, IMAGES), undefined);
  const classes = spread(
    [...byClass.keys()].sort((a, b) => a - b),
    MOST_ROWS,
  );
  const columns = Math.min(MOST_COLUMNS, Math.floor(IMAGES / classes.length));
  const rows = classes.map((label) => spread(byClass.get(label) ?? [], columns));
  const grid = await pictureOf(
    set,
    rows.flatMap((row) => padded(row, columns)),
    columns,
  );
  return labelled(grid, {
    names: classes.map((label) => set.classes[label] ?? String(label)),
    pitch: set.imageSize + PADDING,
  });
}

/** As many as `n`, spread evenly. */
function spread<T>(list: readonly T[], n: number): T[] {
  const length = Math.min(n, list.length);
  return Array.from({ length }, (_, k) => list[Math.floor((k * list.length) / length)] as T);
}

/** −1 for the places that are left white. */
function padded(row: readonly number[], columns: number): number[] {
  return Array.from({ length: columns }, (_, i) => row[i] ?? -1);
}

async function pictureOf(
  set: Dataset,
  indices: readonly number[],
  columns: number | undefined,
): Promise<Picture> {
  const { imageSize: size, channels, frames } = set;
  const plane = size * size;
  const shown = indices.filter((index) => index >= 0);
  const bytes = new Uint8Array(shown.length * channels * frames * plane);
  await set.read(shown, bytes);
  const images = new Uint8Array(indices.length * 3 * plane).fill(255);
  let from = 0;
  for (const [i, index] of indices.entries()) {
    if (index < 0) continue;
    for (let c = 0; c < 3; c++) {
      const channel = from + Math.min(c, channels - 1) * frames * plane;
      images.set(bytes.subarray(channel, channel + plane), (3 * i + c) * plane);
    }
    from += channels * frames * plane;
  }
  return imageGrid(images, {
    ...{ n: indices.length, channels: 3, height: size, width: size, padding: PADDING },
    ...(columns === undefined ? {} : { columns }),
  });
}

/** The picture with a name at the left of each row. */
async function labelled(
  picture: Picture,
  { names, pitch }: { readonly names: readonly string[]; readonly pitch: number },
): Promise<Picture> {
  const { width, height, pixels } = picture;
  const texts = names.map((name, row) => {
    const y = PADDING + row * pitch + pitch / 2 + 5;
    return `<text x="${MARGIN - 8}" y="${y}" text-anchor="end">${escaped(shortened(name))}</text>`;
  });
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${MARGIN}" height="${height}" font-family="sans-serif" font-size="14">${texts.join('')}</svg>`;
  const raw = await sharp(pixels, { raw: { width, height, channels: 3 } })
    .extend({ left: MARGIN, background: '#ffffff' })
    .composite([{ input: Buffer.from(svg), left: 0, top: 0 }])
    .removeAlpha()
    .raw()
    .toBuffer();
  return { pixels: new Uint8Array(raw), width: width + MARGIN, height, channels: 3 };
}

function shortened(name: string): string {
  const clean = printable(name);
  return clean.length > 20 ? `${clean.slice(0, 19)}…` : clean;
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
