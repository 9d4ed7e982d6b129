import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { runPaths } from '../train/run-folder.ts';
import type { Track } from './data.ts';
import { spread } from './thin.ts';

// libvips would keep its last hundred pictures for when they are asked for again: none is.
sharp.cache(false);

/** A picture of a run folder's samples, by its name there. */
export interface PictureFile {
  readonly step: number;
  readonly name: string;
}

export interface PictureTrack {
  readonly kind: Track['kind'];
  readonly files: readonly PictureFile[];
}

const pattern = /^(step|reconstructions)-(\d+)\.(png|apng)$/;
const kinds: ReadonlyMap<string, Track['kind']> = new Map([
  ['step.png', 'samples'],
  ['step.apng', 'clips'],
  ['reconstructions.png', 'reconstructions'],
]);

/** What kind of picture a file of the samples folder is by its name; undefined for any other file. */
export function kindOfPicture(name: string): Track['kind'] | undefined {
  return named(name)?.kind;
}

function named(name: string): { readonly kind: Track['kind']; readonly step: number } | undefined {
  const [, what = '', step, ending = ''] = pattern.exec(name) ?? [];
  const kind = kinds.get(`${what}.${ending}`);
  return kind === undefined ? undefined : { kind, step: Number(step) };
}

/** The pictures in a run folder by kind, each in the order of steps; kinds of which there are none are left out. */
export function picturesOf(run: string): PictureTrack[] {
  const { samples } = runPaths(run);
  const tracks = new Map<Track['kind'], PictureFile[]>();
  for (const name of existsSync(samples) ? readdirSync(samples) : []) {
    const found = named(name);
    if (found === undefined) continue;
    const { kind, step } = found;
    const files = tracks.get(kind) ?? [];
    files.push({ step, name });
    tracks.set(kind, files);
  }
  const order = [...kinds.values()];
  return [...tracks]
    .map(([kind, files]) => ({ kind, files: files.sort((a, b) => a.step - b.step) }))
    .sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
}

/** Most pictures of a kind in a report, and most bytes of them: the whole file stays one that is opened at once. */
const mostPictures = 100;
const mostBytes = 4 * 2 ** 20;

/** A PNG up to this is embedded as it is; a larger one is made a WebP of this quality, hardly to be told apart from it. */
const smallBytes = 48 * 2 ** 10;
const quality = 85;

/** What a file was found to be: a picture to embed as it is, or made a WebP. */
interface Made {
  readonly stamp: string;
  readonly size: number;
  readonly webp: Buffer | undefined;
}

/** The bytes of a data URL, about. */
const embeddedBytes = ({ size, webp }: Made) => Math.ceil(((webp?.length ?? size) * 4) / 3);

/**
 * Pictures as data URLs, for a page that stands alone. What was made of a file is kept while the file is the same: a run
 * that writes its report again and again makes each once.
 */
export class Embedder {
  readonly #made = new Map<Track['kind'], Map<string, Made>>();

  /**
   * At most 100 pictures of a track and about 4 MiB: the first, the last, and evenly between. What cannot be read as a
   * picture is left out, and named in `broken`. A file that is embedded as it is gets read when its `src` is asked for, so
   * that no more than one of them is in memory.
   */
  async track(run: string, { kind, files }: PictureTrack, broken: string[]): Promise<Track> {
    const known = this.#made.get(kind) ?? new Map<string, Made>();
    this.#made.set(kind, known);
    const { samples } = runPaths(run);
    for (let most = mostPictures; ; most = Math.floor(most / 2)) {
      const pictures: { readonly step: number; readonly src: string }[] = [];
      const chosen = new Set<string>();
      let bytes = 0;
      for (const place of spread(files.length, most)) {
        const file = files[place];
        if (file === undefined) continue;
        const path = join(samples, file.name);
        chosen.add(path);
        const made = await look(path, known.get(path));
        if (made === undefined) {
          if (!broken.includes(file.name)) broken.push(file.name);
          continue;
        }
        known.set(path, made);
        bytes += embeddedBytes(made);
        pictures.push({
          step: file.step,
          get src() {
            return dataUri(path, made);
          },
        });
        if (bytes > mostBytes && most > 2) break;
      }
      if (bytes > mostBytes && most > 2) continue;
      // Of the pictures that this report leaves out nothing is kept: a run may have any number of them.
      for (const path of known.keys()) if (!chosen.has(path)) known.delete(path);
      return { kind, pictures, all: files.length };
    }
  }
}

/** What a file is, looked at again where it is another than `before`; undefined where it is no picture. */
async function look(path: string, before: Made | undefined): Promise<Made | undefined> {
  try {
    const { mtimeMs, size } = await stat(path);
    const stamp = `${mtimeMs} ${size}`;
    if (before?.stamp === stamp) return before;
    const image = sharp(await readFile(path));
    // sharp reads one frame of an animated PNG, so that this at least shows that there is one.
    if (path.endsWith('.apng') || size <= smallBytes) {
      await image.metadata();
      return { stamp, size, webp: undefined };
    }
    return { stamp, size, webp: await image.webp({ quality, smartSubsample: true }).toBuffer() };
  } catch {
    return undefined;
  }
}

/** Of a file that went away since it was looked at, nothing. */
function dataUri(path: string, { webp }: Made): string {
  try {
    const type = webp === undefined ? 'png' : 'webp';
    return `data:image/${type};base64,${(webp ?? readFileSync(path)).toString('base64')}`;
  } catch {
    return 'data:,';
  }
}
