import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tensor } from '../../autograd/tensor.ts';
import type { Tensor } from '../../autograd/tensor.ts';
import type { Capture } from '../../gpu/capture.ts';
import type { Net } from '../../models/gan.ts';
import { writeFileAtomic } from '../../io/atomic.ts';
import { fileError } from '../../io/errno.ts';
import { encodePng, imageGrid } from '../../io/png.ts';
import type { TrainConfig } from '../options.ts';
import { runPaths, stepName } from '../run-folder.ts';
import { latentOf, rowsOf } from '../latents.ts';
import { enlarged } from '../sampler.ts';
import { attentionBlocks, coarseMaps, looking } from './look.ts';
import type { CoarseMaps } from './look.ts';

/** What a block of the generator looked at, for viewers. */
export interface AttentionLayerRecord {
  /** As in the state-dict keys of the generator: `main.6`. */
  readonly name: string;
  readonly heads: number;
  /** Rows and columns of the squares that are looked from and at, at most 16 and 32 a side; [1, 1]: the same from everywhere. */
  readonly queries: readonly [number, number];
  readonly keys: readonly [number, number];
  /** Base64 of bytes [samples, heads, queries, keys]; the largest of each row of keys is 255. */
  readonly maps: string;
}

/** RUN/attention/step-….json: where the averaged generator of a step looks when it makes some of the run's samples. */
export interface AttentionRecord {
  readonly step: number;
  readonly imageSize: number;
  readonly samples: number;
  /** Which images of the run's grids the samples are, from 0. */
  readonly indices: readonly number[];
  /** Base64 of a PNG of each sample. */
  readonly images: readonly string[];
  readonly layers: readonly AttentionLayerRecord[];
}

/** Newest files of a run that stay. */
const keptRecords = 20;
const mostSamples = 8;
const fewestSamples = 2;
/** Of all maps of a file, before base64: many heads leave room for fewer samples. */
const mostBytes = 2 * 2 ** 20;
const resolution = { mostQueries: 16, mostKeys: 32 } as const;

/** What a record is made with: the averaged generator, its batch statistics settled. */
export interface RecordSource {
  readonly average: Net;
  readonly config: TrainConfig;
  /** Of the run's grid of fixed latents: its images, and a row of them. */
  readonly grid: { readonly n: number; readonly columns: number };
  /** Classes of the grid's images, where the net is told any. */
  readonly labels: Uint32Array | undefined;
  readonly step: number;
}

/**
 * Writes the record of a step into a run's folder and removes all but the newest 20. Writes none, and returns undefined, for
 * a net without attention, for clips, and where the maps do not fit in the memory that training leaves.
 */
export async function writeAttention(
  run: string,
  source: RecordSource,
): Promise<string | undefined> {
  const record = await attentionRecord(source);
  if (record === undefined) return undefined;
  const { attention: folder } = runPaths(run);
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw fileError(error, 'make', folder);
  }
  const path = join(folder, `step-${stepName(source.step)}.json`);
  await writeFileAtomic(path, `${JSON.stringify(record)}\n`);
  for (const name of listRecords(run).slice(0, -keptRecords)) {
    rmSync(join(folder, name), { force: true });
  }
  return path;
}

/** File names of a run's records, oldest first. */
export function listRecords(run: string): string[] {
  const { attention: folder } = runPaths(run);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => /^step-\d{7,}\.json$/.test(name))
    .sort((a, b) => Number(/\d+/.exec(a)?.[0]) - Number(/\d+/.exec(b)?.[0]));
}

