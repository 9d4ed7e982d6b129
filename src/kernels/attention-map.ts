import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { delta, makeDelta } from './attention-common.ts';
import type { AttentionDims, BackwardRung, ForwardRung } from './attention-common.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims } from './kernel.ts';
import { matmul } from './matmul.ts';
import { inFloats } from './precision.ts';

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

const name = 'attention/1_materialised';
/** The sizes of the map are those of a buffer: past a device's limit the other rungs remain. */
const fits = (gpu: Gpu, { B, Nq, Nk, stored }: AttentionDims) =>
  inFloats({ stored }) && 4 * B * Nq * Nk <= (gpu.limits['maxStorageBufferBindingSize'] ?? 2 ** 27);

export const materialisedForward: ForwardRung = {
  name,
  kernels: [normalise],
  fits,
  tiles: () => [{}],
  run(gpu, args) {
    const { q, k, v, out, lse, B, Nq, Nk, DV } = args;
    gpu.scope(() => {
      const map = gpu.alloc(4 * B * Nq * Nk, 'attention map');
      mapWithLse(gpu, { ...args, q, k, out: map, lse });
      const y = { data: v, N: Nk, D: DV };
      weighedBy(gpu, args, { map, y, out: { data: out, N: Nq, D: DV }, flipped: false });
    });
  },
};

export const materialisedBackward: BackwardRung = {
  name,
  kernels: [weights, mapBackward, delta],
  fits,
  tiles: () => [{}],
  run(gpu, args) {
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
