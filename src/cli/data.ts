import { Command } from 'commander';
import { imageFilesOf, kindOfSource, openDataset } from '../data/dataset.ts';
import type { DataProgress, Dataset, SourceKind } from '../data/dataset.ts';
import { type ImageFiles, openFiles } from '../data/files.ts';
import { type Inspection, inspectFiles, medianSize, shorterSides } from '../data/inspect.ts';
import { contactSheet } from '../data/sheet.ts';
import { cacheDir } from '../gpu/platform.ts';
import { writeFileAtomic } from '../io/atomic.ts';
import { encodePng } from '../io/png.ts';
import { UserError } from '../util/errors.ts';
import { checkWritable } from './files.ts';
import type { ExitState } from './main.ts';
import { positiveInt, someText } from './options.ts';
import { Progress } from './progress.ts';

interface Flags {
  readonly out?: string;
  readonly json?: string;
  readonly most: number;
}

export function dataCommand(_state: ExitState): Command {
  const inspect = new Command('inspect')
    .description('say what a source holds: counts, sizes, classes, files that cannot be used')
    .argument('<source>', 'what train takes as --data', someText)
    .option('--out <file>', 'PNG to write: 64 of the images, a row for each class', someText)
    .option('--json <file>', 'write what was found as JSON', someText)
    .option(
      '--most <count>',
      'images to decode; of more, so many spread evenly',
      positiveInt,
      20_000,
    )
    .action(inspectSource);
  return new Command('data').description('look at data before training').addCommand(inspect);
}

/** Side of an image on the sheet, and frames of a clip that are looked at. */
const SHEET_SIZE = 64;
const CLIP_FRAMES = 2;
/** Names that are printed; the JSON has all. */
const PRINTED = 10;

/** Count of images by class name. */
type ClassCounts = readonly (readonly [name: string, images: number])[];

async function inspectSource(source: string, { out, json, most }: Flags): Promise<void> {
  if (out !== undefined) checkWritable('--out', out, 'the sheet', 'png');
  if (json !== undefined) checkWritable('--json', json, 'the report', 'json');
  const kind = await kindOfSource(source);
  const progress = new Progress();
  const onProgress = ({ stage, done, total }: DataProgress) => {
    progress.show(`${stage}: ${done}${total === undefined ? '' : `/${total}`}`);
  };
  const say = (line: string) => process.stdout.write(`${line}\n`);
  const opened = await open(source, kind, { most, onProgress });
  const { set, files, found } = opened;
  try {
    const classes = countsOf(opened);
    progress.clear();
    const lines = found === undefined ? [`data        ${set.description}`] : linesOf(source, found);
    for (const line of [...lines, ...classLines(classes)]) say(line);
    if (out !== undefined && found?.good.length === 0) {
      throw new UserError(`--out ${out}: there is no image to show on a sheet`);
    }
    if (out !== undefined) {
      const sheet = await contactSheet(set, found?.good);
      await writeFileAtomic(out, encodePng(sheet.pixels, sheet));
      say(`sheet       ${out}`);
    }
    if (json !== undefined) {
      const { good, ...report } = found ?? { good: [] };
      const what = { source, kind, description: set.description, fingerprint: set.fingerprint };
      const usable = files === undefined ? {} : { usable: good.length };
      const all = { ...what, ...usable, ...report, classes: Object.fromEntries(classes) };
      await writeFileAtomic(json, `${JSON.stringify(all, undefined, 2)}\n`);
      say(`report      ${json}`);
    }
  } finally {
    await set.close?.();
  }
}

interface Opened {
  readonly set: Dataset;
  readonly files?: ImageFiles;
  readonly found?: Inspection;
}

async function open(
  source: string,
  kind: SourceKind,
  { most, onProgress }: { most: number; onProgress: (progress: DataProgress) => void },
): Promise<Opened> {
  const decode = { imageSize: SHEET_SIZE, channels: 3 } as const;
  if (kind === 'images' || kind === 'zip' || kind === 'tar') {
    const files = await imageFilesOf(source, kind, { onProgress });
    const found = await inspectFiles(files, { most, onProgress });
    // Only the images of the sheet are decoded again.
    return { files, found, set: await openFiles(files, { ...decode, checkUpTo: 0 }) };
  }
  const frames = kind === 'moving-shapes' ? CLIP_FRAMES : 1;
  return {
    set: await openDataset(source, { ...decode, frames, onProgress, cacheDir: cacheDir() }),
  };
}

/** Of the images that can be decoded, where all were. */
function countsOf({ set, found }: Opened): ClassCounts {
  const counts = new Array<number>(set.classes.length).fill(0);
  const all = found?.looked === found?.files ? found?.good : undefined;
  for (const index of all ?? new Uint32Array(set.size).keys()) {
    counts[set.label(index)] = (counts[set.label(index)] ?? 0) + 1;
  }
  return set.classes.map((name, label) => [name, counts[label] ?? 0]);
}

function linesOf(source: string, found: Inspection): string[] {
  const { files, looked, bytes, rejected, duplicates, sizes } = found;
  const mib = (bytes / 2 ** 20).toFixed(1);
  const part = looked < files ? `, ${looked} of them decoded` : '';
  const formats = Object.entries(found.formats).map(([name, n]) => `${name} ${n}`);
  const list = (items: readonly string[], title: string) => {
    const more = items.length - PRINTED;
    const shown = items.slice(0, PRINTED).map((item) => `            ${item}`);
    if (more > 0) shown.push(`            and ${more} more`);
    return [`${title.padEnd(12)}${items.length}`, ...(items.length > 0 ? shown : [])];
  };
  return [
    `source      ${source}`,
    `images      ${files} files, ${mib} MiB${part}`,
    `formats     ${formats.join(', ')}`,
    ...sizeLines(sizes),
    ...list(
      rejected.map(({ file, reason }) => `${file}: ${reason}`),
      'rejected',
    ),
    ...list(
      duplicates.map(({ file, of }) => `${file} is ${of}`),
      'duplicates',
    ),
  ];
}

/** Widest bar of the histogram, in characters. */
const BAR = 40;

function sizeLines(sizes: Inspection['sizes']): string[] {
  if (sizes.length === 0) return [];
  const [width, height] = medianSize(sizes);
  const distinct = new Set(sizes.map(([w, h]) => `${w}×${h}`)).size;
  const bins = shorterSides(sizes);
  const most = Math.max(...bins.map(({ n }) => n));
  const digits = String(most).length;
  return [
    `sizes       ${distinct} different, median ${width}×${height}; the shorter side in pixels:`,
    ...bins.map(({ from, n }) => {
      const range = `${from}–${2 * from - 1}`.padStart(11);
      const bar = '█'.repeat(Math.ceil((n / most) * BAR));
      return `            ${range}  ${String(n).padStart(digits)}  ${bar}`.trimEnd();
    }),
  ];
}

function classLines(classes: ClassCounts): string[] {
  if (classes.length < 2) return ['classes     1'];
  const counts = classes.map(([, n]) => n);
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  const uneven = least > 0 && most >= 2 * least ? '; --balanced shows all as often' : '';
  const width = Math.max(...classes.slice(0, 2 * PRINTED).map(([name]) => name.length));
  const rows = classes
    .slice(0, 2 * PRINTED)
    .map(([name, n]) => `            ${name.padEnd(width)}  ${n}`);
  if (classes.length > rows.length)
    rows.push(`            and ${classes.length - rows.length} more`);
  return [`classes     ${classes.length}, of ${least} to ${most} images${uneven}`, ...rows];
}
