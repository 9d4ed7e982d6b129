/** Attention in which some keys are hidden from some queries: one kernel for every adapter, no map but the caller's mask. */
import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import {
  channel,
  flag,
  forwardCost,
  keysCost,
  params,
  paramsOf,
  queriesCost,
} from './attention-common.ts';
import type { AttentionArgs, AttentionBackwardArgs, AttentionDims } from './attention-common.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid, Tile, TileOf } from './kernel.ts';
import { precisionOf, storedOf } from './precision.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

/** Words of u32, of which 0 hides a key; or floats that are added to the scores, of which −∞ and the lowest float hide. */
export type MaskKind = 'none' | 'boolean' | 'additive';

/** B is items · heads. The mask is [maskItems, maskHeads, maskQueries, maskKeys], each 1 or the whole. */
export interface MaskedDims extends AttentionDims {
  readonly heads: number;
  readonly mask: MaskKind;
  readonly maskItems: number;
  readonly maskHeads: number;
  readonly maskQueries: number;
  readonly maskKeys: number;
  /** Keys past a query's own position are hidden from it too. */
  readonly causal: boolean;
}

export interface MaskedArgs extends MaskedDims, AttentionArgs {
  /** u32, or f32 bits; any storage where `mask` is none. */
  readonly hides: Storage;
}

export interface MaskedBackwardArgs extends MaskedDims, AttentionBackwardArgs {
  readonly hides: Storage;
}

const strides = ['itemStride', 'headStride', 'queryStride', 'keyStride'] as const;
const maskedParams = [...params, 'heads', ...strides] as const;
type Param = (typeof maskedParams)[number];

/** An axis of 1 is not walked along. */
function dimsFor(args: MaskedDims): Dims<Param> {
  const { heads, maskItems, maskHeads, maskQueries, maskKeys } = args;
  const step = (extent: number, inner: number) => (extent > 1 ? inner : 0);
  return {
    ...paramsOf(args),
    heads,
    itemStride: step(maskItems, maskHeads * maskQueries * maskKeys),
    headStride: step(maskHeads, maskQueries * maskKeys),
    queryStride: step(maskQueries, maskKeys),
    keyStride: step(maskKeys, 1),
  };
}

const name = 'attention/masked';
const backwardName = 'attention/masked_backward';
const [file, backwardFile] = [`${name}.wgsl`, `${backwardName}.wgsl`];

/** A thread owns four positions and a slice of the dims. */
const grid = (N: number, B: number, slices: number, tile: TileOf): Grid =>
  linearGrid(ceilDiv(N, 4) * B * slices, tile('WG'));

const forward = kernel({
  file,
  entry: 'forward',
  tensors: ['q', 'k', 'v', 'mask', 'out', 'lse'],
  dims: maskedParams,
  grid: ({ B, Nq, DV }, tile) => grid(Nq, B, ceilDiv(DV, tile('TV')), tile),
  ...forwardCost,
});

const full = kernel({
  file,
  entry: 'full',
  tensors: ['given', 'bias', 'shown'],
  dims: maskedParams,
  grid: ({ B, Nq }, tile) => linearGrid(B * Nq, tile('WG')),
  flops: () => 0,
  bytes: ({ B, Nq, Nk }) => 8 * B * Nq * Nk,
});

const statistics = kernel({
  file: backwardFile,
  entry: 'statistics',
  tensors: ['out', 'gradient', 'lse', 'made'],
  dims: maskedParams,
  grid: ({ B, Nq }, tile) => linearGrid(B * Nq, tile('WG')),
  flops: ({ B, Nq, DV }) => 2 * B * Nq * DV,
  bytes: ({ B, Nq, DV }, each = 4) => B * Nq * (2 * each * DV + 12),
});

