import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { channel } from './attention-common.ts';
import type { AttentionLayout } from './attention-common.ts';
import { canRun, kernel, linearGrid } from './kernel.ts';
import type { Dims, TileOf } from './kernel.ts';
import { bytesOf, precisionOf, storedOf } from './precision.ts';
import type { Precision } from './precision.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

/** Chosen keys live in a thread's registers: more of them would spill. */
export const mostKeys = 64;

/** `stored: f16` is q, k, v, out and their gradients; weights are f32 always. */
export interface TopkDims extends Precision {
  readonly B: number;
  readonly Nq: number;
  readonly Nk: number;
  readonly DK: number;
  readonly DV: number;
  readonly scale: number;
  readonly layout: AttentionLayout;
  /** Keys that each query looks at: 1 to min(Nk, `mostKeys`). */
  readonly top: number;
}

const tile = { CHANNEL: 'true', TOP: 16 };
const perQuery = ({ B, Nq }: Dims<'B' | 'Nq'>, t: TileOf) => linearGrid(B * Nq, t('WG'));
const slices = ({ D }: Dims<'D'>, t: TileOf) => ceilDiv(D, t('TD'));
type Choosing = Dims<'B' | 'Nq' | 'Nk' | 'DK' | 'scale'>;
type Sums = Dims<'B' | 'Nq' | 'Nk' | 'D'>;

// Costs are those of the file's own TOP: the records do not see a launch's.
const choosing = {
  entry: 'choose',
  tensors: ['q', 'k', 'index', 'weight'] as const,
  dims: ['B', 'Nq', 'Nk', 'DK', 'scale'] as const,
  tile,
  flops: ({ B, Nq, Nk, DK }: Choosing) => 2 * B * Nq * Nk * DK,
  bytes: ({ B, Nq, Nk, DK }: Choosing, each = 4) => B * (each * (Nq + Nk) * DK + 8 * tile.TOP * Nq),
};
export const choose = kernel({
  ...choosing,
  file: 'topk-attention/choose.wgsl',
  grid: perQuery,
});
export const chooseTile = kernel({
  ...choosing,
  file: 'topk-attention/choose_tile.wgsl',
  grid: ({ B, Nq }, t) => linearGrid(B * ceilDiv(Nq, t('WG')), 1),
});

const sums = {
  file: 'topk-attention/gather.wgsl',
  dims: ['B', 'Nq', 'Nk', 'D'] as const,
  tile,
  flops: ({ B, Nq, D }: Sums) => 2 * B * tile.TOP * Nq * D,
  bytes: ({ B, Nq, Nk, D }: Sums, each = 4) => B * (each * (Nq + Nk) * D + 8 * tile.TOP * Nq),
};
export const gather = kernel({
  ...sums,
  entry: 'gather',
  tensors: ['weight', 'index', 'y', 'out'],
  grid: (d, t) => linearGrid(d.B * d.Nq * slices(d, t), t('WG')),
});
export const collect = kernel({
  ...sums,
  entry: 'collect',
  tensors: ['weight', 'start', 'list', 'x', 'sums'],
  grid: (d, t) => linearGrid(d.B * d.Nk * slices(d, t), t('WG')),
});

export const scores = kernel({
  file: 'topk-attention/scores.wgsl',
  tensors: ['dOut', 'v', 'index', 'weight', 'dS'],
  dims: ['B', 'Nq', 'Nk', 'DV', 'scale'],
  tile,
  grid: perQuery,
  flops: ({ B, Nq, DV }) => 2 * B * Nq * tile.TOP * DV,
  bytes: ({ B, Nq, Nk, DV }, each = 4) => B * (each * (Nq + Nk) * DV + 12 * tile.TOP * Nq),
});

