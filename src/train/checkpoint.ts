import { readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Tensor } from '../autograd/tensor.ts';
import type { LoaderState } from '../data/loader.ts';
import { fileError } from '../io/errno.ts';
import { readSafetensors, writeSafetensors } from '../io/safetensors.ts';
import type { SafetensorsFile, TensorSource } from '../io/safetensors.ts';
import type { HostTensor } from '../nn/state.ts';
import { UserError } from '../util/errors.ts';
import { shellQuote } from '../util/quote.ts';
import { sameShape, showShape } from '../util/shape.ts';
import { configToYaml, parseConfig } from './config.ts';
import { optionName } from './check.ts';
import { architectureKeys } from './options.ts';
import type { TrainConfig } from './options.ts';
import type { Learner } from './learner.ts';

/** Where a run stands, beside its tensors. */
export interface Progress {
  /** Steps done. */
  readonly step: number;
  /** Absent before the first step: in a state that was imported. */
  readonly loader: LoaderState | undefined;
  /** Absent in checkpoints of before it was kept. */
  readonly metrics?: MetricSums | undefined;
  /** Which kernels the step runs, as `kernelsOf` tells them apart; absent in checkpoints of before it was kept. */
  readonly kernels?: string | undefined;
  /** Names of the classes that the nets are told, in the order of their labels. */
  readonly classes?: readonly string[] | undefined;
}

/** The part of a line of metrics.jsonl that the steps since the line before have made. */
export interface MetricSums {
  readonly steps: number;
  /** Of what the steps reported, in its order. */
  readonly sums: readonly number[];
}

const loaderSchema = z.object({
  epoch: z.number(),
  cursor: z.number(),
  seed: z.number(),
  batch: z.number(),
  size: z.number(),
  data: z.string().optional(),
});
const metricsSchema = z.object({
  steps: z.int().min(0),
  sums: z.array(z.number()),
});

/** What options are in checkpoints of before there were these. */
const laterOptions = {
  frames: 1,
  augment: [],
  tensorboard: false,
} satisfies Partial<TrainConfig>;

const formatVersion = '1';
const pattern = /^step-(\d+)\.safetensors$/;

export function checkpointFolder(run: string): string {
  return join(run, 'checkpoints');
}

/** Every tensor of a training state under the key that it has in the file. */
function* namedTensors(learner: Learner): Generator<[string, Tensor]> {
  for (const [prefix, module] of Object.entries(learner.modules)) {
    for (const [name, value] of module.stateDict()) yield [`${prefix}.${name}`, value];
  }
  for (const [key, optimizer] of Object.entries(learner.optimizers)) {
    const prefix = `optimizer_${key.toLowerCase()}`;
    for (const [name, value] of optimizer.namedState()) yield [`${prefix}.${name}`, value];
  }
  yield* namedScalers(learner);
}

/** Loss scales, where there are any: the part of a state that a run begun in f32 and gone on with in f16 lacks. */
function* namedScalers({ scalers = {} }: Learner): Generator<[string, Tensor]> {
  for (const [key, { state }] of Object.entries(scalers)) {
    yield [`scaler_${key.toLowerCase()}.state`, state];
  }
}

/** A training state that is not worth keeping: it must not push a good checkpoint out. */
export class NonFiniteError extends Error {}

/** Writes a learner's state and where its run stands, `writeCheckpoint`. Returns the path. */
export function saveCheckpoint(
  run: string,
  learner: Learner,
  progress: Progress,
  keep?: number,
): Promise<string> {
  const { step, loader, metrics, kernels, classes } = progress;
  const metadata = {
    format: formatVersion,
    kind: 'wgsagan checkpoint',
    ...(loader === undefined ? {} : { loader: JSON.stringify(loader) }),
    ...(metrics === undefined ? {} : { metrics: JSON.stringify(metrics) }),
    ...(kernels === undefined ? {} : { kernels }),
    ...(classes === undefined ? {} : { classes: JSON.stringify(classes) }),
    config: configToYaml(learner.config),
  };
  return writeCheckpoint(run, { named: namedTensors(learner), step, metadata, keep });
}

/**
 * Writes a checkpoint under a temporary name, a tensor at a time, synced and renamed; the newest `keep` stay. Returns its
 * path. Throws a `NonFiniteError`, and leaves the older ones alone, where a tensor holds NaN or infinity; a `UserError`
 * where the file cannot be written.
 */
export async function writeCheckpoint(
  run: string,
  state: {
    readonly named: Iterable<readonly [string, Tensor]>;
    readonly step: number;
    readonly metadata: Readonly<Record<string, string>>;
    readonly keep?: number | undefined;
  },
): Promise<string> {
  const { named, step, metadata, keep = 3 } = state;
  const tensors = new Map<string, TensorSource>();
  for (const [name, value] of named) {
    const read = async () => {
      const data = await value.read();
      if (!data.every(Number.isFinite)) {
        throw new NonFiniteError(`after step ${step} ${name} holds NaN or infinity`);
      }
      return data;
    };
    tensors.set(name, { dtype: 'F32', shape: value.shape, read });
  }
  const folder = checkpointFolder(run);
  const path = join(folder, `step-${String(step).padStart(7, '0')}.safetensors`);
  await writeSafetensors(path, tensors, { ...metadata, step: String(step) });
  for (const name of (await listCheckpoints(run)).slice(0, -keep)) {
    const old = join(folder, name);
    await unlink(old).catch((error: unknown) => {
      throw fileError(error, 'remove', old);
    });
  }
  return path;
}

