import { existsSync } from 'node:fs';
import { Tape } from '../autograd/tape.ts';
import type { Gpu } from '../gpu/device.ts';
import { readSafetensors } from '../io/safetensors.ts';
import type { SafetensorsDtype, SafetensorsFile, StoredTensor } from '../io/safetensors.ts';
import { compareState, loadState } from '../nn/state.ts';
import type { HostTensor } from '../nn/state.ts';
import type { Module } from '../nn/module.ts';
import { UserError } from '../util/errors.ts';
import { halfFromBits } from '../util/half.ts';
import { createLearnerThatFits } from './capacity.ts';
import { saveCheckpoint } from './checkpoint.ts';
import { otherNetOf } from './nets.ts';
import type { OtherNet } from './nets.ts';
import type { TrainConfig } from './options.ts';
import { createRunFolder, discardRun, refuseUsedFolder, removeIfEmpty } from './run-folder.ts';
import { unlockRun } from './run-lock.ts';

/** Names of each kind that a message lists. */
const mostNames = 12;

/** Where a net's tensors were found. */
export interface Imported {
  /** What stood before PyTorch's keys in the file, such as `module.` or `netG.`. */
  readonly prefix: string;
  readonly tensors: number;
  /** Tensors of the file outside the prefix: other nets, optimisers. */
  readonly others: number;
}

/**
 * Makes a run of PyTorch's weights: the generator's, which become its average too, and the discriminator's or the encoder's where a
 * file is given for them (fresh from the config's seed otherwise), at step 0, with a fresh optimiser. Throws a `UserError` that
 * lists what is missing, surplus or of another shape before anything is written.
 */
export async function importRun(
  gpu: Gpu,
  run: string,
  options: {
    readonly config: TrainConfig;
    readonly generator: string;
    readonly discriminator?: string | undefined;
    readonly encoder?: string | undefined;
  },
): Promise<{ readonly generator: Imported } & { readonly [K in OtherNet]?: Imported }> {
  const { config } = options;
  refuseUsedFolder(run);
  const net = otherNetOf(config.preset);
  for (const name of ['discriminator', 'encoder'] as const) {
    if (name === net || options[name] === undefined) continue;
    throw new UserError(`--${name} ${options[name]}: ${config.preset} has no ${name}`);
  }
  const open = (path: string) => readSafetensors(path, { role: 'weight file' });
  const file = await open(options.generator);
  const path = options[net];
  const second = path === undefined || path === options.generator ? file : await open(path);
  const learner = createLearnerThatFits(new Tape(gpu), config);
  const found = { path: options.generator, file, config };
  const generator = loadInto([learner.generator, learner.average], found);
  const module = learner.modules[net];
  const other =
    path === undefined || module === undefined
      ? undefined
      : loadInto([module], { ...found, path, file: second });
  const wasThere = existsSync(run);
  try {
    await createRunFolder(run, config);
    try {
      await saveCheckpoint(run, learner, { step: 0, loader: undefined });
    } catch (error) {
      discardRun(run, { wasThere });
      throw error;
    }
  } finally {
    unlockRun(run);
    if (!wasThere) removeIfEmpty(run);
  }
  return other === undefined ? { generator } : { generator, [net]: other };
}

/** Puts a file's tensors into nets of one architecture. */
function loadInto(
  nets: readonly [Module, ...Module[]],
  { path, file, config }: { path: string; file: SafetensorsFile; config: TrainConfig },
): Imported {
  const tensors = new Map([...file.tensors].map(([name, stored]) => [olderName(name), stored]));
  const prefix = prefixOf(nets[0], tensors);
  const own = [...tensors].filter(([name]) => name.startsWith(prefix));
  const source = `weight file ${path}${prefix === '' ? '' : ` under ${prefix}`}, for ${config.preset},`;
  const state = new Map<string, HostTensor>();
  for (const [name, stored] of own) {
    const data = floatsOf(stored);
    if (!data.every(Number.isFinite)) {
      throw new UserError(`${source} holds NaN or infinity in ${name}`);
    }
    state.set(name.slice(prefix.length), { shape: stored.shape, data });
  }
  for (const net of nets) loadState(net, state, source, { names: mostNames });
  return { prefix, tensors: own.length, others: tensors.size - own.length };
}

/** PyTorch's newer spectral norm, torch.nn.utils.parametrizations, under the names of the older one, which are ours. */
const newerNames: readonly (readonly [RegExp, string])[] = [
  [/parametrizations\.weight\.original$/, 'weight_orig'],
  [/parametrizations\.weight\.0\._u$/, 'weight_u'],
  [/parametrizations\.weight\.0\._v$/, 'weight_v'],
];

function olderName(name: string): string {
  return newerNames.reduce((older, [ending, word]) => older.replace(ending, word), name);
}

/**
 * What stands before the keys of a net: of all beginnings under which one of its keys is found, that with the most of its
 * tensors in their shapes, then that with the most of its keys and the fewest others.
 */
function prefixOf(net: Module, tensors: ReadonlyMap<string, StoredTensor>): string {
  const keys = [...net.stateDict().keys()];
  const prefixes = new Set(['']);
  for (const name of tensors.keys()) {
    for (const key of keys) if (name.endsWith(`.${key}`)) prefixes.add(name.slice(0, -key.length));
  }
  const ranked = [...prefixes].map((prefix) => {
    const under = new Map<string, StoredTensor>();
    for (const [name, stored] of tensors) {
      if (name.startsWith(prefix)) under.set(name.slice(prefix.length), stored);
    }
    const { missing, surplus, misshapen } = compareState(net, under);
    return { prefix, rank: [missing.length + misshapen.length, missing.length, surplus.length] };
  });
  const [best] = ranked.sort((a, b) => {
    const [i = 0] = a.rank.flatMap((r, k) => (r === b.rank[k] ? [] : [k]));
    return (a.rank[i] ?? 0) - (b.rank[i] ?? 0);
  });
  return best?.prefix ?? '';
}

/** The value of an element of a type that the host has no numbers of, from its bits. */
const fromBits: Partial<Record<SafetensorsDtype, (bits: number) => number>> = {
  F16: halfFromBits,
  // The upper half of an f32.
  BF16: (bits) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0] ?? NaN,
};

/** A tensor of any type as f32. */
function floatsOf({ dtype, data }: StoredTensor): Float32Array {
  if (data instanceof Float32Array) return data;
  const value = fromBits[dtype] ?? Number;
  return Float32Array.from<number | bigint>(data, (element) => value(Number(element)));
}