const chunks = 32;
const sorting = {
  file: 'topk-attention/lists.wgsl',
  dims: ['B', 'Nq', 'Nk'] as const,
  tile: { TOP: 16, CHUNKS: chunks },
  flops: () => 0,
  bytes: ({ B, Nq, Nk }: Dims<'B' | 'Nq' | 'Nk'>) => 4 * B * (tile.TOP * Nq + chunks * Nk),
};
export const count = kernel({
  ...sorting,
  entry: 'count',
  tensors: ['index', 'counts'],
  grid: ({ B }, t) => linearGrid(B * chunks, t('WC')),
});
export const before = kernel({
  ...sorting,
  entry: 'before',
  tensors: ['counted', 'start'],
  grid: ({ B, Nk }, t) => linearGrid(B * Nk, t('WG')),
});
export const starts = kernel({
  ...sorting,
  entry: 'starts',
  tensors: ['lengths'],
  grid: ({ B }, t) => linearGrid(B, t('WC')),
});
export const fill = kernel({
  ...sorting,
  entry: 'fill',
  tensors: ['index', 'counts', 'begun', 'list'],
  grid: ({ B }, t) => linearGrid(B * chunks, t('WC')),
});
export const mask = kernel({
  ...sorting,
  entry: 'mask',
  tensors: ['index', 'bias'],
  grid: perQuery,
  bytes: ({ B, Nq, Nk }) => 4 * B * Nq * (Nk + tile.TOP),
});

/** What the chosen pairs are kept in: u32 and f32 [B, top, Nq]. */
interface Pairs {
  readonly index: Storage;
  readonly weight: Storage;
}

export interface TopkArgs extends TopkDims, Pairs {
  readonly q: Storage;
  readonly k: Storage;
  readonly v: Storage;
  readonly out: Storage;
}

export interface TopkBackwardArgs extends TopkDims, Pairs {
  readonly q: Storage;
  readonly k: Storage;
  readonly v: Storage;
  readonly dOut: Storage;
  readonly dq?: Storage | undefined;
  readonly dk?: Storage | undefined;
  readonly dv?: Storage | undefined;
}

const tileFor = (dims: TopkDims) => ({ CHANNEL: channel(dims), TOP: dims.top });

function runBackward(gpu: Gpu, args: TopkBackwardArgs): void {
  const { q, k, v, dOut, dq, dk, dv, index, weight, B, Nq, Nk, DK, DV, scale, top } = args;
  const how = { tile: tileFor(args), stored: storedOf(args) };
  gpu.scope(() => {
    const dS = gpu.alloc(4 * B * top * Nq, 'topk scores');
    if (dq !== undefined || dk !== undefined) {
      const dims = { B, Nq, Nk, DV, scale };
      scores.run(gpu, { tensors: { dOut, v, index, weight, dS }, dims, ...how });
    }
    if (dq !== undefined) {
      const tensors = { weight: dS, index, y: k, out: dq };
      gather.run(gpu, { tensors, dims: { B, Nq, Nk, D: DK }, ...how });
    }
    if (dk === undefined && dv === undefined) return;
    const { start, list } = listsOf(gpu, args);
    if (dk !== undefined) {
      const tensors = { weight: dS, start, list, x: q, sums: dk };
      collect.run(gpu, { tensors, dims: { B, Nq, Nk, D: DK }, ...how });
    }
    if (dv !== undefined) {
      const tensors = { weight, start, list, x: dOut, sums: dv };
      collect.run(gpu, { tensors, dims: { B, Nq, Nk, D: DV }, ...how });
    }
  });
}

/** The pairs that chose each key, in scratch: `list` [B, top·Nq], those of key j from start[j] to start[j + 1]. */
function listsOf(gpu: Gpu, { index, B, Nq, Nk, top }: TopkDims & { index: Storage }) {
  const counts = gpu.alloc(4 * B * chunks * Nk, 'topk counts');
  const start = gpu.alloc(4 * B * (Nk + 1), 'topk starts');
  const list = gpu.alloc(4 * B * top * Nq, 'topk lists');
  const how = { dims: { B, Nq, Nk }, tile: { TOP: top } };
  count.run(gpu, { tensors: { index, counts }, ...how });
  before.run(gpu, { tensors: { counted: counts, start }, ...how });
  starts.run(gpu, { tensors: { lengths: start }, ...how });
  fill.run(gpu, { tensors: { index, counts, begun: start, list }, ...how });
  return { start, list };
}

/** bias f32 [B, Nq, Nk] to add to scores: 0 for chosen keys, for the others so low that they have no weight. */
export function topkMask(
  gpu: Gpu,
  args: { index: Storage; bias: Storage; B: number; Nq: number; Nk: number; top: number },
): void {
  const { index, bias, B, Nq, Nk, top } = args;
  mask.run(gpu, { tensors: { index, bias }, dims: { B, Nq, Nk }, tile: { TOP: top } });
}