const operands = ['q', 'k', 'v', 'dOut', 'stats', 'mask'] as const;
const queries = kernel({
  file: backwardFile,
  entry: 'queries',
  tensors: [...operands, 'dq'],
  dims: maskedParams,
  grid: ({ B, Nq, DK }, tile) => grid(Nq, B, ceilDiv(DK, tile('TD')), tile),
  ...queriesCost,
});

const keys = kernel({
  file: backwardFile,
  entry: 'keys',
  tensors: [...operands, 'dk', 'dv'],
  dims: maskedParams,
  grid: ({ B, Nk, DK, DV }, tile) => {
    const deep = tile('WRITE_DK') * ceilDiv(DK, tile('TD'));
    const wide = tile('WRITE_DV') * ceilDiv(DV, tile('TV'));
    return grid(Nk, B, Math.max(deep, wide), tile);
  },
  ...keysCost,
});

/** What a thread keeps of its rows: more is long to compile on a CPU driver, and spills on a GPU. */
function tilesOf({ adapter }: Gpu, { DK, DV }: MaskedDims): readonly Tile[] {
  const software = adapter.kind === 'software';
  const WG = software ? Math.min(8, Math.max(4, adapter.subgroupSizes[1])) : 64;
  const tile = (TD: number, TV: number) => ({
    WG,
    TD: Math.min(TD, DK),
    TV: Math.min(TV, DV),
  });
  return software ? [tile(32, 32)] : [tile(16, 32), tile(32, 64)];
}

const kinds: Readonly<Record<MaskKind, number>> = { none: 0, boolean: 1, additive: 2 };
const flagsOf = (args: MaskedDims, tile: Tile) => ({
  CHANNEL: channel(args),
  MASK: kinds[args.mask],
  CAUSAL: flag(args.causal),
  DEEP: flag(args.DK > Number(tile['TD'])),
  WIDE: flag(args.DV > Number(tile['TV'])),
});

const threadsForward: Rung<MaskedDims, MaskedArgs> = {
  name,
  kernels: [forward],
  fits: () => true,
  tiles: tilesOf,
  run(gpu, args, tile = tilesOf(gpu, args)[0] ?? {}) {
    const { q, k, v, hides, out, lse } = args;
    forward.run(gpu, {
      tensors: { q, k, v, mask: hides, out, lse },
      dims: dimsFor(args),
      tile: { ...tile, ...flagsOf(args, tile) },
      stored: storedOf(args),
    });
  },
};

const threadsBackward: Rung<MaskedDims, MaskedBackwardArgs> = {
  name: backwardName,
  kernels: [statistics, queries, keys],
  fits: () => true,
  tiles: tilesOf,
  run(gpu, args, tile = tilesOf(gpu, args)[0] ?? {}) {
    const { q, k, v, hides, out, lse, dOut, dq, dk, dv, B, Nq } = args;
    if (!dq && !dk && !dv) return;
    const constants = {
      ...{ ...tile, ...flagsOf(args, tile) },
      ...{ WRITE_DK: dk ? 1 : 0, WRITE_DV: dv ? 1 : 0 },
    };
    const launch = { dims: dimsFor(args), tile: constants, stored: storedOf(args) };
    gpu.scope(() => {
      const stats = gpu.alloc(8 * B * Nq, 'attention statistics');
      statistics.run(gpu, { tensors: { out, gradient: dOut, lse, made: stats }, ...launch });
      const shared = { q, k, v, dOut, stats, mask: hides };
      if (dq) queries.run(gpu, { tensors: { ...shared, dq }, ...launch });
      if (!dk && !dv) return;
      const unused = () => gpu.alloc(16, 'attention gradient nobody needs');
      keys.run(gpu, { tensors: { ...shared, dk: dk ?? unused(), dv: dv ?? unused() }, ...launch });
    });
  },
};

