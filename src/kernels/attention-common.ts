import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Kernel } from './kernel.ts';
import { storedOf } from './precision.ts';
import type { Precision } from './precision.ts';
import type { Rung } from './rung.ts';

/** `channel`: [B, dims, positions], as a 1×1 convolution writes it. `sequence`: [B, positions, dims]. */
export type AttentionLayout = 'channel' | 'sequence';

export interface AttentionDims {
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
}

export interface AttentionBackwardArgs extends AttentionArgs {
  readonly dOut: Storage;
  readonly dq?: Storage | undefined;
  readonly dk?: Storage | undefined;
  readonly dv?: Storage | undefined;
}

export type ForwardRung = Rung<AttentionDims, AttentionArgs>;
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
export const queriesTensors = ['q', 'k', 'v', 'dOut', 'lse', 'delta', 'dq'] as const;
export const keysTensors = ['q', 'k', 'v', 'dOut', 'lse', 'delta', 'dk', 'dv'] as const;
export type ForwardKernel = Kernel<(typeof forwardTensors)[number], Param>;
export type QueriesKernel = Kernel<(typeof queriesTensors)[number], Param>;
export type KeysKernel = Kernel<(typeof keysTensors)[number], Param>;

// Bytes: every operand once. Flops: 2 a multiply-add.
export const forwardCost = {
  flops: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 2 * B * Nq * Nk * (DK + DV),
  bytes: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 4 * B * (Nq + Nk) * (DK + DV) + 4 * B * Nq,
};
export const queriesCost = {
  flops: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 2 * B * Nq * Nk * (2 * DK + DV),
  bytes: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 4 * B * ((Nq + Nk) * (DK + DV) + Nq * DK + 2 * Nq),
};
export const keysCost = {
  flops: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 2 * B * Nq * Nk * (2 * DK + 2 * DV),
  bytes: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 4 * B * ((Nq + 2 * Nk) * (DK + DV) + 2 * Nq),
};

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
export function makeDelta(gpu: Gpu, args: AttentionBackwardArgs & Precision): Storage {
  const { out, dOut, B, Nq, DV } = args;
  const made = gpu.alloc(4 * B * Nq, 'attention delta');
  const tile = { CHANNEL: channel(args) };
  const stored = storedOf(args);
  delta.run(gpu, { tensors: { out, dOut, delta: made }, dims: { B, Nq, DV }, tile, stored });
  return made;
}
