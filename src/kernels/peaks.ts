import type { Gpu } from '../gpu/device.ts';
import type { Program } from '../gpu/program.ts';
import type { Storage } from '../gpu/storage.ts';
import { clockOf } from '../gpu/timing.ts';
import type { Clock } from '../gpu/timing.ts';
import { canRun, kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';

/** The most that a device was seen to do: the roofs under which kernels are judged. */
export interface Peaks {
  /** f32 multiply-adds in registers, 2 flops each. */
  readonly fmaGflops: number;
  /** Bytes read and written by a copy between large buffers, 10⁹ a second. */
  readonly copyGBs: number;
  /** f16 multiply-adds in registers, where the device has them. */
  readonly f16Gflops?: number;
  /** Products of f16 matrices with f32 sums, where the device has subgroup matrices. */
  readonly matrixGflops?: number;
  readonly clock: Clock;
}

const groups = 1024;
const WG = 256;
const links = 16;

const chains = {
  tensors: ['out'],
  dims: ['loops', 'factor', 'term'],
  tile: { WG, CHAINS: 4 },
  grid: (): Grid => [groups, 1, 1],
  flops: ({ loops }: Dims<'loops'>) => 2 * 4 * 4 * links * loops * groups * WG,
  bytes: () => 4 * groups * WG,
} as const;
const fma = kernel({ file: 'peak/fma.wgsl', ...chains });
const half = kernel({
  file: 'peak/fma_f16.wgsl',
  ...chains,
  needs: { features: ['shader-f16'] },
});

const matrix = kernel({
  file: 'peak/matrix.wgsl',
  tensors: ['a', 'b', 'out'],
  dims: ['loops'],
  tile: { MM: 16, MN: 16, MK: 16, LANES: 32, SUBGROUPS: 4, CHAINS: 8 },
  grid: (): Grid => [groups, 1, 1],
  flops: ({ loops }) => 2 * 16 ** 3 * 8 * 4 * loops * groups,
  bytes: () => 4 * 16 ** 2 * 8 * 4 * groups,
  needs: { features: ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'] },
});

const stream = kernel({
  file: 'peak/stream.wgsl',
  tensors: ['a', 'out'],
  dims: ['n'],
  tile: { WG, PER: 4 },
  grid: ({ n }, tile): Grid => linearGrid(n / 4, tile('WG') * tile('PER')),
  flops: () => 0,
  bytes: ({ n }) => 8 * n,
});

/** One roof in one tile: a program that does `amount` flops or bytes, and the least time (ms) that a run of it took. */
interface Probe {
  readonly roof: 'fma' | 'f16' | 'matrix' | 'copy';
  readonly program: Program;
  readonly amount: number;
  ms: number;
}

/**
 * Measures the device's roofs, each as the best of a few tiles. The work of a run grows until it is long enough to time;
 * then all tiles run in turn until a whole round makes none of them faster, so that whoever else uses the machine for a
 * moment does not lower a roof. Some seconds. Throws if a kernel computed anything else than it should: a roof that no
 * work reached is none.
 */
export async function measurePeaks(gpu: Gpu): Promise<Peaks> {
  const storages: Storage[] = [];
  const probes: Probe[] = [];
  const alloc = (bytes: number) => {
    const storage = gpu.alloc(bytes, 'peak');
    storages.push(storage);
    return storage;
  };
  try {
    for (const CHAINS of [2, 3, 4]) {
      probes.push(await chainProbe(gpu, alloc, { roof: 'fma', CHAINS }));
    }
    if (canRun(gpu, half)) probes.push(await chainProbe(gpu, alloc, { roof: 'f16', CHAINS: 4 }));
    const size = matrixSize(gpu);
    if (size !== undefined) probes.push(await matrixProbe(gpu, alloc, size));
    const copy = copyOperands(gpu, alloc);
    for (const PER of [1, 4, 8]) probes.push(await copyProbe(gpu, PER, copy));
    await settle(probes);
    const best = (roof: Probe['roof']) =>
      Math.max(...probes.map((p) => (p.roof === roof ? p.amount / p.ms / 1e6 : 0)));
    const [f16Gflops, matrixGflops] = [best('f16'), best('matrix')];
    return {
      fmaGflops: best('fma'),
      copyGBs: best('copy'),
      ...(f16Gflops > 0 ? { f16Gflops } : {}),
      ...(matrixGflops > 0 ? { matrixGflops } : {}),
      clock: clockOf(gpu),
    };
  } finally {
    for (const { program } of probes) program.destroy();
    for (const storage of storages) gpu.release(storage);
    gpu.pool.trim();
  }
}

/** A float counts the links of all chains of a thread exactly up to 2²⁴. */
const mostLoops = 2 ** 15;
const mostCopies = 256;

type Alloc = (bytes: number) => Storage;

async function chainProbe(
  gpu: Gpu,
  alloc: Alloc,
  { roof, CHAINS }: { roof: 'fma' | 'f16'; CHAINS: number },
): Promise<Probe> {
  const [made, factor] = roof === 'fma' ? [fma, 1] : [half, -1];
  const out = alloc(4 * groups * WG);
  const { work, ...probe } = await grow(gpu, mostLoops, (loops) => {
    made.run(gpu, { tensors: { out }, dims: { loops, factor, term: 1 }, tile: { CHAINS } });
  });
  const steps = 4 * CHAINS * links * work;
  new Float32Array(await gpu.read(out)).forEach((found, i) => {
    // The sixteen ends of four chains begin at local, local + 1, … local + 15. Those of f16 come back there.
    const expected = 16 * (i % WG) + 120 + (roof === 'fma' ? steps : 0);
    if (found === expected) return;
    throw new Error(`${made.name} is wrong: thread ${i} has ${found}, not ${expected}`);
  });
  return { ...probe, roof, amount: 2 * steps * groups * WG };
}

interface MatrixSize {
  readonly MM: number;
  readonly MN: number;
  readonly MK: number;
}

/** The largest product of f16 matrices with f32 sums that the device offers, if its subgroups have one size. */
function matrixSize(gpu: Gpu): MatrixSize | undefined {
  const { matrixConfigs, subgroupSizes } = gpu.adapter;
  if (!canRun(gpu, matrix) || subgroupSizes[0] !== subgroupSizes[1]) return undefined;
  const sizes = matrixConfigs.flatMap((config) => {
    const found = /^f16→f32 (\d+)×(\d+)×(\d+)$/.exec(config)?.slice(1).map(Number);
    return found === undefined ? [] : [found];
  });
  const work = (size: readonly number[]) => size.reduce((n, s) => n * s, 1);
  const [best] = sizes.sort((a, b) => work(b) - work(a));
  if (best === undefined) return undefined;
  const [MM = 0, MN = 0, MK = 0] = best;
  return { MM, MN, MK };
}

/** 1, 2 and 3 as f16. */
const halves = [0x3c00, 0x4000, 0x4200] as const;

async function matrixProbe(gpu: Gpu, alloc: Alloc, size: MatrixSize): Promise<Probe> {
  const { MM, MN, MK } = size;
  const [SUBGROUPS, CHAINS] = [4, 8];
  const sums = SUBGROUPS * CHAINS * groups;
  const [a, b, out] = [alloc(2 * MM * MK), alloc(2 * MK * MN), alloc(4 * MM * MN * sums)];
  // Row m of A is 1 + m mod 3, column n of B is 1 + n mod 2.
  const filled = (n: number, wordOf: (i: number) => number | undefined) =>
    new Uint8Array(Uint16Array.from({ length: n }, (_u, i) => wordOf(i) ?? 0).buffer);
  gpu.write(
    a,
    filled(MM * MK, (i) => halves[Math.floor(i / MK) % 3]),
  );
  gpu.write(
    b,
    filled(MK * MN, (i) => halves[(i % MN) % 2]),
  );
  const tile = { ...size, LANES: gpu.adapter.subgroupSizes[1], SUBGROUPS, CHAINS };
  const { work, ...probe } = await grow(gpu, mostLoops, (loops) => {
    matrix.run(gpu, { tensors: { a, b, out }, dims: { loops }, tile });
  });
  new Float32Array(await gpu.read(out)).forEach((found, i) => {
    const [m, n] = [Math.floor(i / MN) % MM, i % MN];
    const chain = Math.floor(i / (MM * MN)) % CHAINS;
    const expected = chain + work * MK * (1 + (m % 3)) * (1 + (n % 2));
    if (found === expected) return;
    throw new Error(`${matrix.name} is wrong: sum ${i} is ${found}, not ${expected}`);
  });
  return { ...probe, roof: 'matrix', amount: 2 * MM * MN * MK * sums * work };
}

interface CopyOperands {
  readonly a: Storage;
  readonly out: Storage;
  readonly pattern: Uint32Array;
}

/** As large as a cache is not, within what the device binds and what is left of its memory. */
function copyOperands(gpu: Gpu, alloc: Alloc): CopyOperands {
  const room = (gpu.pool.budgetBytes - gpu.pool.stats().liveBytes) / 4;
  const limit = gpu.limits['maxStorageBufferBindingSize'] ?? 2 ** 27;
  const wanted = gpu.adapter.kind === 'software' ? 2 ** 26 : 2 ** 28;
  const words = Math.floor(Math.min(wanted, limit, Math.max(2 ** 16, room)) / 16) * 4;
  const pattern = new Uint32Array(words).map((_zero, i) => Math.imul(i + 1, 2654435761));
  const [a, out] = [alloc(4 * words), alloc(4 * words)];
  gpu.write(a, pattern);
  return { a, out, pattern };
}

async function copyProbe(gpu: Gpu, PER: number, { a, out, pattern }: CopyOperands): Promise<Probe> {
  const n = pattern.length;
  gpu.write(out, new Uint32Array(n));
  const { work, ...probe } = await grow(gpu, mostCopies, (copies) => {
    for (let i = 0; i < copies; i++) {
      stream.run(gpu, { tensors: { a, out }, dims: { n }, tile: { PER } });
    }
  });
  const copied = new Uint32Array(await gpu.read(out));
  const wrong = copied.findIndex((word, i) => word !== pattern[i]);
  if (wrong >= 0) throw new Error(`${stream.name} is wrong: word ${wrong} is ${copied[wrong]}`);
  return { ...probe, roof: 'copy', amount: work * 8 * n };
}

/** A run shorter than this (ms) is timed badly. */
const longEnough = 10;
const leastRounds = 6;
const mostRounds = 16;

/** The program of the least work, doubled from 1, that takes long enough; `most` at the latest. */
async function grow(gpu: Gpu, most: number, launch: (work: number) => void) {
  for (let work = 1; ; work *= 2) {
    const capture = gpu.capture(() => {
      launch(work);
      return [];
    });
    const program = await capture.build();
    // The first run compiles.
    const [, ms = NaN] = await program.times(2);
    if (ms >= longEnough || work >= most) return { program, ms, work };
    program.destroy();
  }
}

/** Runs all in turn, and keeps the least time of each, until a round betters none by a hundredth. */
async function settle(probes: readonly Probe[]): Promise<void> {
  for (let round = 0; round < mostRounds; round++) {
    let settled = round + 1 >= leastRounds;
    for (const probe of probes) {
      const [ms = NaN] = await probe.program.times(1);
      if (ms < 0.99 * probe.ms) settled = false;
      probe.ms = Math.min(probe.ms, ms);
    }
    if (settled) return;
  }
}
