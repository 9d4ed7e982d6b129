import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { channel } from './attention-common.ts';
import type { AttentionLayout } from './attention-common.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, TileOf } from './kernel.ts';
import { storedOf } from './precision.ts';
import type { Precision } from './precision.ts';

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
type Sums = Dims<'B' | 'Nq' | 'Nk' | 'D'>;

// Costs are those of the file's own TOP: the records do not see a launch's.
export const choose = kernel({
  file: 'topk-attention/choose.wgsl',
  entry: 'choose',
  tensors: ['q', 'k', 'index', 'weight'],
  dims: ['B', 'Nq', 'Nk', 'DK', 'scale'],
  tile,
  grid: perQuery,
  flops: ({ B, Nq, Nk, DK }) => 2 * B * Nq * Nk * DK,
  bytes: ({ B, Nq, Nk, DK }, each = 4) => B * (each * (Nq + Nk) * DK + 8 * tile.TOP * Nq),
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

/**
 * The `top` keys of each query with the largest scale·q·k, largest first, of equal ones the lowest key; their softmax; and
 * out = Σ weight·v. Memory is linear: `index` and `weight` [B, top, Nq].
 */
export function topkAttention(gpu: Gpu, args: TopkArgs): void {
  const { q, k, v, out, index, weight, B, Nq, Nk, DK, DV, scale } = args;
  const how = { tile: tileFor(args), stored: storedOf(args) };
  choose.run(gpu, { tensors: { q, k, index, weight }, dims: { B, Nq, Nk, DK, scale }, ...how });
  gather.run(gpu, { tensors: { weight, index, y: v, out }, dims: { B, Nq, Nk, D: DV }, ...how });
}

/** dOut → dq, dk, dv through the chosen keys alone; one left out is not computed. `index` and `weight` are forward's. */
export function topkAttentionBackward(gpu: Gpu, args: TopkBackwardArgs): void {
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
