import { mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Tape } from '../../autograd/tape.ts';
import { sha256 } from '../../data/fingerprint.ts';
import type { Gpu } from '../../gpu/device.ts';
import { isTemporary, writeFileAtomic } from '../../io/atomic.ts';
import { fileError } from '../../io/errno.ts';
import { encodePng, imageGrid } from '../../io/png.ts';
import { UserError } from '../../util/errors.ts';
import { partOf } from '../checkpoint.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { movingOf } from '../grids.ts';
import type { TrainConfig } from '../options.ts';
import { openGenerator, sampleBatches } from '../sample.ts';
import type { GeneratorChoice } from '../sample.ts';
import type { Sampler } from '../sampler.ts';
import type { SamplePlan } from './plan.ts';

/** What the images of a folder are made of, as far as their names do not say: a folder is gone on with only by the same. */
export type SampleIdentity = Readonly<
  Record<string, string | number | readonly number[] | undefined>
>;

/** The file of a folder of images that says what they are. */
export const manifestName = 'samples.json';

/** What a checkpoint's generator is: its weights, wherever the file lies. */
export function generatorIdentity(
  checkpoint: Checkpoint,
  { weights, standing }: GeneratorChoice,
): SampleIdentity {
  const parts = [...partOf(checkpoint, weights === 'ema' ? 'average' : 'generator')]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { data }]) => {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      return `${name} ${sha256(bytes)}`;
    });
  const generator = sha256(Buffer.from(parts.join('\n')));
  return { step: checkpoint.progress.step, weights, generator, standing };
}

/** A folder that images go into, and what of them is there already. */
export interface SampleFolder {
  readonly folder: string;
  /** Of its images: `png`, or `apng` of clips. */
  readonly ending: string;
  /** Indices of a plan that are not there, in order. */
  readonly missing: readonly number[];
}

/**
 * Readies a folder for the images of a plan: makes it, or takes one up that holds a part of the same images. Throws a
 * `UserError`, and changes nothing, where a file of other images would be replaced, unless `replace` says that it may; then
 * nothing counts as there already.
 */
export async function readyFolder(
  folder: string,
  plan: SamplePlan,
  {
    identity,
    ending,
    replace,
  }: { readonly identity: SampleIdentity; readonly ending: string; readonly replace: boolean },
): Promise<SampleFolder> {
  const names = listFolder(folder);
  const fileOf = (i: number) => `${plan.name(i)}.${ending}`;
  const text = `${JSON.stringify(identity, undefined, 2)}\n`;
  const same = names.has(manifestName) && manifestOf(join(folder, manifestName)) === text;
  const all = Array.from({ length: plan.n }, (_u, i) => i);
  const there = all.find((i) => names.has(fileOf(i)));
  if (!same && !replace && (there !== undefined || names.has(manifestName))) {
    const what = there === undefined ? manifestName : fileOf(there);
    throw new UserError(
      `--each ${folder} holds other images, ${what} among them; choose another folder, or give --replace to write over them`,
    );
  }
  for (const name of names) if (isTemporary(name)) rmSync(join(folder, name), { force: true });
  if (!same) await writeFileAtomic(join(folder, manifestName), text);
  return { folder, ending, missing: replace ? all : all.filter((i) => !names.has(fileOf(i))) };
}

function listFolder(folder: string): Set<string> {
  try {
    mkdirSync(folder, { recursive: true });
    return new Set(readdirSync(folder));
  } catch (error) {
    throw fileError(error, 'make', folder);
  }
}

function manifestOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw fileError(error, 'read', path);
  }
}

/** Writes the missing images of a plan with a checkpoint's generator, as `streamSamples`. */
export async function streamCheckpoint(
  gpu: Gpu,
  checkpoint: Checkpoint,
  {
    plan,
    into,
    onWritten,
    ...choice
  }: GeneratorChoice & Pick<StreamOptions, 'into' | 'onWritten'> & { readonly plan: SamplePlan },
): Promise<number> {
  const { config } = checkpoint;
  const { sampler } = await openGenerator(new Tape(gpu), checkpoint, choice);
  try {
    return await streamSamples(sampler, plan, { config, into, onWritten });
  } finally {
    sampler.close();
  }
}

interface StreamOptions {
  readonly config: TrainConfig;
  readonly into: SampleFolder;
  readonly onWritten: (count: number) => boolean;
}

/**
 * Writes the missing images of a plan, one file each: PNG, or of clips animated PNG. A batch is written while the next is made,
 * and that is all that is in memory. `onWritten` is told how many are there; where it answers false, the batch in hand is
 * the last. Returns how many were written, each of them whole.
 */
export async function streamSamples(
  sampler: Sampler,
  plan: SamplePlan,
  { config, into, onWritten }: StreamOptions,
): Promise<number> {
  const { folder, ending } = into;
  let written = 0;
  let pending: Promise<void> = Promise.resolve();
  const wanted = { latentSize: config.latentSize, wanted: into.missing };
  for await (const { indices, images } of sampleBatches(sampler, plan, wanted)) {
    await pending;
    if (!onWritten(written)) return written;
    const each = images.length / indices.length;
    const files = indices.map((index, k) => {
      const bytes = fileOf(images.subarray(k * each, (k + 1) * each), config);
      return writeFileAtomic(join(folder, `${plan.name(index)}.${ending}`), bytes);
    });
    pending = Promise.all(files).then(() => {
      written += indices.length;
    });
    // An error is thrown where it is awaited, at the next batch.
    pending.catch(() => undefined);
  }
  await pending;
  onWritten(written);
  return written;
}

/** An image, or a clip that moves, without a margin. */
function fileOf(image: Float32Array, config: TrainConfig): Uint8Array {
  const { channels, frames, imageSize } = config;
  if (frames > 1) return movingOf(image, 1, config, { padding: 0 });
  const grid = imageGrid(image, {
    n: 1,
    padding: 0,
    channels,
    height: imageSize,
    width: imageSize,
  });
  return encodePng(grid.pixels, grid);
}
