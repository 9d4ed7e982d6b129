import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv, roundUp } from '../util/shape.ts';
import {
  channel,
  delta,
  flag,
  forwardCost,
  forwardTensors,
  joiningCost,
  joiningTensors,
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
  AttentionDims,
  BackwardRung,
  ForwardKernel,
  ForwardRung,
  JoiningKernel,
  KeysKernel,
  Param,
  QueriesKernel,
} from './attention-common.ts';
import { broadcastLanes, canRun, kernel } from './kernel.ts';
import type { Dims, Grid, Kernel, KernelArgs, KernelSpec, Needs, Tile, TileOf } from './kernel.ts';
import { inFloats, mayRound, storedOf } from './precision.ts';

type Tiles = readonly [Tile, ...Tile[]];

interface Choosing {
  /** The precisions it serves: f32 tensors alone if left out. */
  readonly serves?: (dims: AttentionDims) => boolean;
  /** Beside what the kernels' needs say. */
  readonly fits?: (gpu: Gpu, dims: AttentionDims) => boolean;
  /** Tiles that a tuner may try, the default first. */
  readonly tiles: (gpu: Gpu, dims: AttentionDims) => Tiles;
  /** Constants that follow from the sizes and the tile. */
  readonly flags: (dims: AttentionDims, tile: Tile) => Tile;
}

const serves = (gpu: Gpu, { serves = inFloats, fits }: Choosing, dims: AttentionDims) =>
  serves(dims) && (fits?.(gpu, dims) ?? true);

/** What a rung's kernel is launched with beside its tensors. */
type Launch = Omit<KernelArgs<never, Param>, 'tensors'>;

function rungOf(
  kernels: readonly [Kernel, ...Kernel[]],
  o: Choosing,
  launch: (gpu: Gpu, args: AttentionArgs, common: Launch) => void,
): ForwardRung {
  const [made] = kernels;
  return {
    name: made.file.replace('.wgsl', ''),
    kernels,
    fits: (gpu, dims) => canRun(gpu, made) && serves(gpu, o, dims),
    tiles: o.tiles,
    run(gpu, args, tile = o.tiles(gpu, args)[0]) {
      launch(gpu, args, {
        dims: paramsOf(args),
        tile: { CHANNEL: channel(args), ...o.flags(args, tile), ...tile },
        stored: storedOf(args),
      });
    },
  };
}

function runPlain(gpu: Gpu, made: ForwardKernel, args: AttentionArgs, common: Launch): void {
  const { q, k, v, out, lse } = args;
  made.run(gpu, { tensors: { q, k, v, out, lse }, ...common });
}

function forwardRung(made: ForwardKernel, o: Choosing): ForwardRung {
  return rungOf([made], o, (gpu, args, common) => {
    runPlain(gpu, made, args, common);
  });
}

/** A rung that can join a residual as it stores out. */
function joiningRung(made: JoiningKernel, o: Choosing): ForwardRung {
  const rung = rungOf([made], o, (gpu, args, common) => {
    const { q, k, v, out, lse } = args;
    launchJoining(gpu, args, {
      tile: common.tile,
      launch: ({ bound, tile }) => {
        made.run(gpu, { ...common, tensors: { q, k, v, out, lse, ...bound }, tile });
      },
    });
  });
  return { ...rung, joins: () => true };
}

interface Gradients {
  readonly queries: QueriesKernel;
  readonly keys: KeysKernel;
}

/**
 * A rung of two kernels. Where a tile holds all dims, one launch gives dk and dv; where it does not, each has its own:
 * slices of dv would make dP for nothing.
 */
function backwardRung({ queries, keys }: Gradients, o: Choosing): BackwardRung {
  return {
    name: queries.file.replace('.wgsl', ''),
    kernels: [queries, keys, delta],
    fits: (gpu, dims) => canRun(gpu, queries) && canRun(gpu, keys) && serves(gpu, o, dims),
    tiles: o.tiles,
    run(gpu, args, tile = o.tiles(gpu, args)[0]) {
      const { q, k, v, dOut, lse, dq, dk, dv } = args;
      if (!dq && !dk && !dv) return;
      const launch = {
        dims: paramsOf(args),
        tile: { CHANNEL: channel(args), ...o.flags(args, tile), ...tile },
        stored: storedOf(args),
      };
      gpu.scope(() => {
        const shared = { q, k, v, dOut, lse, delta: makeDelta(gpu, args) };
        const unused = () => gpu.alloc(16, 'attention gradient nobody needs');
        const runKeys = (wanted: { dk?: Storage | undefined; dv?: Storage | undefined }) => {
          const writes = { WRITE_DK: wanted.dk ? 1 : 0, WRITE_DV: wanted.dv ? 1 : 0 };
          keys.run(gpu, {
            ...launch,
            tensors: { ...shared, dk: wanted.dk ?? unused(), dv: wanted.dv ?? unused() },
            tile: { ...launch.tile, ...writes },
          });
        };
        if (dq) queries.run(gpu, { tensors: { ...shared, dq }, ...launch });
        const whole = slicesOf(args, launch.tile);
        if (dk && dv && whole > 1) {
          runKeys({ dk });
          runKeys({ dv });
        } else if (dk || dv) runKeys({ dk, dv });
      });
    },
  };
}

