// Damaged files for every opener of src/data: each may be refused or read, and nothing else may happen.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { zipSync } from 'fflate';
import sharp from 'sharp';
import { pack } from 'tar-stream';
import { openDataset } from '../../src/data/dataset.ts';
import { UserError } from '../../src/util/errors.ts';
import { HostRng } from '../../src/util/philox.ts';
import { snapshot } from '../support/files.ts';
import type { FuzzCount } from './files.ts';

interface Seed {
  readonly kind: string;
  /** In the folder of a case; the first is the one that is damaged. */
  readonly files: readonly (readonly [name: string, bytes: Uint8Array])[];
  /** What is opened there; nothing for the folder itself. */
  readonly source: string;
}

/** A case that takes longer hangs; the slowest, a picture that says that it is of 100 megapixels, takes a second. */
const LIMIT_MS = 60_000;
const NUMBERS = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];

/**
 * Opens so many damaged sources of every kind and reads their images; `seed` fixes the damages. Throws where an opener fails
 * with anything but a `UserError` of one line, takes more than a minute, or leaves a file anywhere in the folder above the
 * case's.
 */
export async function fuzzData(
  casesOfAKind: number,
  seed: number,
  onCase?: (done: number, total: number) => void,
): Promise<FuzzCount[]> {
  const seeds = await seedFiles();
  const rng = new HostRng(seed, { stream: [0, 0x465a] });
  const root = mkdtempSync(join(tmpdir(), 'wgsagan-fuzz-'));
  const counts = new Map<string, FuzzCount>();
  const total = casesOfAKind * seeds.length;
  try {
    for (let i = 0; i < total; i++) {
      const one = seeds[i % seeds.length];
      if (one === undefined) throw new Error('there are no files to damage');
      const { kind } = one;
      const count = counts.get(kind) ?? { kind, cases: 0, refused: 0, slowestMs: 0 };
      const started = performance.now();
      const well = await runCase(join(root, 'up', 'case'), one, rng, `case ${i} of seed ${seed}`);
      count.cases += 1;
      count.refused += well ? 0 : 1;
      count.slowestMs = Math.max(count.slowestMs, performance.now() - started);
      counts.set(kind, count);
      onCase?.(i + 1, total);
    }
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
  return [...counts.values()];
}

async function runCase(folder: string, seed: Seed, rng: HostRng, name: string): Promise<boolean> {
  const root = join(folder, '..', '..');
  mkdirSync(folder, { recursive: true });
  for (const [i, [file, bytes]] of seed.files.entries()) {
    writeFileSync(join(folder, file), i === 0 ? damaged(bytes, rng) : bytes);
  }
  const before = snapshot(root);
  try {
    return await withLimit(openAndRead(join(folder, seed.source)), name);
  } catch (error) {
    const clean =
      error instanceof UserError && error.message !== '' && !error.message.includes('\n');
    if (!clean) throw new Error(`${name} (${seed.kind}): ${String(error)}`, { cause: error });
    return false;
  } finally {
    const after = snapshot(root);
    if (JSON.stringify(after) !== JSON.stringify(before)) {
      throw new Error(`${name} (${seed.kind}) wrote ${Object.keys(after).join()}`);
    }
    rmSync(folder, { recursive: true, force: true });
    if (existsSync(folder)) throw new Error(`${name}: ${folder} is still there`);
  }
}

async function openAndRead(source: string): Promise<boolean> {
  const cacheDir = join(source, '..', 'none');
  const set = await openDataset(source, { imageSize: 8, channels: 3, cacheDir });
  try {
    const indices = Array.from({ length: Math.min(4, set.size) }, (_, i) => i);
    await set.read(indices, new Uint8Array(indices.length * 192));
    const bad = indices.map((i) => set.classes[set.label(i)]).includes(undefined);
    if (bad) throw new Error('a label is of no class');
    return true;
  } finally {
    await set.close?.();
  }
}

async function withLimit<T>(work: Promise<T>, name: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${name} hangs`));
    }, LIMIT_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** One to four damages, most of them near the beginning or the end, where the headers are. */
function damaged(bytes: Uint8Array, rng: HostRng): Uint8Array {
  let out = Buffer.from(bytes);
  for (let n = 1 + rng.int(4); n > 0 && out.length > 0; n--) {
    const near = Math.min(out.length, 200);
    const places = [rng.int(out.length), rng.int(near), out.length - 1 - rng.int(near)];
    const at = places[rng.int(3)] ?? 0;
    const length = 1 + rng.int(Math.min(64, out.length));
    switch (rng.int(7)) {
      case 0:
        out[at] = (out[at] ?? 0) ^ (1 << rng.int(8));
        break;
      case 1:
        out[at] = rng.int(256);
        break;
      case 2:
        out = out.subarray(0, at);
        break;
      case 3:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)]);
        break;
      case 4:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at, at + length), out.subarray(at)]);
        break;
      case 5: {
        const value = NUMBERS[rng.int(NUMBERS.length)] ?? 0;
        if (at + 4 <= out.length)
          out[rng.int(2) === 0 ? 'writeUInt32LE' : 'writeUInt32BE'](value, at);
        break;
      }
      default:
        out.fill(rng.int(256), at, Math.min(out.length, at + length));
    }
  }
  return out;
}

/** Small whole files of every kind. */
async function seedFiles(): Promise<Seed[]> {
  const seeds: Seed[] = [];
  const noise = Uint8Array.from({ length: 12 * 12 * 3 }, (_, i) => Math.imul(i, 2654435761) >>> 24);
  const image = () => sharp(noise, { raw: { width: 12, height: 12, channels: 3 } });
  const png = await image().png().toBuffer();
  for (const format of ['png', 'jpeg', 'webp'] as const) {
    const bytes = await image().toFormat(format).toBuffer();
    seeds.push({
      kind: format,
      files: [[`a.${format}`, bytes]],
      source: '',
    });
  }
  const words = (...numbers: number[]) => {
    const out = Buffer.alloc(4 * numbers.length);
    for (const [i, n] of numbers.entries()) out.writeUInt32BE(n, 4 * i);
    return out;
  };
  const images = Buffer.concat([words(0x803, 3, 6, 6), Buffer.from(noise.subarray(0, 108))]);
  const labels = Buffer.concat([words(0x801, 3), Buffer.from([0, 2, 1])]);
  const idx = ['train-images-idx3-ubyte', 'train-labels-idx1-ubyte'] as const;
  seeds.push({
    kind: 'idx',
    files: [
      [idx[0], images],
      [idx[1], labels],
    ],
    source: '',
  });
  seeds.push({
    kind: 'idx labels',
    files: [
      [idx[1], labels],
      [idx[0], images],
    ],
    source: '',
  });
  seeds.push({ kind: 'idx.gz', files: [[`${idx[0]}.gz`, gzipSync(images)]], source: '' });
  const cifar = Buffer.alloc(2 * 3073, 1);
  const names = Buffer.from('airplane\nautomobile\n');
  const batch = 'data_batch_1.bin';
  seeds.push({
    kind: 'cifar',
    files: [
      [batch, cifar],
      ['batches.meta.txt', names],
    ],
    source: '',
  });
  seeds.push({
    kind: 'cifar names',
    files: [
      ['batches.meta.txt', names],
      [batch, cifar],
    ],
    source: '',
  });
  for (const name of ['nhwc.npz', 'nchw.npz', 'grey.npz', 'alone.npy']) {
    const path = fileURLToPath(new URL(`../golden/arrays/${name}`, import.meta.url));
    seeds.push({ kind: name.slice(-3), files: [[name, readFileSync(path)]], source: name });
  }
  const table = Buffer.from('file,label\na/1.png,x\nb/2.png,y\n');
  const members = {
    ...{ 'set/a/1.png': png, 'set/b/2.png': png, '../../up.png': png, '/etc/none.png': png },
    'set/labels.csv': table,
  };
  for (const level of [0, 9] as const) {
    seeds.push({ kind: 'zip', files: [['a.zip', zipSync(members, { level })]], source: 'a.zip' });
  }
  seeds.push({ kind: 'tar', files: [['a.tar', await tarOf(members)]], source: 'a.tar' });
  seeds.push({
    kind: 'csv',
    files: [
      ['labels.csv', Buffer.from('file,label\nb.png,x\n')],
      ['b.png', png],
    ],
    source: '',
  });
  return seeds;
}

async function tarOf(members: Readonly<Record<string, Uint8Array>>): Promise<Uint8Array> {
  const tar = pack();
  for (const [name, bytes] of Object.entries(members)) tar.entry({ name }, Buffer.from(bytes));
  tar.entry({ name: `${'deep/'.repeat(40)}x.png` }, 'no picture');
  tar.finalize();
  const parts: Buffer[] = [];
  for await (const part of tar) parts.push(part as Buffer);
  return Buffer.concat(parts);
}
