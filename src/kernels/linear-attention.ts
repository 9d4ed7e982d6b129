/** Attention by products of features φ(x) = elu(x) + 1: keys are summed once, and every query asks the sum. */
import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { channel } from './attention-common.ts';
import type { AttentionLayout } from './attention-common.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims } from './kernel.ts';
import { bytesOf, precisionOf, storedOf } from './precision.ts';
import type { Precision } from './precision.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

/** `stored: f16` is every tensor but the state, which is f32 always. */
export interface LinearDims extends Precision {
  readonly B: number;
  readonly Nq: number;
  readonly Nk: number;
  /** Width of queries and keys. */
  readonly DK: number;
  /** Width of values. */
  readonly DV: number;
  readonly layout: AttentionLayout;
}

export interface LinearArgs extends LinearDims {
  readonly q: Storage;
  readonly k: Storage;
  readonly v: Storage;
  readonly out: Storage;
  /** [B, DK, DV + 1] = Σ φ(k)·(v, 1)ᵀ: the sum of the keys, which the backward pass reads. */
  readonly state: Storage;
}

export interface LinearBackwardArgs extends Omit<LinearArgs, 'out'> {
  readonly dOut: Storage;
  readonly dq?: Storage | undefined;
  readonly dk?: Storage | undefined;
  readonly dv?: Storage | undefined;
}

type Sizes = Dims<'B' | 'N' | 'DK' | 'DV'>;
const sizes = ['B', 'N', 'DK', 'DV'] as const;
const stateSize = ({ B, DK, DV }: Dims<'B' | 'DK' | 'DV'>) => B * DK * (DV + 1);
const products = ({ B, N, DK, DV }: Sizes) => 2 * B * N * DK * (DV + 1);
/** One side's arguments and values, and a state. */
const moved = (d: Sizes, each: number) => each * d.B * d.N * (d.DK + d.DV) + 4 * stateSize(d);

const stateFile = { file: 'linear-attention/state.wgsl', dims: [...sizes, 'chunks'] as const };
const sumChunk = kernel({
  ...stateFile,
  entry: 'sum_chunk',
  tensors: ['x', 'y', 'pairs', 'parts'],
  grid: ({ B, DK, DV, chunks }, tile) =>
    linearGrid(B * chunks * ceilDiv(DK, tile('TD')) * ceilDiv(DV, tile('TE')), tile('WG')),
  flops: products,
  bytes: (d, each = 4) => moved(d, each) + 4 * (d.chunks - 1) * stateSize(d),
});
const join = kernel({
  ...stateFile,
  entry: 'join',
  tensors: ['summands', 'state'],
  grid: (d, tile) => linearGrid(stateSize(d), tile('WG')),
  flops: (d) => d.chunks * stateSize(d),
  bytes: (d) => 4 * (d.chunks + 1) * stateSize(d),
});

const apply = kernel({
  file: 'linear-attention/apply.wgsl',
  tensors: ['x', 'state', 'out'],
  dims: sizes,
  grid: ({ B, N, DV }, tile) => linearGrid(B * ceilDiv(N, 4) * ceilDiv(DV, tile('TE')), tile('WG')),
  flops: products,
  bytes: (d, each = 4) => moved(d, each),
});

const backwardFile = { file: 'linear-attention/backward.wgsl', dims: sizes };
const weigh = kernel({
  ...backwardFile,
  entry: 'weigh',
  tensors: ['q', 'sums', 'dOut', 'made'],
  grid: ({ B, N }, tile) => linearGrid(B * ceilDiv(N, 4), tile('WG')),
  flops: products,
  bytes: (d, each = 4) => moved(d, each) + 8 * d.B * d.N,
});
const spread = kernel({
  ...backwardFile,
  entry: 'spread',
  tensors: ['x', 'y', 'pairs', 'state', 'dx'],
  grid: ({ B, N, DK }, tile) => linearGrid(B * ceilDiv(N, 4) * ceilDiv(DK, tile('TD')), tile('WG')),
  flops: products,
  bytes: (d, each = 4) => moved(d, each) + each * d.B * d.N * d.DK,
});

const [chunkLength, mostChunks] = [128, 64];

/** state [B, DK, DV + 1] = Σ φ(x)·(y, 1)ᵀ over N positions, or Σ φ(x)·(w·y, c)ᵀ where there are pairs (w, c) [B, N]. */
function sumState(
  gpu: Gpu,
  args: LinearDims & { x: Storage; y: Storage; N: number; pairs?: Storage; state: Storage },
): void {
  const { x, y, pairs, state, B, N, DK, DV } = args;
  // By the positions alone, so that the order of the sums is the same on every device.
  const chunks = Math.min(mostChunks, ceilDiv(N, chunkLength));
  const dims = { B, N, DK, DV, chunks };
  const tile = { CHANNEL: channel(args), WEIGHTED: String(pairs !== undefined) };
  gpu.scope(() => {
    const parts = chunks === 1 ? state : gpu.alloc(4 * chunks * stateSize(args), 'linear parts');
    const tensors = { x, y, pairs: pairs ?? gpu.alloc(16, 'no pairs'), parts };
    sumChunk.run(gpu, { tensors, dims, tile, stored: storedOf(args) });
    if (chunks > 1) join.run(gpu, { tensors: { summands: parts, state }, dims });
  });
}

