import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { ceilDiv } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims } from './kernel.ts';
import { bytesOf } from './precision.ts';
import { rowsForm, rowsGrid } from './rows.ts';

/** `blocks` and `tile` are transposes; `strided` does any move. */
export type CopyRung = 'strided' | 'blocks' | 'tile';

const stridedDims = [
  ...(['D0', 'D1', 'D2', 'D3', 'i0', 'i1', 'i2', 'i3', 'o0', 'o1', 'o2', 'o3'] as const),
  ...(['iOffset', 'oOffset'] as const),
] as const;
type StridedDims = Dims<(typeof stridedDims)[number]>;

const rowsOf = ({ D0, D1, D2 }: StridedDims) => D0 * D1 * D2;
const stridedRecord = {
  file: 'layout/strided.wgsl',
  dims: stridedDims,
  tile: { ROWS: 1, REPEAT: 'false', WG: 64 },
  flops: () => 0,
  bytes: (dims: StridedDims, each = 4) => 2 * each * rowsOf(dims) * dims.D3,
};

export const stridedScalar = kernel({
  ...stridedRecord,
  entry: 'scalar',
  tensors: ['x', 'out'],
  grid: (dims, tile) =>
    rowsGrid(rowsOf(dims), { units: dims.D3, each: tile('WG'), rows: tile('ROWS') }),
});

export const stridedQuads = kernel({
  ...stridedRecord,
  entry: 'quads',
  tensors: ['xQuads', 'outQuads'],
  grid: (dims, tile) =>
    rowsGrid(rowsOf(dims), { units: dims.D3 / 4, each: tile('WG'), rows: tile('ROWS') }),
});

const transposeDims = ['B', 'R', 'C', 'ib', 'ir', 'ob', 'oc', 'iOffset', 'oOffset'] as const;
type TransposeDims = Dims<(typeof transposeDims)[number]>;
const transposeRecord = {
  tensors: ['x', 'out'] as const,
  dims: transposeDims,
  flops: () => 0,
  bytes: ({ B, R, C }: TransposeDims, each = 4) => 2 * each * B * R * C,
};

export const transposeBlocks = kernel({
  ...transposeRecord,
  file: 'layout/transpose_blocks.wgsl',
  grid: ({ B, R, C }, tile) => linearGrid((B * R * C) / 16, tile('WG')),
});

export const transposeTile = kernel({
  ...transposeRecord,
  file: 'layout/transpose_tile.wgsl',
  grid: ({ B, R, C }, tile) => [ceilDiv(C, tile('BT')), ceilDiv(R, tile('BT')), B],
  needs: { workgroupBytes: 32 * 33 * 4 },
});

export interface StridedCopyArgs {
  readonly x: Storage;
  readonly out: Storage;
  /** Shape of what is moved. */
  readonly shape: Shape;
  /** Strides of both sides, in elements, one an axis of `shape`; of x also 0 (expand) and negative (flip). */
  readonly inStrides: readonly number[];
  readonly outStrides: readonly number[];
  /** Element where each side begins. Default 0. */
  readonly inOffset?: number;
  readonly outOffset?: number;
  /** f16: halves are moved, and not words. */
  readonly stored?: Stored;
  /** Default: chosen for the adapter. A transpose rung is taken only where the move is a transpose. */
  readonly rung?: CopyRung;
}

interface Axis {
  readonly size: number;
  readonly from: number;
  readonly to: number;
}

interface Move {
  readonly x: Storage;
  readonly out: Storage;
  readonly axes: readonly Axis[];
  readonly iOffset: number;
  readonly oOffset: number;
  readonly stored: Stored;
}

/**
 * out[outOffset + i·outStrides] = x[inOffset + i·inStrides] for every index i of `shape`; words of 4 bytes (or halves),
 * moved as they are. Axes are joined where both sides allow it; a move that still has more than four is launched once for every
 * index of its outer axes.
 */
export function stridedCopy(gpu: Gpu, args: StridedCopyArgs): void {
  const { x, out, shape, inStrides, outStrides, stored = 'f32', rung } = args;
  const { inOffset: iOffset = 0, outOffset: oOffset = 0 } = args;
  const axes = collapse(
    shape.map((size, i) => ({ size, from: inStrides[i] ?? 0, to: outStrides[i] ?? 0 })),
  );
  if (axes.some((a) => a.size === 0)) return;
  copy(gpu, { x, out, axes, iOffset, oOffset, stored }, rung);
}

