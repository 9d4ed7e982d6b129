import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Attention } from './data.ts';

/** The folder of a run folder that holds attention maps. */
export const attentionFolder = 'attention';

const pattern = /^step-(\d+)\.json$/;
const count = z.int().min(1);
const grid = z.tuple([count, count]);
const base64 = z.string().regex(/^[A-Za-z0-9+/]*=*$/);

const schema = z.object({
  step: z.int().min(0),
  imageSize: count,
  samples: count,
  images: z.array(base64),
  layers: z.array(
    z.object({ name: z.string(), heads: count, queries: grid, keys: grid, maps: base64 }),
  ),
});

/** Most bytes of maps in a report: samples beyond are left out. */
const mostBytes = 3 * 2 ** 20;

/** Is a file called as those of attention maps are? */
export function isAttentionName(name: string): boolean {
  return pattern.test(name);
}

/** Name of the newest file of attention maps of a run; undefined where there is none. */
export function newestAttention(run: string): string | undefined {
  const folder = join(run, attentionFolder);
  if (!existsSync(folder)) return undefined;
  const stepOf = (name: string) => Number(pattern.exec(name)?.[1]);
  return readdirSync(folder)
    .filter(isAttentionName)
    .sort((a, b) => stepOf(a) - stepOf(b))
    .at(-1);
}

/** The newest attention maps of a run, read again only when there are others. */
export class AttentionReader {
  #stamp = '';
  #read: Attention | undefined;

  /** As many samples as have room; null where there are no maps. Throws for a file that holds none. */
  read(run: string): Attention | null {
    const name = newestAttention(run);
    if (name === undefined) return null;
    const path = join(run, attentionFolder, name);
    const { mtimeMs, size } = statSync(path);
    const stamp = `${path} ${mtimeMs} ${size}`;
    if (this.#read === undefined || stamp !== this.#stamp) {
      this.#read = fewSamples(parseAttention(readFileSync(path, 'utf8')), mostBytes);
      this.#stamp = stamp;
    }
    return this.#read;
  }
}

/** Attention maps from their file's text. Throws for another text, and for maps that are not of the size they say. */
export function parseAttention(text: string): Attention {
  const attention = schema.parse(JSON.parse(text));
  const { samples, images, layers } = attention;
  if (images.length !== samples) throw new Error(`${images.length} images of ${samples} samples`);
  for (const layer of layers) {
    const bytes = samples * bytesOfSample(layer);
    const { length } = Buffer.from(layer.maps, 'base64');
    if (length !== bytes) throw new Error(`${layer.name} has ${length} bytes instead of ${bytes}`);
  }
  return attention;
}

function bytesOfSample({ heads, queries, keys }: Attention['layers'][number]): number {
  return heads * queries[0] * queries[1] * keys[0] * keys[1];
}

/** The first samples, one at least, whose maps fill no more than `most` bytes. */
export function fewSamples(attention: Attention, most: number): Attention {
  const each = attention.layers.reduce((sum, layer) => sum + bytesOfSample(layer), 0);
  const samples = Math.min(attention.samples, Math.max(1, Math.floor(most / Math.max(1, each))));
  if (samples === attention.samples) return attention;
  const layers = attention.layers.map((layer) => {
    const maps = Buffer.from(layer.maps, 'base64').subarray(0, samples * bytesOfSample(layer));
    return { ...layer, maps: maps.toString('base64') };
  });
  return { ...attention, samples, images: attention.images.slice(0, samples), layers };
}