function runForward(gpu: Gpu, args: LinearArgs): void {
  const { q, k, v, out, state, B, Nq, Nk, DK, DV } = args;
  sumState(gpu, { ...args, x: k, y: v, N: Nk, state });
  apply.run(gpu, {
    tensors: { x: q, state, out },
    dims: { B, N: Nq, DK, DV },
    tile: { CHANNEL: channel(args) },
    stored: storedOf(args),
  });
}

function runBackward(gpu: Gpu, args: LinearBackwardArgs): void {
  const { q, k, v, state, dOut, dq, dk, dv, B, Nq, Nk, DK, DV } = args;
  if (!dq && !dk && !dv) return;
  const CHANNEL = channel(args);
  const stored = storedOf(args);
  const [ofQueries, ofKeys] = [Nq, Nk].map((N) => ({ dims: { B, N, DK, DV }, stored })) as [
    { dims: Sizes; stored: typeof stored },
    { dims: Sizes; stored: typeof stored },
  ];
  gpu.scope(() => {
    const pairs = gpu.alloc(8 * B * Nq, 'linear pairs');
    const given = { q, sums: state, dOut, made: pairs };
    weigh.run(gpu, { tensors: given, tile: { CHANNEL }, ...ofQueries });
    if (dq) {
      const tensors = { x: q, y: dOut, pairs, state, dx: dq };
      spread.run(gpu, { tensors, tile: { CHANNEL, WEIGHTED: 'true' }, ...ofQueries });
    }
    if (!dk && !dv) return;
    const dState = gpu.alloc(4 * stateSize(args), 'linear dState');
    sumState(gpu, { ...args, x: q, y: dOut, N: Nq, pairs, state: dState });
    if (dk) {
      const tensors = { x: k, y: v, pairs, state: dState, dx: dk };
      spread.run(gpu, { tensors, tile: { CHANNEL, WEIGHTED: 'false' }, ...ofKeys });
    }
    if (dv) {
      const tensors = { x: k, state: dState, out: dv };
      apply.run(gpu, { tensors, tile: { CHANNEL, DIVIDED: 'false' }, ...ofKeys });
    }
  });
}

const forwardRung: Rung<LinearDims, LinearArgs> = {
  name: 'linear-attention/apply',
  kernels: [sumChunk, join, apply],
  fits: () => true,
  tiles: () => [{}],
  run: runForward,
};
const backwardRung: Rung<LinearDims, LinearBackwardArgs> = {
  name: 'linear-attention/backward',
  kernels: [weigh, spread, sumChunk, join, apply],
  fits: () => true,
  tiles: () => [{}],
  run: runBackward,
};

const dimsOf = (args: LinearDims): LinearDims => {
  const { B, Nq, Nk, DK, DV, layout } = args;
  return { B, Nq, Nk, DK, DV, layout, ...precisionOf(args) };
};

type Input = 'q' | 'k' | 'v' | 'out' | 'state';

function operandsOf(dims: LinearDims): Record<Input, number> {
  const { B, Nq, Nk, DK, DV } = dims;
  return {
    q: B * Nq * DK,
    k: B * Nk * DK,
    v: B * Nk * DV,
    out: B * Nq * DV,
    state: stateSize(dims),
  };
}

function bytesFor(dims: LinearDims, operands: Readonly<Record<string, number>>): number {
  const { state = 0, ...others } = operands;
  return 4 * state + bytesOf(dims) * Object.values(others).reduce((sum, n) => sum + n, 0);
}

/** out = φ(Q)·(φ(K)ᵀ·V) / (φ(Q)·Σ φ(K)). */
export const linearForwardLadder: Ladder<LinearDims, LinearArgs, Input> = {
  name: 'linear-attention-forward',
  rungs: [forwardRung],
  preferred: () => [forwardRung.name],
  dimsOf,
  operands: operandsOf,
  outputs: ['out', 'state'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: ({ B, Nq, Nk, DK, DV }) => 2 * B * (Nq + Nk) * DK * (DV + 1),
  bytes: (dims) => bytesFor(dims, operandsOf(dims)),
  halves: ['q', 'k', 'v', 'out'],
};

/** dOut → dq, dk, dv. */
export const linearBackwardLadder: Ladder<
  LinearDims,
  LinearBackwardArgs,
  Exclude<Input, 'out'> | 'dOut' | 'dq' | 'dk' | 'dv'
> = {
  name: 'linear-attention-backward',
  rungs: [backwardRung],
  preferred: () => [backwardRung.name],
  dimsOf,
  operands: (dims) => {
    const { q, k, v, out, state } = operandsOf(dims);
    return { q, k, v, state, dOut: out, dq: q, dk: k, dv: v };
  },
  outputs: ['dq', 'dk', 'dv'],
  argsOf: (dims, storages) => ({ ...dims, ...storages }),
  flops: ({ B, Nq, Nk, DK, DV }) => 2 * B * (3 * Nq + 2 * Nk) * DK * (DV + 1),
  bytes: (dims) => bytesFor(dims, linearBackwardLadder.operands(dims)),
  halves: ['q', 'k', 'v', 'dOut', 'dq', 'dk', 'dv'],
};

/**
 * out = φ(Q)·state over its last column, state = Σ φ(k)·(v, 1)ᵀ. Shapes as `attention`'s; O(N·DK·DV) flops, memory linear
 * in Nq and Nk.
 */
export function linearAttention(gpu: Gpu, args: LinearArgs): void {
  climb(gpu, linearForwardLadder, args);
}

/** dOut → dq, dk, dv; one left out is not computed. `state` is forward's. */
export function linearAttentionBackward(gpu: Gpu, args: LinearBackwardArgs): void {
  climb(gpu, linearBackwardLadder, args);
}