/** File names of a run's checkpoints, oldest first. */
export async function listCheckpoints(run: string): Promise<string[]> {
  const names = await readdir(checkpointFolder(run)).catch(() => []);
  const stepOf = (name: string) => Number(pattern.exec(name)?.[1] ?? NaN);
  return names.filter((n) => pattern.test(n)).sort((a, b) => stepOf(a) - stepOf(b));
}

export interface Checkpoint {
  readonly path: string;
  readonly file: SafetensorsFile;
  readonly config: TrainConfig;
  readonly progress: Progress;
}

/** Reads a checkpoint and what it says of itself. Throws a `UserError` for a file that is cut, or is none of ours. */
export async function readCheckpoint(path: string): Promise<Checkpoint> {
  const file = await readSafetensors(path, { role: 'checkpoint' });
  const { format, step, loader, metrics, kernels, classes, config } = file.metadata;
  const whole = loader !== undefined || step === '0';
  if (format !== formatVersion || step === undefined || !whole || !config) {
    throw new UserError(
      `checkpoint ${path} was not written by wgsagan ${formatVersion}.x training`,
    );
  }
  return {
    path,
    file,
    config: { ...laterOptions, ...parseConfig(config, `inside ${path}`) } as TrainConfig,
    progress: {
      step: Number(step),
      loader:
        loader === undefined ? undefined : parseState(loaderSchema, loader, `checkpoint ${path}`),
      metrics:
        metrics === undefined
          ? undefined
          : parseState(metricsSchema, metrics, `checkpoint ${path}`),
      kernels,
      classes:
        classes === undefined
          ? undefined
          : parseState(z.array(z.string()), classes, `checkpoint ${path}`),
    },
  };
}

/** State out of a file's metadata. `name` begins the message of the `UserError` for any that is not whole. */
function parseState<T>(schema: z.ZodType<T>, text: string, name: string): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    throw new UserError(`${name} is damaged: ${text.slice(0, 80)} is no state of a run`, {
      cause: error,
    });
  }
}

/** A run's newest checkpoint. Throws a `UserError` where there is none, or none that is whole: then with a remedy. */
export async function readNewestCheckpoint(run: string): Promise<Checkpoint> {
  const pathOf = (name: string) => join(checkpointFolder(run), name);
  const [newest, before] = (await listCheckpoints(run)).reverse();
  if (newest === undefined) {
    const call = `wgsagan train --out ${shellQuote(run)} …`;
    throw new UserError(`${run} holds no checkpoint; train it first: ${call}`);
  }
  try {
    return await readCheckpoint(pathOf(newest));
  } catch (error) {
    if (!(error instanceof UserError) || before === undefined) throw error;
    const remedy = `remove it to go on from ${pathOf(before)}`;
    throw new UserError(`${error.message}; ${remedy}`, { cause: error });
  }
}

/** The tensors under a prefix, without it. */
export function partOf(
  checkpoint: Pick<Checkpoint, 'file'>,
  prefix: string,
): Map<string, HostTensor> {
  const part = new Map<string, HostTensor>();
  for (const [name, { shape, data }] of checkpoint.file.tensors) {
    if (!name.startsWith(`${prefix}.`) || !(data instanceof Float32Array)) continue;
    part.set(name.slice(prefix.length + 1), { shape, data });
  }
  return part;
}

/** Refuses to go on with another architecture, naming the first option that differs. */
export function checkArchitecture(checkpoint: Checkpoint, config: TrainConfig): void {
  for (const key of architectureKeys) {
    const [then, now] = [checkpoint.config[key], config[key]];
    if (JSON.stringify(then) !== JSON.stringify(now)) {
      throw new UserError(
        `checkpoint ${checkpoint.path} is of another architecture: --${optionName(key)} was ${String(then)}, now ${String(now)}`,
      );
    }
  }
}

/** The sums of a line of metrics that a run was stopped in; none where its steps reported other values than they now do. */
export function sumsToGoOnWith({ reports }: Learner, resume: Checkpoint | undefined): MetricSums {
  const { length } = reports;
  const saved = resume?.progress.metrics;
  if (saved?.sums.length === length) return saved;
  return { steps: 0, sums: new Array<number>(length).fill(0) };
}

/** Puts a checkpoint's tensors into a training state; nothing is changed unless all of them fit. */
export function restoreLearner(learner: Learner, checkpoint: Checkpoint): void {
  checkArchitecture(checkpoint, learner.config);
  const { tensors } = checkpoint.file;
  const fresh = new Set([...namedScalers(learner)].map(([name]) => name));
  const named = [...namedTensors(learner)].filter(
    ([name]) => !fresh.has(name) || tensors.has(name),
  );
  restoreTensors(checkpoint, named);
  // Rates and decays are the config's, which a resumed run may change; the step count and the moments are the file's.
  for (const { groups } of Object.values(learner.optimizers)) {
    for (const group of groups) group.set({});
  }
  learner.rng.restore(checkpoint.progress.step);
}

/** Fills tensors with those of their names in a checkpoint. Throws a `UserError`, with nothing changed, unless all fit. */
export function restoreTensors(
  { path, file }: Pick<Checkpoint, 'path' | 'file'>,
  named: readonly (readonly [string, Tensor])[],
): void {
  const found = named.map(([name, value]) => {
    const stored = file.tensors.get(name);
    if (stored?.data instanceof Float32Array && sameShape(stored.shape, value.shape)) {
      return { value, data: stored.data };
    }
    const there = stored === undefined ? 'missing' : showShape(stored.shape);
    throw new UserError(
      `checkpoint ${path} is of another architecture: ${name} is ${there}, needed ${showShape(value.shape)}`,
    );
  });
  for (const { value, data } of found) value.set(data);
}