/** Slices that a tile cuts the dims of dk and dv into. */
function slicesOf({ DK, DV }: AttentionDims, tile: Tile): number {
  const TV = Number(tile['TV']);
  return Math.max(ceilDiv(DK, Number(tile['TD'] ?? TV)), ceilDiv(DV, TV));
}

const plain = { tensors: forwardTensors, ...forwardCost };
/** Can join a residual. */
const joining = { tensors: joiningTensors, ...joiningCost };

/** Forward as `made`, queries and keys of a rung whose workgroups own `rows` positions and slices of `narrow` and TV dims. */
function kernelsOf<const T extends string>(
  file: string,
  made: { readonly tensors: readonly T[] } & Pick<KernelSpec<T, Param>, 'flops' | 'bytes'>,
  o: { rows: (tile: TileOf) => number; narrow: 'TD' | 'TV'; needs?: Needs },
) {
  const { rows, narrow, needs = {} } = o;
  const grid = (N: number, B: number, slices: number, tile: TileOf): Grid => [
    ...([ceilDiv(N, rows(tile)), B, slices] as const),
  ];
  const shared = { dims: params, needs };
  return {
    forward: kernel({
      ...shared,
      file: `${file}.wgsl`,
      entry: 'forward',
      grid: ({ B, Nq, DV }: Dims<Param>, tile) => grid(Nq, B, ceilDiv(DV, tile('TV')), tile),
      ...made,
    }),
    queries: kernel({
      ...shared,
      file: `${file}_backward.wgsl`,
      entry: 'queries',
      tensors: queriesTensors,
      grid: ({ B, Nq, DK }, tile) => grid(Nq, B, ceilDiv(DK, tile(narrow)), tile),
      ...queriesCost,
    }),
    keys: kernel({
      ...shared,
      file: `${file}_backward.wgsl`,
      entry: 'keys',
      tensors: keysTensors,
      grid: ({ B, Nk, DK, DV }: Dims<Param>, tile) => {
        const narrowSlices = tile('WRITE_DK') * ceilDiv(DK, tile(narrow));
        const wideSlices = tile('WRITE_DV') * ceilDiv(DV, tile('TV'));
        return grid(Nk, B, Math.max(narrowSlices, wideSlices), tile);
      },
      ...keysCost,
    }),
  };
}

const noFlags = () => ({});
const only = (tile: Tile) => () => [tile] as const;

// ---- 2 to 5: workgroups of a GPU ------------------------------------------------------------------------------------

const rows = kernelsOf('attention/2_rows', plain, {
  rows: () => 1,
  narrow: 'TV',
  needs: { invocations: 256, workgroupBytes: 2048 },
});
const rowTile = (WG: number) => ({ WG, TV: WG });
const rowsChoosing = {
  tiles: (): Tiles => [rowTile(64), rowTile(128), rowTile(256)],
  flags: noFlags,
};
export const rowsForward = forwardRung(rows.forward, rowsChoosing);
export const rowsBackward = backwardRung(rows, rowsChoosing);

const tiled = (file: string) =>
  kernelsOf(file, plain, {
    rows: (tile) => tile('ROWS'),
    narrow: 'TV',
    needs: { invocations: 256, workgroupBytes: 16384 },
  });
const tiledChoosing = { tiles: only({ TV: 64 }), flags: noFlags };

const tiles = tiled('attention/3_tiles');
export const tilesForward = forwardRung(tiles.forward, tiledChoosing);
export const tilesBackward = backwardRung(tiles, tiledChoosing);

const registers = tiled('attention/4_registers');
export const registersForward = forwardRung(registers.forward, tiledChoosing);
export const registersBackward = backwardRung(registers, tiledChoosing);

const subgroups = kernelsOf('attention/5_subgroups', joining, {
  rows: (tile) => tile('ROWS'),
  narrow: 'TV',
  needs: { features: ['subgroups'], invocations: 256, workgroupBytes: 16384 },
});
const shuffling = {
  fits: (gpu: Gpu) => gpu.adapter.subgroupSizes[0] >= 4,
  // Threads of a row, at most what the smallest subgroup holds.
  tiles: (gpu: Gpu): Tiles => {
    const [first, ...others] = [16, 8, 4].filter((X) => X <= gpu.adapter.subgroupSizes[0]);
    const tile = (X: number) => ({ X, TV: 64 });
    return [tile(first ?? 4), ...others.map(tile)];
  },
};
const subgroupsChoosing = { ...shuffling, flags: noFlags };
export const subgroupsForward = joiningRung(subgroups.forward, subgroupsChoosing);
export const subgroupsBackward = backwardRung(subgroups, subgroupsChoosing);

// ---- 6: operands of two bytes ---------------------------------------------------------------------------------------

/** True if the contiguous axis of every tensor is a whole number of vec4s. */
export function readsVec4({ layout, Nq, Nk, DK, DV }: AttentionDims): boolean {
  const contiguous = layout === 'channel' ? [Nq, Nk] : [DK, DV];
  return contiguous.every((n) => n % 4 === 0);
}

