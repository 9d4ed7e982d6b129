import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv, roundUp } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Grid, Kernel, Tile } from './kernel.ts';
import { matmul } from './matmul.ts';
import { storedOf } from './precision.ts';
import type { Precision } from './precision.ts';

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

/** One step of the ladder: forward and backward for every size and both layouts. */
export interface AttentionRung {
  readonly name: string;
  readonly kernels: readonly Kernel[];
  readonly forward: (gpu: Gpu, args: AttentionArgs) => void;
  readonly backward: (gpu: Gpu, args: AttentionBackwardArgs) => void;
}

type Param = 'B' | 'Nq' | 'Nk' | 'DK' | 'DV' | 'scale';
const dims = ['B', 'Nq', 'Nk', 'DK', 'DV', 'scale'] as const;
const paramsOf = ({ B, Nq, Nk, DK, DV, scale }: AttentionDims) => ({ B, Nq, Nk, DK, DV, scale });
const flag = (on: boolean) => String(on);
const channel = ({ layout }: { layout: AttentionLayout }) => flag(layout === 'channel');

// Bytes: every operand once. Flops: 2 a multiply-add.
const forwardCost = {
  flops: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 2 * B * Nq * Nk * (DK + DV),
  bytes: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 4 * B * (Nq + Nk) * (DK + DV) + 4 * B * Nq,
};
const queriesCost = {
  flops: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 2 * B * Nq * Nk * (2 * DK + DV),
  bytes: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 4 * B * ((Nq + Nk) * (DK + DV) + Nq * DK + 2 * Nq),
};
const keysCost = {
  flops: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 2 * B * Nq * Nk * (2 * DK + 2 * DV),
  bytes: ({ B, Nq, Nk, DK, DV }: Dims<Param>) => 4 * B * ((Nq + 2 * Nk) * (DK + DV) + 2 * Nq),
};

const forwardTensors = ['q', 'k', 'v', 'out', 'lse'] as const;
const queriesTensors = ['q', 'k', 'v', 'dOut', 'lse', 'delta', 'dq'] as const;
const keysTensors = ['q', 'k', 'v', 'dOut', 'lse', 'delta', 'dk', 'dv'] as const;

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

// ---- 1: through memory ----------------------------------------------------------------------------------------------

const mapShared = {
  file: 'attention/1_materialised.wgsl',
  dims: ['rows', 'cols', 'scale'] as const,
};
type MapDim = Dims<'rows' | 'cols' | 'scale'>;
const normalise = kernel({
  ...mapShared,
  entry: 'normalise',
  tensors: ['map', 'lse'],
  grid: ({ rows }, tile) => linearGrid(rows, tile('WG')),
  flops: ({ rows, cols }) => 5 * rows * cols,
  bytes: ({ rows, cols }) => 8 * rows * cols + 4 * rows,
});
const weights = kernel({
  ...mapShared,
  entry: 'weights',
  tensors: ['keptLse', 'scores'],
  grid: ({ rows }: MapDim) => linearGrid(rows, 1),
  flops: ({ rows, cols }) => 2 * rows * cols,
  bytes: ({ rows, cols }) => 8 * rows * cols + 4 * rows,
});
const mapBackward = kernel({
  ...mapShared,
  entry: 'backward',
  tensors: ['probabilities', 'delta', 'dMap'],
  grid: ({ rows }: MapDim) => linearGrid(rows, 1),
  flops: ({ rows, cols }) => 3 * rows * cols,
  bytes: ({ rows, cols }) => 12 * rows * cols + 4 * rows,
});

/** A tensor of `N` positions and `D` dims in its layout, as an operand of a product. */
interface Operand {
  readonly data: Storage;
  readonly N: number;
  readonly D: number;
}

/** out[B, x.N, y.N] = alpha · Σ over dims of x · y, a map of positions by positions. */
function mapOf(
  gpu: Gpu,
  dims: AttentionDims,
  args: { x: Operand; y: Operand; out: Storage; alpha?: number },
): void {
  const { x, y, out, alpha = 1 } = args;
  const byChannel = dims.layout === 'channel';
  matmul(gpu, {
    a: x.data,
    b: y.data,
    out,
    M: x.N,
    N: y.N,
    K: x.D,
    batch: dims.B,
    strideA: x.N * x.D,
    strideB: y.N * y.D,
    transA: byChannel,
    transB: !byChannel,
    alpha,
  });
}

