import { existsSync, readdirSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { runPaths } from '../train/run-folder.ts';
import type { Track } from './data.ts';
import { spread } from './thin.ts';

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
const kinds = {
  'step.png': 'samples',
  'step.apng': 'clips',
  'reconstructions.png': 'reconstructions',
};

/** What kind of picture a file of the samples folder is by its name; undefined for any other file. */
export function kindOfPicture(name: string): Track['kind'] | undefined {
  const [, what = '', , ending = ''] = pattern.exec(name) ?? [];
  const found = Object.entries(kinds).find(([key]) => key === `${what}.${ending}`)?.[1];
  return found as Track['kind'] | undefined;
}

/** The pictures in a run folder by kind, each in the order of steps; kinds of which there are none are left out. */
export function picturesOf(run: string): PictureTrack[] {
  const { samples } = runPaths(run);
  const tracks = new Map<Track['kind'], PictureFile[]>();
  for (const name of existsSync(samples) ? readdirSync(samples) : []) {
    const kind = kindOfPicture(name);
    if (kind === undefined) continue;
    const files = tracks.get(kind) ?? [];
    files.push({ step: Number(pattern.exec(name)?.[2]), name });
    tracks.set(kind, files);
  }
  const order = Object.values(kinds);
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

/**
 * Pictures as data URLs, for a page that stands alone. What was made of a file is kept while the file is the same: a run
 * that writes its report again and again makes each once.
 */
export class Embedder {
  readonly #made = new Map<string, { readonly stamp: string; readonly uri: string }>();

  /**
   * At most 100 pictures of a track and about 4 MiB: the first, the last, and evenly between. What cannot be read as a
   * picture is left out, and named in `broken`.
   */
  async track(run: string, { kind, files }: PictureTrack, broken: string[]): Promise<Track> {
    for (let most = mostPictures; ; most = Math.floor(most / 2)) {
      const pictures: { step: number; src: string }[] = [];
      const chosen = new Set<string>();
      let bytes = 0;
      for (const place of spread(files.length, most)) {
        const file = files[place];
        if (file === undefined) continue;
        const path = join(runPaths(run).samples, file.name);
        chosen.add(path);
        const src = await this.#embed(path);
        bytes += src?.length ?? 0;
        if (src !== undefined) pictures.push({ step: file.step, src });
        else if (!broken.includes(file.name)) broken.push(file.name);
        if (bytes > mostBytes && most > 2) break;
      }
      if (bytes > mostBytes && most > 2) continue;
      // Of the pictures that this report leaves out nothing is kept: a run may have any number of them.
      for (const { name } of files) {
        const path = join(runPaths(run).samples, name);
        if (!chosen.has(path)) this.#made.delete(path);
      }
      return { kind, pictures, all: files.length };
    }
  }

  async #embed(path: string): Promise<string | undefined> {
    try {
      const { mtimeMs, size } = await stat(path);
      const stamp = `${mtimeMs} ${size}`;
      const known = this.#made.get(path);
      if (known?.stamp === stamp) return known.uri;
      const uri = await dataUri(await readFile(path), path.endsWith('.apng'));
      this.#made.set(path, { stamp, uri });
      return uri;
    } catch {
      return undefined;
    }
  }
}

async function dataUri(bytes: Buffer, animated: boolean): Promise<string> {
  // sharp reads one frame of an animated PNG, so that this at least shows that there is one.
  const image = sharp(bytes);
  if (animated || bytes.length <= smallBytes) {
    await image.metadata();
    return `data:image/png;base64,${bytes.toString('base64')}`;
  }
  const webp = await image.webp({ quality, smartSubsample: true }).toBuffer();
  return `data:image/webp;base64,${webp.toString('base64')}`;
}