const dimsOf = (args: MaskedDims): MaskedDims => {
  const { B, Nq, Nk, DK, DV, scale, layout, heads, mask, causal } = args;
  const { maskItems, maskHeads, maskQueries, maskKeys } = args;
  return {
    ...{ B, Nq, Nk, DK, DV, scale, layout, heads, mask, causal },
    ...{ maskItems, maskHeads, maskQueries, maskKeys, ...precisionOf(args) },
  };
};

type Input = 'q' | 'k' | 'v' | 'hides' | 'out' | 'lse';

function operandsOf(dims: MaskedDims): Record<Input, number> {
  const { B, Nq, Nk, DK, DV, maskItems, maskHeads, maskQueries, maskKeys } = dims;
  const hides = maskItems * maskHeads * maskQueries * maskKeys;
  return { q: B * Nq * DK, k: B * Nk * DK, v: B * Nk * DV, hides, out: B * Nq * DV, lse: B * Nq };
}

/** Pairs of query and key that CAUSAL leaves. */
const pairs = ({ B, Nq, Nk, causal }: MaskedDims) => {
  const both = Math.min(Nq, Nk);
  return B * (causal ? (both * (both + 1)) / 2 + (Nq - both) * Nk : Nq * Nk);
};

/** Bytes of all operands: lse and the mask are of four bytes always. */
function bytesFor(dims: MaskedDims, operands: Readonly<Record<string, number>>): number {
  const { lse = 0, hides = 0, ...others } = operands;
  const each = dims.stored === 'f16' ? 2 : 4;
  return 4 * (lse + hides) + each * Object.values(others).reduce((sum, n) => sum + n, 0);
}

/** out = softmax(scale·QKᵀ + mask)·V and its log-sum-exp. */
export const maskedForwardLadder: Ladder<MaskedDims, MaskedArgs, Input> = {
  name: 'masked-attention-forward',
  rungs: [threadsForward],
  preferred: () => [name],
  dimsOf,
  operands: operandsOf,
  outputs: ['out', 'lse'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: (dims) => 2 * pairs(dims) * (dims.DK + dims.DV),
  bytes: (dims) => bytesFor(dims, operandsOf(dims)),
  halves: ['q', 'k', 'v', 'out'],
};

/** dOut → dq, dk, dv. */
export const maskedBackwardLadder: Ladder<
  MaskedDims,
  MaskedBackwardArgs,
  Input | 'dOut' | 'dq' | 'dk' | 'dv'
> = {
  name: 'masked-attention-backward',
  rungs: [threadsBackward],
  preferred: () => [backwardName],
  dimsOf,
  operands: (dims) => {
    const { q, k, v, hides, out, lse } = operandsOf(dims);
    return { q, k, v, hides, out, lse, dOut: out, dq: q, dk: k, dv: v };
  },
  outputs: ['dq', 'dk', 'dv'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: (dims) => 2 * pairs(dims) * (3 * dims.DK + 2 * dims.DV),
  bytes: (dims) => bytesFor(dims, maskedBackwardLadder.operands(dims)),
  halves: ['q', 'k', 'v', 'out', 'dOut', 'dq', 'dk', 'dv'],
};

/** As `attention`, of the pairs that the mask shows; zeros for a query from which every key is hidden. */
export function maskedAttention(gpu: Gpu, args: MaskedArgs): void {
  climb(gpu, maskedForwardLadder, args);
}

/** As `attentionBackward`. */
export function maskedAttentionBackward(gpu: Gpu, args: MaskedBackwardArgs): void {
  climb(gpu, maskedBackwardLadder, args);
}

/** bias f32 [B, Nq, Nk] to add to scores, and shown, 1 or 0: the mask in full, for second derivatives. */
export function fullMask(
  gpu: Gpu,
  args: MaskedDims & { hides: Storage; bias: Storage; shown: Storage },
): void {
  const { hides, bias, shown } = args;
  const tile = { MASK: kinds[args.mask], CAUSAL: flag(args.causal) };
  full.run(gpu, { tensors: { given: hides, bias, shown }, dims: dimsFor(args), tile });
}