function copy(gpu: Gpu, move: Move, rung: CopyRung | undefined): void {
  const [outer, ...rest] = move.axes;
  if (outer !== undefined && rest.length >= 4) {
    for (let i = 0; i < outer.size; i++) {
      const iOffset = move.iOffset + i * outer.from;
      const oOffset = move.oOffset + i * outer.to;
      copy(gpu, { ...move, axes: rest, iOffset, oOffset }, rung);
    }
    return;
  }
  const transpose = rung === 'strided' ? undefined : transposeOf(move);
  if (transpose !== undefined) {
    const { x, out, stored } = move;
    const chosen = rung ?? chooseTranspose(gpu, transpose);
    if (chosen === 'blocks' && fitsBlocks(transpose)) {
      transposeBlocks.run(gpu, { tensors: { x, out }, dims: transpose, stored });
      return;
    }
    if (chosen === 'tile' && transpose.B <= 65535) {
      transposeTile.run(gpu, { tensors: { x, out }, dims: transpose, stored });
      return;
    }
  }
  strided(gpu, move);
}

/** Outermost in `out` first, size-1 axes dropped, neighbours joined where both sides step through them as one. */
function collapse(axes: readonly Axis[]): Axis[] {
  const joined: Axis[] = [];
  const ordered = axes.filter((a) => a.size !== 1).sort((a, b) => Math.abs(b.to) - Math.abs(a.to));
  for (const axis of ordered) {
    const last = joined.at(-1);
    const one =
      last !== undefined && last.from === axis.from * axis.size && last.to === axis.to * axis.size;
    if (one) joined[joined.length - 1] = { ...axis, size: last.size * axis.size };
    else joined.push(axis);
  }
  return joined;
}

/** The move as [B, R, C] → [B, C, R], if it is one: x runs along C and out along R, each by steps of 1. */
function transposeOf({ axes, iOffset, oOffset }: Move): TransposeDims | undefined {
  const batch = axes.length === 3 ? axes[0] : { size: 1, from: 0, to: 0 };
  const [down, along] = [axes.at(-2), axes.at(-1)];
  if (axes.length < 2 || axes.length > 3) return undefined;
  if (batch === undefined || down === undefined || along === undefined) return undefined;
  if (down.from !== 1 || along.to !== 1 || along.from < 1 || down.to < 1) return undefined;
  if (batch.from < 0 || batch.to < 0) return undefined;
  return {
    ...{ B: batch.size, R: along.size, C: down.size },
    ...{ ib: batch.from, ir: along.from, ob: batch.to, oc: down.to, iOffset, oOffset },
  };
}

function fitsBlocks({ B: _B, ...rest }: TransposeDims): boolean {
  return Object.values(rest).every((v) => v % 4 === 0);
}

/** Register blocks on software adapters, tiles on GPUs; narrow matrices are not worth either. */
export function chooseTranspose(gpu: Gpu, dims: TransposeDims): CopyRung {
  if (dims.R < 4 || dims.C < 4) return 'strided';
  if (gpu.adapter.kind === 'software') return fitsBlocks(dims) ? 'blocks' : 'strided';
  return dims.R >= 16 && dims.C >= 16 ? 'tile' : 'strided';
}

function strided(gpu: Gpu, move: Move): void {
  const { x, out, iOffset, oOffset, stored } = move;
  const axes = padToQuads(move);
  const at = (i: number): Axis => axes[axes.length - 4 + i] ?? { size: 1, from: 0, to: 0 };
  const [a, b, c, d] = [at(0), at(1), at(2), at(3)];
  const dims = {
    ...{ D0: a.size, D1: b.size, D2: c.size, D3: d.size },
    ...{ i0: a.from, i1: b.from, i2: c.from, i3: d.from },
    ...{ o0: a.to, o1: b.to, o2: c.to, o3: d.to, iOffset, oOffset },
  };
  const repeat = d.from === 0;
  const outer = [a, b, c];
  const quads =
    d.size % 4 === 0 &&
    d.to === 1 &&
    oOffset % 4 === 0 &&
    outer.every((axis) => axis.to % 4 === 0) &&
    (repeat || (d.from === 1 && iOffset % 4 === 0 && outer.every((axis) => axis.from % 4 === 0)));
  if (quads) {
    const tile = { ROWS: rowsForm(d.size / 4, 64), REPEAT: String(repeat) };
    stridedQuads.run(gpu, { tensors: { xQuads: x, outQuads: out }, dims, tile, stored });
  } else {
    const tile = { ROWS: rowsForm(d.size, 64) };
    stridedScalar.run(gpu, { tensors: { x, out }, dims, tile, stored });
  }
}

/** A whole contiguous tensor may move its padding too: its last vec4 belongs to nobody else. */
function padToQuads({ x, out, axes, iOffset, oOffset, stored }: Move): readonly Axis[] {
  const [only] = axes;
  if (axes.length > 1 || only === undefined || iOffset !== 0 || oOffset !== 0) return axes;
  const whole = only.from === 1 && only.to === 1;
  const bytes = bytesOf({ stored }) * only.size;
  const last = x.bytes >= bytes && out.bytes === bytes;
  return whole && last ? [{ ...only, size: ceilDiv(only.size, 4) * 4 }] : axes;
}