async function attentionRecord(source: RecordSource): Promise<AttentionRecord | undefined> {
  const { average, config, step } = source;
  const indices = chosenSamples(source);
  if (indices.length === 0) return undefined;
  const { tape } = average;
  const n = indices.length;
  const chosen = rowsOf(n, config.latentSize, (i) =>
    latentOf(config.seed, indices[i] ?? 0, config.latentSize),
  );
  const z = tensor(tape, chosen, [n, config.latentSize], { label: 'latents looked at' });
  const told = source.labels?.filter((_label, i) => indices.includes(i));
  const labels = told === undefined ? undefined : tensor(tape, told, [n]);
  try {
    const look = captureMaps(average, { z, labels, imageSize: config.imageSize });
    if (look.blocks.length === 0 || !look.capture.fits) return undefined;
    const program = await look.capture.build();
    try {
      program.run();
      const images = pngsOf(await look.images.read(), n, config);
      const layers = await Promise.all(look.blocks.map(layerRecord));
      return { step, imageSize: config.imageSize, samples: n, indices, images, layers };
    } finally {
      program.destroy();
    }
  } finally {
    for (const input of [z, labels]) if (input !== undefined) tape.gpu.release(input.storage);
  }
}

/** Which images of the run's grid are looked at, in their order: none for a net without attention, and for clips. */
function chosenSamples({ average, config, grid, labels }: RecordSource): number[] {
  const blocks = [...attentionBlocks(average).values()];
  if (blocks.length === 0 || config.frames > 1) return [];
  const heads = Math.max(...blocks.map((block) => block.heads));
  const { mostQueries, mostKeys } = resolution;
  const each = config.attentionG.reduce(
    (sum, side) => sum + heads * (Math.min(side, mostQueries) * Math.min(side, mostKeys)) ** 2,
    0,
  );
  const room = Math.floor(mostBytes / each);
  const count = Math.min(mostSamples, Math.max(fewestSamples, room));
  // Where a row of the grid is a class, the first of each row.
  const apart = labels === undefined ? 1 : grid.columns;
  return Array.from({ length: Math.min(count, grid.n / apart) }, (_u, i) => i * apart);
}

interface SeenMaps {
  readonly name: string;
  readonly heads: number;
  readonly coarse: CoarseMaps;
}

/** The program, not yet built, that makes images of latents and the maps behind them. */
function captureMaps(
  net: Net,
  { z, labels, imageSize }: { z: Tensor; labels: Tensor | undefined; imageSize: number },
): { capture: Capture; images: Tensor; blocks: readonly SeenMaps[] } {
  const { tape } = net;
  const blocks: SeenMaps[] = [];
  let images = z;
  const capture = tape.gpu.capture(() =>
    tape.noGrad(() => {
      net.eval();
      const forward = () => enlarged(net.forward(z, labels), imageSize);
      images = looking(net, forward, (seen) => {
        const { name, block } = seen;
        blocks.push({ name, heads: block.heads, coarse: coarseMaps(seen, resolution) });
      });
      return [images.storage, ...blocks.map(({ coarse }) => coarse.maps.storage)];
    }),
  );
  return { capture, images, blocks };
}

async function layerRecord({ name, heads, coarse }: SeenMaps): Promise<AttentionLayerRecord> {
  const { maps, queries, keys } = coarse;
  const bytes = rowsToBytes(await maps.read(), keys[0] * keys[1]);
  return { name, heads, queries, keys, maps: base64(bytes) };
}

function pngsOf(images: Float32Array, n: number, { channels, imageSize }: TrainConfig): string[] {
  const each = channels * imageSize ** 2;
  return Array.from({ length: n }, (_u, i) => {
    const one = images.subarray(i * each, (i + 1) * each);
    const size = { channels, height: imageSize, width: imageSize };
    const picture = imageGrid(one, { n: 1, padding: 0, ...size });
    return base64(encodePng(picture.pixels, picture));
  });
}

/** Rows of weights as bytes, the largest of each row 255. */
export function rowsToBytes(weights: Float32Array, row: number): Uint8Array {
  const bytes = new Uint8Array(weights.length);
  for (let from = 0; from < weights.length; from += row) {
    const part = weights.subarray(from, from + row);
    const most = part.reduce((a, b) => Math.max(a, b), 0);
    part.forEach((w, i) => (bytes[from + i] = most > 0 ? Math.round((255 * w) / most) : 0));
  }
  return bytes;
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
}
