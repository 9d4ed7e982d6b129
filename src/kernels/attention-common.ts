import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Kernel, Tile, TileOf } from './kernel.ts';
import { storedOf } from './precision.ts';
import type { Precision } from './precision.ts';
import type { Rung } from './rung.ts';

/** `channel`: [B, dims, positions], as a 1×1 convolution writes it. `sequence`: [B, positions, dims]. */
export type AttentionLayout = 'channel' | 'sequence';

/** `stored: f16` is every tensor but lse, which is f32 always. */
export interface AttentionDims extends Precision {
  readonly B: number;
  readonly Nq: number;
  readonly Nk: number;
  /** Width of queries and keys. */
  readonly DK: number;
  /** Width of values. */
  readonly DV: number;
  /** Factor of the scores. */
  readonly scale: number;
  readonly layout: AttentionLayout;
}

export interface AttentionArgs extends AttentionDims {
  readonly q: Storage;
  readonly k: Storage;
  readonly v: Storage;
  readonly out: Storage;
  /** [B, Nq] = log Σ exp(scores). */
  readonly lse: Storage;
  /** Only for a rung that joins it. */
  readonly residual?: Residual | undefined;
}

/** joined = gamma·out + shortcut, stored with out or, unless it is kept, without. */
export interface Residual {
  /** [1], f32. */
  readonly gamma: Storage;
  /** In the layout and of the element type of out. */
  readonly shortcut: Storage;
  readonly joined: Storage;
  readonly keepOut: boolean;
}

export interface AttentionBackwardArgs extends AttentionArgs {
  readonly dOut: Storage;
  readonly dq?: Storage | undefined;
  readonly dk?: Storage | undefined;
  readonly dv?: Storage | undefined;
}

export interface ForwardRung extends Rung<AttentionDims, AttentionArgs> {
  /** True if it serves a `residual` for these sizes. Left out: it serves none. */
  readonly joins?: (dims: AttentionDims) => boolean;
}
/** Needs nothing of the forward pass but out and lse, whichever rung made them. */
export type BackwardRung = Rung<AttentionDims, AttentionBackwardArgs>;

export type Param = 'B' | 'Nq' | 'Nk' | 'DK' | 'DV' | 'scale';
export const params = ['B', 'Nq', 'Nk', 'DK', 'DV', 'scale'] as const;
export const paramsOf = ({ B, Nq, Nk, DK, DV, scale }: AttentionDims): Dims<Param> => ({
  ...{ B, Nq, Nk, DK, DV, scale },
});
export const flag = (on: boolean) => String(on);
export const channel = ({ layout }: { layout: AttentionLayout }) => flag(layout === 'channel');

export const forwardTensors = ['q', 'k', 'v', 'out', 'lse'] as const;
const residualTensors = ['gamma', 'shortcut', 'joined'] as const;
export const joiningTensors = [...forwardTensors, ...residualTensors] as const;
export const queriesTensors = ['q', 'k', 'v', 'dOut', 'lse', 'delta', 'dq'] as const;
export const keysTensors = ['q', 'k', 'v', 'dOut', 'lse', 'delta', 'dk', 'dv'] as const;
export type ForwardKernel = Kernel<(typeof forwardTensors)[number], Param>;
export type JoiningKernel = Kernel<(typeof joiningTensors)[number], Param>;
export type QueriesKernel = Kernel<(typeof queriesTensors)[number], Param>;
export type KeysKernel = Kernel<(typeof keysTensors)[number], Param>;

// Bytes: every operand once, lse and delta in f32. Flops: 2 a multiply-add.
const products = ({ B, Nq, Nk }: Dims<Param>, depth: number) => 2 * B * Nq * Nk * depth;
/** Queries, keys, values, and out or its gradient. */
const tensors = ({ B, Nq, Nk, DK, DV }: Dims<Param>) => B * (Nq + Nk) * (DK + DV);
export const forwardCost = {
  flops: (d: Dims<Param>) => products(d, d.DK + d.DV),
  bytes: (d: Dims<Param>, each = 4) => each * tensors(d) + 4 * d.B * d.Nq,
};
/** Of a kernel that can join a residual: STORE is also how many tensors more that moves. */
export const joiningCost = {
  flops: forwardCost.flops,
  bytes: (d: Dims<Param>, each = 4, tile?: TileOf) =>
    forwardCost.bytes(d, each) + (tile?.('STORE') ?? 0) * each * d.B * d.Nq * d.DV,
};
export const queriesCost = {
  flops: (d: Dims<Param>) => products(d, 2 * d.DK + d.DV),
  bytes: (d: Dims<Param>, each = 4) => each * (tensors(d) + d.B * d.Nq * d.DK) + 8 * d.B * d.Nq,
};
export const keysCost = {
  flops: (d: Dims<Param>) => products(d, 2 * d.DK + 2 * d.DV),
  bytes: (d: Dims<Param>, each = 4) =>
    each * (tensors(d) + d.B * d.Nk * (d.DK + d.DV)) + 8 * d.B * d.Nq,
};

/** What is bound for a residual, and with it the tile that says what to store. */
interface Joining {
  readonly bound: Readonly<Record<(typeof residualTensors)[number], Storage>>;
  readonly tile: Tile;
}

/** Launches a kernel that can join a residual; of none it is bound what it leaves alone. */
export function launchJoining(
  gpu: Gpu,
  { q, residual }: AttentionArgs,
  { tile, launch }: { tile: Tile | undefined; launch: (joining: Joining) => void },
): void {
  if (residual !== undefined) {
    const { keepOut, ...bound } = residual;
    launch({ bound, tile: { ...tile, STORE: keepOut ? 2 : 1 } });
    return;
  }
  gpu.scope(() => {
    const joined = gpu.alloc(16, 'attention without a residual');
    launch({ bound: { gamma: q, shortcut: q, joined }, tile: { ...tile, STORE: 0 } });
  });
}

/** What softmax takes off each query's dP, for every backward rung. */
export const delta = kernel({
  file: 'attention/delta.wgsl',
  tensors: ['out', 'dOut', 'delta'],
  dims: ['B', 'Nq', 'DV'],
  grid: ({ B, Nq }, tile) => linearGrid(B * Nq, tile('WG')),
  flops: ({ B, Nq, DV }) => 2 * B * Nq * DV,
  bytes: ({ B, Nq, DV }, each = 4) => B * Nq * (2 * each * DV + 4),
});

/** [B, Nq] = Σ dOut·out, in scratch. */
export function makeDelta(gpu: Gpu, args: AttentionBackwardArgs): Storage {
  const { out, dOut, B, Nq, DV } = args;
  const made = gpu.alloc(4 * B * Nq, 'attention delta');
  const tile = { CHANNEL: channel(args) };
  const stored = storedOf(args);
  delta.run(gpu, { tensors: { out, dOut, delta: made }, dims: { B, Nq, DV }, tile, stored });
  return made;
}
