/** Attention on subgroup matrices (tensor cores): factors of f16, sums and statistics of f32. */
import { matrixFeatures, matrixTiles } from '../gpu/adapter.ts';
import type { Gpu } from '../gpu/device.ts';
import { ceilDiv } from '../util/shape.ts';
import {
  channel,
  delta,
  flag,
  joiningCost,
  keysCost,
  keysTensors,
  launchJoining,
  makeDelta,
  params,
  paramsOf,
  queriesCost,
  queriesTensors,
} from './attention-common.ts';
import type {
  AttentionArgs,
  AttentionBackwardArgs,
  AttentionDims,
  ForwardRung,
  Param,
} from './attention-common.ts';
import { canRun, kernel } from './kernel.ts';
import type { Dims, Grid, Kernel, Tile, TileOf } from './kernel.ts';
import { mayRound, storedOf } from './precision.ts';
import type { Rung } from './rung.ts';

type Sizes = Dims<Param>;

const rowsOf = (tile: TileOf) => tile('SG') * tile('MM');
const grid =
  (rows: (d: Sizes) => number, width: (d: Sizes) => number) =>
  (d: Sizes, tile: TileOf): Grid => [
    ceilDiv(rows(d), rowsOf(tile)),
    d.B,
    ceilDiv(width(d), tile('TV')),
  ];

const shared = {
  dims: params,
  needs: (tile: TileOf) => {
    const [ROWS, COLS, DC, TV] = [rowsOf(tile), tile('COLS'), tile('DC'), tile('TV')];
    const threads = tile('SG') * tile('LANES');
    // 8 elements more than a line, and lines along either axis.
    const staged = (n: number, depth: number) => n * depth + 8 * Math.max(n, depth);
    const halves = staged(ROWS, DC) + staged(COLS, DC) + staged(COLS, TV) + ROWS * (COLS + 8);
    return {
      features: matrixFeatures,
      invocations: threads,
      workgroupBytes: 2 * halves + 4 * ROWS * (COLS + 4) + 8 * threads,
    };
  },
};

const statistics = kernel({
  ...shared,
  file: 'attention/7_tensor_cores.wgsl',
  entry: 'statistics',
  tensors: ['q', 'k', 'v', 'lse'],
  grid: (d, tile) => [ceilDiv(d.Nq, rowsOf(tile)), d.B, 1],
  flops: ({ B, Nq, Nk, DK }) => 2 * B * Nq * Nk * DK,
  bytes: ({ B, Nq, Nk, DK }, each = 4) => each * B * (Nq + Nk) * DK + 4 * B * Nq,
});

const forward = kernel({
  ...shared,
  file: 'attention/7_tensor_cores.wgsl',
  entry: 'forward',
  tensors: ['q', 'k', 'v', 'keptLse', 'out', 'gamma', 'shortcut', 'joined'],
  grid: grid(
    (d) => d.Nq,
    (d) => d.DV,
  ),
  ...joiningCost,
});

const queries = kernel({
  ...shared,
  file: 'attention/7_tensor_cores_backward.wgsl',
  entry: 'queries',
  tensors: queriesTensors,
  grid: grid(
    (d) => d.Nq,
    (d) => d.DK,
  ),
  ...queriesCost,
});

const keys = kernel({
  ...shared,
  file: 'attention/7_tensor_cores_backward.wgsl',
  entry: 'keys',
  tensors: keysTensors,
  grid: grid(
    (d) => d.Nk,
    (d) => Math.max(d.DK, d.DV),
  ),
  ...keysCost,
});

const shapes = {
  /** Wide enough for most values at once: the scores are made again for every slice. */
  wide: { SG: 4, COLS: 32, DC: 32, TV: 128 },
  middle: { SG: 4, COLS: 32, DC: 32, TV: 64 },
  /** Within the portable 16 KiB of workgroup memory. */
  floor: { SG: 4, COLS: 16, DC: 16, TV: 64 },
};

/** The tiles that the device has room for and whose threads divide their rows; the default first. */
function tilesOf(gpu: Gpu, { DV }: AttentionDims): readonly Tile[] {
  const [matrix] = matrixTiles(gpu.adapter);
  if (matrix === undefined || matrix.LANES % matrix.MM !== 0) return [];
  const { wide, middle, floor } = shapes;
  const ordered = DV > middle.TV ? [wide, middle, floor] : [middle, floor, wide];
  return ordered
    .map((shape) => ({ ...matrix, ...shape }))
    .filter(({ MN, MK, COLS, DC }) => COLS % MN === 0 && COLS % MK === 0 && DC % MK === 0)
    .filter((tile) => canRun(gpu, forward, tile));
}

function rung<Args extends AttentionDims>(
  name: string,
  kernels: readonly Kernel[],
  launch: (gpu: Gpu, args: Args, tile: Tile) => void,
): Rung<AttentionDims, Args> {
  return {
    name,
    kernels,
    fits: (gpu, sizes) => mayRound(sizes) && tilesOf(gpu, sizes).length > 0,
    tiles: tilesOf,
    run: (gpu, args, tile = tilesOf(gpu, args)[0] ?? {}) => {
      launch(gpu, args, { CHANNEL: channel(args), ...tile });
    },
  };
}

/** out and lse: first the statistics of every row, then the rows that they weigh. */
export const attentionMatrix: ForwardRung = {
  ...rung<AttentionArgs>('attention/7_tensor_cores', [statistics, forward], (gpu, args, whole) => {
    const { q, k, v, out, lse } = args;
    const launch = { dims: paramsOf(args), stored: storedOf(args) };
    statistics.run(gpu, { tensors: { q, k, v, lse }, tile: whole, ...launch });
    launchJoining(gpu, args, {
      tile: whole,
      launch: ({ bound, tile }) => {
        forward.run(gpu, { tensors: { q, k, v, keptLse: lse, out, ...bound }, tile, ...launch });
      },
    });
  }),
  joins: () => true,
};

/** dq, dk and dv, recomputed from lse. */
export const attentionBackwardMatrix = rung<AttentionBackwardArgs>(
  'attention/7_tensor_cores_backward',
  [queries, keys, delta],
  (gpu, args, tile) => {
    const { q, k, v, dOut, lse, dq, dk, dv } = args;
    if (!dq && !dk && !dv) return;
    const launch = { dims: paramsOf(args), stored: storedOf(args) };
    gpu.scope(() => {
      const operands = { q, k, v, dOut, lse, delta: makeDelta(gpu, args) };
      if (dq) queries.run(gpu, { tensors: { ...operands, dq }, tile, ...launch });
      if (!dk && !dv) return;
      const unused = () => gpu.alloc(16, 'attention gradient nobody needs');
      keys.run(gpu, {
        tensors: { ...operands, dk: dk ?? unused(), dv: dv ?? unused() },
        tile: { ...tile, WRITE_DK: flag(dk !== undefined), WRITE_DV: flag(dv !== undefined) },
        ...launch,
      });
    });
  },
);
