// Safetensors files, configs and checkpoints with things wrong with them: each is read whole or refused by one clear line.
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { encodeSafetensors, readSafetensors, writeSafetensors } from '../../src/io/safetensors.ts';
import type { StoredTensor } from '../../src/io/safetensors.ts';
import { readCheckpoint } from '../../src/train/checkpoint.ts';
import { configToYaml, parseConfig, resolveConfig } from '../../src/train/config.ts';
import { UserError } from '../../src/util/errors.ts';
import { HostRng } from '../../src/util/philox.ts';
import { below, mutated, pick } from './mutate.ts';

/** What became of the cases of one kind. */
export interface FuzzCount {
  readonly kind: string;
  cases: number;
  refused: number;
  slowestMs: number;
}

/** No file of a few kilobytes may take longer to read. */
const longestMs = 5000;

const tensors = new Map<string, StoredTensor>([
  ['layer.weight', { dtype: 'F32', shape: [3, 4], data: new Float32Array(12).fill(0.5) }],
  ['layer.bias', { dtype: 'F16', shape: [5], data: new Uint16Array(5) }],
  ['empty', { dtype: 'I64', shape: [0, 7], data: new BigInt64Array(0) }],
  ['flags', { dtype: 'BOOL', shape: [3], data: Uint8Array.of(1, 0, 1) }],
]);
const config = resolveConfig({ data: 'faces', preset: 'sagan-32-tiny', flip: true });
const metadata = {
  format: '1',
  step: '12',
  loader: JSON.stringify({ epoch: 0, cursor: 4, seed: 0, batch: 2, size: 12, data: 'x' }),
  metrics: JSON.stringify({ steps: 2, sums: [1, 2, 3, 4] }),
  classes: JSON.stringify(['a', 'b']),
  rollbacks: '1',
  config: configToYaml(config),
};

/** A header that lies: sizes that overflow, data that overlap, names that climb out of a folder. */
function lyingFile(rng: HostRng): Uint8Array {
  const names = [
    'a',
    '../../escape',
    '/etc/x',
    '__proto__',
    'constructor',
    '__metadata__',
    'a\u0000b',
    '',
    '\u202e',
    'C:\\x',
  ];
  const sizes = [0, 1, 2, 3, 4, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, -1, 0.5, '1', null];
  const entries = Array.from({ length: 1 + below(rng, 4) }, () => {
    const shape = Array.from({ length: below(rng, 5) }, () => pick(rng, sizes));
    const offsets = [pick(rng, sizes), pick(rng, sizes)];
    const dtype = pick(rng, ['F32', 'F16', 'U8', 'I64', 'F8', '', 4]);
    const value = pick<unknown>(rng, [
      { dtype, shape, data_offsets: offsets },
      { dtype, shape },
      [],
      'x',
      null,
    ]);
    return `${JSON.stringify(pick(rng, names))}:${JSON.stringify(value)}`;
  });
  const header = Buffer.from(`{${entries.join(',')}}`);
  const head = Buffer.alloc(8);
  const length = pick(rng, [header.length, 0, 1, 2 ** 31, 2 ** 53]);
  head.writeBigUInt64LE(rng.uniform() < 0.7 ? BigInt(header.length) : BigInt(length));
  return Buffer.concat([head, header, Buffer.alloc(below(rng, 64))]);
}

/** Checkpoints of every part of their metadata mutated, signed anew: what is refused is not refused by its checksum. */
function lyingMetadata(rng: HostRng): Record<string, string> {
  const key = pick(rng, Object.keys(metadata) as (keyof typeof metadata)[]);
  return { ...metadata, [key]: Buffer.from(mutated(rng, Buffer.from(metadata[key]))).toString() };
}

/** Reads one case of a kind; `file` is where it may be written. Throws what reading throws. */
const kinds: Record<string, (rng: HostRng, file: string) => Promise<unknown>> = {
  'safetensors, mutated': async (rng, file) => {
    writeFileSync(file, mutated(rng, encodeSafetensors(tensors, metadata)));
    return readSafetensors(file, { role: 'weight file' });
  },
  'safetensors, headers that lie': async (rng, file) => {
    writeFileSync(file, lyingFile(rng));
    return readSafetensors(file, { role: 'weight file' });
  },
  'checkpoints, mutated': async (rng, file) => {
    await writeSafetensors(file, tensors, metadata, { checksum: true });
    const right = readFileSync(file);
    const bad = mutated(rng, right);
    writeFileSync(file, bad);
    const read = await readCheckpoint(file);
    if (!right.equals(bad)) throw new Error('a checkpoint with other bytes was taken');
    return read;
  },
  'checkpoints, other metadata': async (rng, file) => {
    await writeSafetensors(file, tensors, lyingMetadata(rng), { checksum: true });
    const { progress } = await readCheckpoint(file);
    const { step, rollbacks = 0 } = progress;
    if (!Number.isSafeInteger(step + rollbacks) || step < 0) throw new Error(`took step ${step}`);
    return progress;
  },
  'configs, mutated': async (rng) =>
    resolveConfig(
      parseConfig(Buffer.from(mutated(rng, Buffer.from(metadata.config))).toString(), 'c.yaml'),
    ),
};

/**
 * Runs `cases` of every kind, all decided by `seed`. Throws for one that ends in anything but a whole result or a
 * `UserError` of one line, that takes too long, or that writes anywhere but into its own file.
 */
export async function fuzzFiles(cases: number, seed: number): Promise<FuzzCount[]> {
  const folder = mkdtempSync(join(os.tmpdir(), 'wgsagan-fuzz-'));
  const inside = join(folder, 'run', 'case.safetensors');
  const beside = join(folder, 'beside');
  writeFileSync(beside, 'untouched');
  const counts: FuzzCount[] = [];
  try {
    mkdirSync(join(folder, 'run'));
    for (const [i, [kind, read]] of Object.entries(kinds).entries()) {
      const rng = new HostRng(seed, { stream: [0x4655, i] });
      const count = { kind, cases: 0, refused: 0, slowestMs: 0 };
      for (; count.cases < cases; count.cases++) {
        const started = performance.now();
        try {
          await read(rng, inside);
        } catch (error) {
          if (!(error instanceof UserError) || error.message.length > 2000) {
            throw new Error(`${kind}, case ${count.cases} of seed ${seed}`, { cause: error });
          }
          count.refused += 1;
        }
        count.slowestMs = Math.max(count.slowestMs, performance.now() - started);
        if (count.slowestMs > longestMs) throw new Error(`${kind}, case ${count.cases}: too slow`);
      }
      counts.push(count);
      rmSync(inside, { force: true });
      const left = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
      if (left.join() !== 'beside,run' || readFileSync(beside, 'utf8') !== 'untouched') {
        throw new Error(`${kind} left ${left.join(', ')}`);
      }
    }
    return counts;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