/** A rung by the kernel that chooses; what is chosen is gathered in one way. */
const rungBy = (chooser: typeof choose): Rung<TopkDims, TopkArgs> => ({
  name: chooser.file.replace('.wgsl', ''),
  kernels: [chooser, gather],
  fits: (gpu) => canRun(gpu, chooser),
  tiles: () => [{}],
  run(gpu, args) {
    const { q, k, v, out, index, weight, B, Nq, Nk, DK, DV, scale } = args;
    const how = { tile: tileFor(args), stored: storedOf(args) };
    chooser.run(gpu, { tensors: { q, k, index, weight }, dims: { B, Nq, Nk, DK, scale }, ...how });
    gather.run(gpu, { tensors: { weight, index, y: v, out }, dims: { B, Nq, Nk, D: DV }, ...how });
  },
});
const threadsRung = rungBy(choose);
const tilesRung = rungBy(chooseTile);
const backwardRung: Rung<TopkDims, TopkBackwardArgs> = {
  name: 'topk-attention/scores',
  kernels: [scores, gather, collect, count, before, starts, fill],
  fits: () => true,
  tiles: () => [{}],
  run: runBackward,
};

const dimsOf = (args: TopkDims): TopkDims => {
  const { B, Nq, Nk, DK, DV, scale, layout, top } = args;
  return { B, Nq, Nk, DK, DV, scale, layout, top, ...precisionOf(args) };
};

type Input = 'q' | 'k' | 'v' | 'out' | 'index' | 'weight';

function operandsOf({ B, Nq, Nk, DK, DV, top }: TopkDims): Record<Input, number> {
  const pairs = B * top * Nq;
  const out = B * Nq * DV;
  return { q: B * Nq * DK, k: B * Nk * DK, v: B * Nk * DV, out, index: pairs, weight: pairs };
}

function bytesFor(dims: TopkDims, operands: Readonly<Record<string, number>>): number {
  const { index = 0, weight = 0, ...others } = operands;
  const moved = Object.values(others).reduce((sum, n) => sum + n, 0);
  return 4 * (index + weight) + bytesOf(dims) * moved;
}

/** Keys of the `top` largest scores of each query, their softmax, and the values that it weighs. */
export const topkForwardLadder: Ladder<TopkDims, TopkArgs, Input> = {
  name: 'topk-attention-forward',
  rungs: [threadsRung, tilesRung],
  preferred: ({ adapter }) =>
    (adapter.kind === 'software' ? [threadsRung] : [tilesRung, threadsRung]).map((r) => r.name),
  dimsOf,
  operands: operandsOf,
  outputs: ['out', 'index', 'weight'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: ({ B, Nq, Nk, DK, DV, top }) => 2 * B * Nq * (Nk * DK + top * DV),
  bytes: (dims) => bytesFor(dims, operandsOf(dims)),
  halves: ['q', 'k', 'v', 'out'],
};

/** dOut → dq, dk, dv through the chosen keys. */
export const topkBackwardLadder: Ladder<
  TopkDims,
  TopkBackwardArgs,
  Exclude<Input, 'out'> | 'dOut' | 'dq' | 'dk' | 'dv'
> = {
  name: 'topk-attention-backward',
  rungs: [backwardRung],
  preferred: () => [backwardRung.name],
  dimsOf,
  operands: (dims) => {
    const { q, k, v, out, index, weight } = operandsOf(dims);
    return { q, k, v, index, weight, dOut: out, dq: q, dk: k, dv: v };
  },
  outputs: ['dq', 'dk', 'dv'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: ({ B, Nq, DK, DV, top }) => 2 * B * Nq * top * (2 * DK + 2 * DV),
  bytes: (dims) => bytesFor(dims, topkBackwardLadder.operands(dims)),
  halves: ['q', 'k', 'v', 'dOut', 'dq', 'dk', 'dv'],
};

/**
 * The `top` keys of each query with the largest scale·q·k, largest first, of equal ones the lowest key; their softmax; and
 * out = Σ weight·v. Memory is linear: `index` and `weight` [B, top, Nq].
 */
export function topkAttention(gpu: Gpu, args: TopkArgs): void {
  climb(gpu, topkForwardLadder, args);
}

/** dOut → dq, dk, dv through the chosen keys alone; one left out is not computed. `index` and `weight` are forward's. */
export function topkAttentionBackward(gpu: Gpu, args: TopkBackwardArgs): void {
  climb(gpu, topkBackwardLadder, args);
}