/** out = Σ of y's positions weighted by the map's rows (or, `flipped`, by its columns), in y's layout. */
function weighedBy(
  gpu: Gpu,
  dims: AttentionDims,
  args: { map: Storage; y: Operand; out: Operand; flipped: boolean },
): void {
  const { map, y, out, flipped } = args;
  const byChannel = dims.layout === 'channel';
  const sides = byChannel
    ? { a: y.data, b: map, M: y.D, N: out.N, strideA: y.N * y.D, strideB: y.N * out.N }
    : { a: map, b: y.data, M: out.N, N: y.D, strideA: y.N * out.N, strideB: y.N * y.D };
  const transposes = byChannel
    ? { transA: false, transB: !flipped }
    : { transA: flipped, transB: false };
  matmul(gpu, { ...sides, ...transposes, out: out.data, K: y.N, batch: dims.B });
}

/** out[B, Nq, Nk] = softmax(scale·QKᵀ), lse beside it. */
export function mapWithLse(
  gpu: Gpu,
  args: Omit<AttentionDims, 'DV'> & { q: Storage; k: Storage; out: Storage; lse: Storage },
): void {
  const { q, k, out, lse, B, Nq, Nk, DK, scale } = args;
  const x = { data: q, N: Nq, D: DK };
  const y = { data: k, N: Nk, D: DK };
  mapOf(gpu, { ...args, DV: 0 }, { x, y, out, alpha: scale });
  const rows = { rows: B * Nq, cols: Nk, scale };
  normalise.run(gpu, { tensors: { map: out, lse }, dims: rows });
}

export const materialised: AttentionRung = {
  name: 'attention/1_materialised',
  kernels: [normalise, weights, mapBackward, delta],
  forward(gpu, args) {
    const { q, k, v, out, lse, B, Nq, Nk, DV } = args;
    gpu.scope(() => {
      const map = gpu.alloc(4 * B * Nq * Nk, 'attention map');
      mapWithLse(gpu, { ...args, q, k, out: map, lse });
      const y = { data: v, N: Nk, D: DV };
      weighedBy(gpu, args, { map, y, out: { data: out, N: Nq, D: DV }, flipped: false });
    });
  },
  backward(gpu, args) {
    const { lse, dOut, dq, dk, dv, B, Nq, Nk, DK, DV, scale } = args;
    const q = { data: args.q, N: Nq, D: DK };
    const k = { data: args.k, N: Nk, D: DK };
    const v = { data: args.v, N: Nk, D: DV };
    const dO = { data: dOut, N: Nq, D: DV };
    const rows = { rows: B * Nq, cols: Nk, scale };
    gpu.scope(() => {
      const map = gpu.alloc(4 * B * Nq * Nk, 'attention map');
      mapOf(gpu, args, { x: q, y: k, out: map, alpha: scale });
      weights.run(gpu, { tensors: { keptLse: lse, scores: map }, dims: rows });
      if (dv) weighedBy(gpu, args, { map, y: dO, out: { ...v, data: dv }, flipped: true });
      if (!dq && !dk) return;
      const dMap = gpu.alloc(4 * B * Nq * Nk, 'attention dMap');
      mapOf(gpu, args, { x: dO, y: v, out: dMap });
      const tensors = { probabilities: map, delta: makeDelta(gpu, args), dMap };
      mapBackward.run(gpu, { tensors, dims: rows });
      if (dq) weighedBy(gpu, args, { map: dMap, y: k, out: { ...q, data: dq }, flipped: false });
      if (dk) weighedBy(gpu, args, { map: dMap, y: q, out: { ...k, data: dk }, flipped: true });
    });
  },
};

// ---- 2 and 3: fused -------------------------------------------------------------------------------------------------

type TileOf = (name: string) => number;
type Forward = Kernel<(typeof forwardTensors)[number], Param>;
type Queries = Kernel<(typeof queriesTensors)[number], Param>;
type Keys = Kernel<(typeof keysTensors)[number], Param>;

/** A fused rung out of its three kernels and the constants that each takes for given sizes. */
function fusedRung(options: {
  name: string;
  forward: Forward;
  queries: Queries;
  keys: Keys;
  tiles: (gpu: Gpu, dims: AttentionDims) => { forward: Tile; queries: Tile; keys: Tile };
}): AttentionRung {
  const { name, forward, queries, keys, tiles } = options;
  return {
    name,
    kernels: [forward, queries, keys, delta],
    forward(gpu, args) {
      const { q, k, v, out, lse } = args;
      const tile = tiles(gpu, args).forward;
      forward.run(gpu, { tensors: { q, k, v, out, lse }, dims: paramsOf(args), tile });
    },
    backward(gpu, args) {
      const { q, k, v, dOut, lse, dq, dk, dv } = args;
      if (!dq && !dk && !dv) return;
      const tile = tiles(gpu, args);
      const params = paramsOf(args);
      gpu.scope(() => {
        const shared = { q, k, v, dOut, lse, delta: makeDelta(gpu, args) };
        if (dq) {
          queries.run(gpu, { tensors: { ...shared, dq }, dims: params, tile: tile.queries });
        }
        if (dk || dv) {
          const unused = () => gpu.alloc(16, 'attention gradient nobody needs');
          keys.run(gpu, {
            tensors: { ...shared, dk: dk ?? unused(), dv: dv ?? unused() },
            dims: params,
            tile: { ...tile.keys, WRITE_DK: flag(!!dk), WRITE_DV: flag(!!dv) },
          });
        }
      });
    },
  };
}