const halves = kernelsOf('attention/6_f16', joining, {
  rows: (tile) => tile('ROWS'),
  narrow: 'TV',
  needs: { features: ['subgroups', 'shader-f16'], invocations: 256, workgroupBytes: 16384 },
});
const halvesChoosing = {
  ...shuffling,
  serves: mayRound,
  flags: (dims: AttentionDims) => ({ ALIGNED: flag(readsVec4(dims)) }),
};
export const halvesForward = joiningRung(halves.forward, halvesChoosing);
export const halvesBackward = backwardRung(halves, halvesChoosing);

// ---- 8: a CPU driver's threads, each for itself ---------------------------------------------------------------------

const ownPositions = 4;

const threads = kernelsOf('attention/8_threads', plain, {
  rows: (tile) => ownPositions * tile('WG'),
  narrow: 'TD',
});

/** Unaligned blocks are read an element at a time: little of that in a kernel's body keeps its compile time down. */
function threadTiles(gpu: Gpu, dims: AttentionDims): Tiles {
  const { DK, DV } = dims;
  const WG = Math.min(8, Math.max(4, gpu.adapter.subgroupSizes[1]));
  const tile = (TD: number, TV: number) => ({
    WG,
    TD: Math.min(TD, roundUp(DK, 4)),
    TV: Math.min(TV, roundUp(DV, 4)),
  });
  if (!readsVec4(dims)) return [tile(4, 8)];
  return DV > 32 ? [tile(32, 64), tile(32, 32)] : [tile(32, 64)];
}

const isDeep = ({ DK }: AttentionDims, { TD }: Tile) => flag(DK > Number(TD));
const isWide = ({ DV }: AttentionDims, { TV }: Tile) => flag(DV > Number(TV));
const keysAtOnce = 8;
export const threadsForward = forwardRung(threads.forward, {
  tiles: threadTiles,
  flags: (dims, tile) => ({
    ALIGNED: flag(readsVec4(dims)),
    DEEP: isDeep(dims, tile),
    PB: keysAtOnce,
    MASKED: flag(dims.Nk % keysAtOnce !== 0),
  }),
});
export const threadsBackward = backwardRung(threads, {
  tiles: threadTiles,
  flags: (dims, tile) => ({
    ALIGNED: flag(readsVec4(dims)),
    DEEP: isDeep(dims, tile),
    WIDE: isWide(dims, tile),
  }),
});

// ---- 9: a CPU driver's lanes, for each other ------------------------------------------------------------------------

const lanes = kernelsOf('attention/9_lanes', plain, {
  rows: (tile) => ownPositions * tile('LANES'),
  narrow: 'TD',
  needs: { features: ['subgroups'] },
});
/** Stores four elements at a time, where `readsVec4`; it can join a residual. */
const lanesVec4 = kernel({
  ...lanes.forward,
  entry: 'vec4',
  tensors: ['q', 'k', 'v', 'out4', 'lse', 'gamma', 'shortcut', 'joined'],
  ...joiningCost,
});

const fitsLanes = (gpu: Gpu) => broadcastLanes(gpu) !== undefined;

const mostRounds = 8;

/** TD and TV are whole rounds of LANES dims, eight at most; fewer where unaligned loads would be long to compile. */
function laneTiles(gpu: Gpu, dims: AttentionDims): Tiles {
  const { DK, DV } = dims;
  const LANES = broadcastLanes(gpu) ?? 8;
  const most = Math.min(readsVec4(dims) ? 64 : 32, mostRounds * LANES);
  const TD = Math.min(most, roundUp(DK, LANES));
  const tile = (TV: number) => ({ LANES, TD, TV });
  const widest = Math.min(most, roundUp(DV, LANES));
  const narrower = [32, 16].filter((TV) => TV < widest && TV % LANES === 0);
  return [tile(widest), ...narrower.map(tile)];
}

const lanesChoosing: Choosing = {
  fits: fitsLanes,
  tiles: laneTiles,
  flags: (dims, tile) => ({
    ALIGNED: flag(readsVec4(dims)),
    MASKED: flag(dims.Nk % 8 !== 0),
    DEEP: isDeep(dims, tile),
  }),
};
export const lanesForward: ForwardRung = {
  ...rungOf([lanes.forward, lanesVec4], lanesChoosing, (gpu, args, common) => {
    if (!readsVec4(args)) {
      runPlain(gpu, lanes.forward, args, common);
      return;
    }
    const { q, k, v, out: out4, lse } = args;
    launchJoining(gpu, args, {
      tile: common.tile,
      launch: ({ bound, tile }) => {
        lanesVec4.run(gpu, { ...common, tensors: { q, k, v, out4, lse, ...bound }, tile });
      },
    });
  }),
  joins: readsVec4,
};
export const lanesBackward = backwardRung(lanes, {
  fits: fitsLanes,
  tiles: laneTiles,
  flags: (dims, tile) => ({
    ALIGNED: flag(readsVec4(dims)),
    DEEP: isDeep(dims, tile),
    WIDE: isWide(dims, tile),
  }),
});
