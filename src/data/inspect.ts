import { createHash } from 'node:crypto';
import sharp from 'sharp';
import { messageOf } from '../util/errors.ts';
import { printable } from '../util/quote.ts';
import { type DataProgress, type SkippedFile } from './dataset.ts';
import { decodeImage } from './decode.ts';
import type { ImageFiles } from './files.ts';
import { DECODES_IN_FLIGHT, forEachParallel } from './parallel.ts';

/** What was found in a set of image files. Counts are of the files looked at, but for `files` and `classes`. */
export interface Inspection {
  readonly files: number;
  readonly bytes: number;
  /** Of them looked at: all, or so many spread evenly. */
  readonly looked: number;
  readonly formats: Readonly<Record<string, number>>;
  /** Of the images that can be decoded: [looked, 2] widths and heights, turned upright. */
  readonly sizes: readonly (readonly [width: number, height: number])[];
  readonly rejected: readonly SkippedFile[];
  /** Files of the same bytes as one before them, and which. */
  readonly duplicates: readonly { readonly file: string; readonly of: string }[];
  /** Numbers of the files that can be decoded, in order. */
  readonly good: readonly number[];
}

export interface InspectOptions {
  /** Files to decode; of more, so many spread evenly. */
  readonly most: number;
  readonly onProgress?: (progress: DataProgress) => void;
}

/** Side at which images are decoded to find the bad ones: small, as JPEG is faster so, and cuts show all the same. */
const PROBE = 32;

/** Reads and decodes the files of a set, one time each. */
export async function inspectFiles(
  source: ImageFiles,
  { most, onProgress }: InspectOptions,
): Promise<Inspection> {
  const { files, sizes } = source;
  const looked = Math.min(files.length, most);
  const fileOf = (k: number) => Math.floor((k * files.length) / looked);
  const found: (Found | SkippedFile)[] = [];
  let done = 0;
  await forEachParallel(looked, DECODES_IN_FLIGHT, async (k) => {
    found[k] = await lookAt(source, fileOf(k));
    onProgress?.({ stage: 'decoding images', done: ++done, total: looked });
  });
  const formats: Record<string, number> = {};
  const firsts = new Map<string, string>();
  const duplicates: { file: string; of: string }[] = [];
  const good: number[] = [];
  for (const [k, one] of found.entries()) {
    if ('reason' in one) continue;
    const file = printable(files[fileOf(k)] ?? '');
    good.push(fileOf(k));
    formats[one.format] = (formats[one.format] ?? 0) + 1;
    const first = firsts.get(one.hash);
    if (first === undefined) firsts.set(one.hash, file);
    else duplicates.push({ file, of: first });
  }
  return {
    files: files.length,
    bytes: sizes.reduce((sum, size) => sum + Math.max(0, size), 0),
    ...{ looked, formats, duplicates, good },
    sizes: found.flatMap((one) => ('reason' in one ? [] : [[one.width, one.height] as const])),
    rejected: found.filter((one) => 'reason' in one),
  };
}

interface Found {
  readonly format: string;
  readonly width: number;
  readonly height: number;
  readonly hash: string;
}

async function lookAt(source: ImageFiles, file: number): Promise<Found | SkippedFile> {
  try {
    const bytes = await source.bytes(file);
    if (bytes.length === 0) throw new Error('the file is empty');
    await decodeImage(bytes, { imageSize: PROBE, channels: 3 });
    const { format, autoOrient } = await sharp(bytes).metadata();
    const hash = createHash('sha1').update(bytes).digest('base64');
    return { format, width: autoOrient.width, height: autoOrient.height, hash };
  } catch (error) {
    return { file: printable(source.files[file] ?? ''), reason: messageOf(error) };
  }
}

export interface Bin {
  /** From this on, up to twice as much. */
  readonly from: number;
  readonly n: number;
}

/** How many images have a shorter side of 1, of 2 to 3, of 4 to 7 … pixels: from the first to the last that are there. */
export function shorterSides(sizes: Inspection['sizes']): Bin[] {
  const counts = new Map<number, number>();
  for (const [width, height] of sizes) {
    const power = Math.floor(Math.log2(Math.max(1, Math.min(width, height))));
    counts.set(power, (counts.get(power) ?? 0) + 1);
  }
  const powers = [...counts.keys()];
  const first = Math.min(...powers);
  const length = powers.length === 0 ? 0 : Math.max(...powers) - first + 1;
  return Array.from({ length }, (_, i) => ({
    from: 2 ** (first + i),
    n: counts.get(first + i) ?? 0,
  }));
}

/** The middle of a list of sizes: of the sorted widths, and of the sorted heights. */
export function medianSize(sizes: Inspection['sizes']): readonly [number, number] {
  const middle = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] ?? 0;
  return [middle(sizes.map(([w]) => w)), middle(sizes.map(([, h]) => h))];
}
