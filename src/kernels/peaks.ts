import type { Gpu } from '../gpu/device.ts';
import type { Program } from '../gpu/program.ts';
import type { Storage } from '../gpu/storage.ts';
import { clockOf } from '../gpu/timing.ts';
import type { Clock } from '../gpu/timing.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid } from './kernel.ts';

/** The most that a device was seen to do: the roofs under which kernels are judged. */
export interface Peaks {
  /** f32 multiply-adds in registers, 2 flops each. */
  readonly fmaGflops: number;
  /** Bytes read and written by a copy between large buffers, 10⁹ a second. */
  readonly copyGBs: number;
  readonly f16Gflops?: number;
  readonly matrixGflops?: number;
  readonly clock: Clock;
}

const groups = 1024;
const WG = 256;
const links = 16;

const fma = kernel({
  file: 'peak/fma.wgsl',
  tensors: ['out'],
  dims: ['loops', 'factor', 'term'],
  tile: { WG, CHAINS: 3 },
  grid: (): Grid => [groups, 1, 1],
  flops: ({ loops }: Dims<'loops'>) => 2 * 4 * 3 * links * loops * groups * WG,
  bytes: () => 4 * groups * WG,
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
  readonly roof: 'fma' | 'copy';
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
    for (const CHAINS of [2, 3, 4]) probes.push(await fmaProbe(gpu, CHAINS, alloc));
    const copy = copyOperands(gpu, alloc);
    for (const PER of [1, 4, 8]) probes.push(await copyProbe(gpu, PER, copy));
    await settle(probes);
    const best = (roof: Probe['roof']) =>
      Math.max(...probes.map((p) => (p.roof === roof ? p.amount / p.ms / 1e6 : 0)));
    return { fmaGflops: best('fma'), copyGBs: best('copy'), clock: clockOf(gpu) };
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

async function fmaProbe(gpu: Gpu, CHAINS: number, alloc: Alloc): Promise<Probe> {
  const out = alloc(4 * groups * WG);
  const { work, ...probe } = await grow(gpu, mostLoops, (loops) => {
    const dims = { loops, factor: 1, term: 1 };
    fma.run(gpu, { tensors: { out }, dims, tile: { CHAINS } });
  });
  const steps = 4 * CHAINS * links * work;
  new Float32Array(await gpu.read(out)).forEach((counted, i) => {
    // The sixteen ends of four chains begin at local, local + 1, … local + 15.
    const expected = 16 * (i % WG) + 120 + steps;
    if (counted === expected) return;
    throw new Error(`${fma.name} is wrong: thread ${i} counted ${counted}, not ${expected}`);
  });
  return { ...probe, roof: 'fma', amount: 2 * steps * groups * WG };
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
const leastRounds = 4;
const mostRounds = 10;

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
      const ms = Math.min(...(await probe.program.times(3)));
      if (ms < 0.99 * probe.ms) settled = false;
      probe.ms = Math.min(probe.ms, ms);
    }
    if (settled) return;
  }
}