const perThread = 4;

/** True if the contiguous axis of every tensor is a whole number of vec4s. */
export function readsVec4({ layout, Nq, Nk, DK, DV }: AttentionDims): boolean {
  const contiguous = layout === 'channel' ? [Nq, Nk] : [DK, DV];
  return contiguous.every((n) => n % 4 === 0);
}

export const registers = fusedRung({
  name: 'attention/2_registers',
  forward: kernel({
    file: 'attention/2_registers.wgsl',
    entry: 'forward',
    tensors: forwardTensors,
    dims,
    grid: ({ B, Nq, DV }, tile: TileOf): Grid => [
      ceilDiv(Nq, perThread * tile('WG')),
      B,
      ceilDiv(DV, tile('TV')),
    ],
    ...forwardCost,
  }),
  queries: kernel({
    file: 'attention/2_registers_backward.wgsl',
    entry: 'queries',
    tensors: queriesTensors,
    dims,
    grid: ({ B, Nq, DK }, tile: TileOf): Grid => [
      ceilDiv(Nq, perThread * tile('WG')),
      B,
      ceilDiv(DK, tile('TD')),
    ],
    ...queriesCost,
  }),
  keys: kernel({
    file: 'attention/2_registers_backward.wgsl',
    entry: 'keys',
    tensors: keysTensors,
    dims,
    grid: ({ B, Nk, DK, DV }, tile: TileOf): Grid => [
      ceilDiv(Nk, perThread * tile('WG')),
      B,
      Math.max(ceilDiv(DK, tile('TD')), ceilDiv(DV, tile('TV'))),
    ],
    ...keysCost,
  }),
  tiles(gpu, args) {
    const { Nk, DK, DV } = args;
    const aligned = readsVec4(args);
    // Unaligned blocks are read an element at a time: little of that in a kernel's body keeps its compile time down.
    const most = aligned ? { TD: 32, TV: 64, PB: 8 } : { TD: 4, TV: 8, PB: 4 };
    const TD = Math.min(most.TD, roundUp(DK, 4));
    const TV = Math.min(most.TV, roundUp(DV, 4));
    const shared = {
      CHANNEL: channel(args),
      ALIGNED: flag(aligned),
      DEEP: flag(DK > TD),
      WG: Math.min(8, Math.max(4, gpu.adapter.subgroupSizes[1])),
      TD,
      TV,
    };
    return {
      forward: { ...shared, PB: most.PB, MASKED: flag(Nk % most.PB !== 0) },
      queries: shared,
      keys: { ...shared, WIDE: flag(DV > TV) },
    };
  },
});

const needs = { invocations: 256, workgroupBytes: 16384 };
export const tiles = fusedRung({
  name: 'attention/3_tiles',
  forward: kernel({
    file: 'attention/3_tiles.wgsl',
    entry: 'forward',
    tensors: forwardTensors,
    dims,
    grid: ({ B, Nq, DV }, tile: TileOf): Grid => [
      ceilDiv(Nq, tile('ROWS')),
      B,
      ceilDiv(DV, tile('TV')),
    ],
    ...forwardCost,
    needs,
  }),
  queries: kernel({
    file: 'attention/3_tiles_backward.wgsl',
    entry: 'queries',
    tensors: queriesTensors,
    dims,
    grid: ({ B, Nq, DK }, tile: TileOf): Grid => [
      ceilDiv(Nq, tile('ROWS')),
      B,
      ceilDiv(DK, tile('TV')),
    ],
    ...queriesCost,
    needs,
  }),
  keys: kernel({
    file: 'attention/3_tiles_backward.wgsl',
    entry: 'keys',
    tensors: keysTensors,
    dims,
    grid: ({ B, Nk, DK, DV }, tile: TileOf): Grid => [
      ceilDiv(Nk, tile('ROWS')),
      B,
      ceilDiv(Math.max(DK, DV), tile('TV')),
    ],
    ...keysCost,
    needs,
  }),
  tiles(_gpu, args) {
    const shared = { CHANNEL: channel(args) };
    return { forward: shared, queries: shared, keys: shared };
  },
});
