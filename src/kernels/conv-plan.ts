/**
 * The tables of kernels/conv/2_gather.wgsl: for each of the three convolutions, where a column begins in the gathered
 * operand, where a tap lies from there, and which taps a block of columns adds up. Plain numbers; no GPU.
 */
import { ceilDiv, roundUp } from '../util/shape.ts';
import type { ConvDims } from './conv-kernels.ts';

export type ConvKind = 'forward' | 'dataGrad' | 'weightGrad';

/** Zeros round the gathered operand, or a crop of it: `top` and `left` zeros before, FH × FW in all. */
export interface Frame {
  readonly planes: number;
  readonly H: number;
  readonly W: number;
  readonly FH: number;
  readonly FW: number;
  readonly top: number;
  readonly left: number;
}

export interface GatherPlan {
  /** Absent where the operand can be read as it lies. */
  readonly frame: Frame | undefined;
  /** Rows: the index that the workgroups of one block share out. */
  readonly M: number;
  readonly uStride: number;
  readonly outStride: number;
  /** Rows and columns of one thread. */
  readonly TM: number;
  readonly TP: number;
  readonly blocks: number;
  /** Columns that are stored. */
  readonly P: number;
  /** Taps of a column, on average. */
  readonly T: number;
  /** Partial sums of each output; 1 for all but a split weight gradient. */
  readonly parts: number;
  /** (x offset, u offset) pairs. */
  readonly taps: Uint32Array;
  /** (x offset, out offset) pairs, each group's padded to whole blocks. */
  readonly columns: Uint32Array;
  /** (first tap, end) of each block. */
  readonly spans: Uint32Array;
}

/** Threads of a workgroup: the lanes of a 256-bit vector. */
export const gatherThreads = 8;
const unused = 0xffff_ffff;

/** Columns that add up the same taps. Both lists are flat pairs. */
interface Group {
  readonly columns: number[];
  readonly taps: number[];
}

export function planGather(kind: ConvKind, dims: ConvDims): GatherPlan {
  if (kind === 'forward') return planForward(dims);
  return kind === 'dataGrad' ? planDataGrad(dims) : planWeightGrad(dims);
}

/**
 * The stride by which an axis of a data gradient is cut into phases. With one output along the axis the stride has no
 * meaning, and a stride of the window's size leaves one tap a phase and no zeros to multiply.
 */
export function phaseStrides({ OH, OW, R, S, strideH, strideW }: ConvDims): [number, number] {
  return [OH === 1 ? R : strideH, OW === 1 ? S : strideW];
}

/**
 * Pixels times taps along one axis of a data gradient, summed over its stride phases: the pairs of pixel h and tap r with
 * r ≡ h + pad (mod stride), which are all that a convolution by phases multiplies.
 */
export function tapsByPhase(axis: Pick<Axis, 'size' | 'window' | 'stride' | 'pad'>): number {
  const { size, window, stride, pad } = axis;
  let sum = 0;
  for (let a = 0; a < Math.min(stride, window); a++) {
    sum += phasePixels(a, { size, stride, pad }).count * ceilDiv(window - a, stride);
  }
  return sum;
}

/** The pixels first, first + stride, … that the taps a, a + stride, … meet. */
export function phasePixels(
  a: number,
  { size, stride, pad }: Pick<Axis, 'size' | 'stride' | 'pad'>,
) {
  const first = (((a - pad) % stride) + stride) % stride;
  return { first, count: Math.max(0, ceilDiv(size - first, stride)) };
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

interface Axis {
  readonly size: number;
  readonly window: number;
  readonly out: number;
  readonly stride: number;
  readonly pad: number;
}

function eachAxis<T>(d: ConvDims, make: (axis: Axis) => T): [T, T] {
  return [
    make({ size: d.H, window: d.R, out: d.OH, stride: d.strideH, pad: d.padH }),
    make({ size: d.W, window: d.S, out: d.OW, stride: d.strideW, pad: d.padW }),
  ];
}

/** Frame of an axis whose positions `lowest … highest` are read. */
function frameAxis(lowest: number, highest: number, size: number) {
  const before = Math.max(0, -lowest);
  if (before === 0 && highest < size) return { before, length: size };
  return { before, length: before + highest + 1 };
}

type FramedAxis = ReturnType<typeof frameAxis>;

function frameOf(planes: number, size: [number, number], y: FramedAxis, x: FramedAxis) {
  const [H, W] = size;
  if (y.before === 0 && x.before === 0 && y.length === H && x.length === W) return undefined;
  return { planes, H, W, FH: y.length, FW: x.length, top: y.before, left: x.before };
}

/**
 * The operand inside a frame of at least FH × FW whose rows are whole vec4s, and the frame itself, or none where the
 * operand has that shape as it lies: no border, long enough, rows of whole vec4s.
 */
export function frameIfNeeded(
  { planes, H, W, top, left }: Pick<Frame, 'planes' | 'H' | 'W' | 'top' | 'left'>,
  least: { FH: number; FW: number },
): { FH: number; FW: number; frame: Frame | undefined } {
  const lies = top === 0 && left === 0 && W % 4 === 0 && W >= least.FW && H >= least.FH;
  if (lies) return { FH: H, FW: W, frame: undefined };
  const FW = roundUp(least.FW, 4);
  return { FH: least.FH, FW, frame: { planes, H, W, FH: least.FH, FW, top, left } };
}

/** Outputs and window positions of a forward axis of which at least one pair meets data; the rest are zeros. */
function usefulAxis({ size, window, out, stride, pad }: Axis) {
  const meets = (o: number, r: number) => {
    const at = o * stride - pad + r;
    return at >= 0 && at < size;
  };
  return {
    taps: range(window).filter((r) => range(out).some((o) => meets(o, r))),
    outs: range(out).filter((o) => range(window).some((r) => meets(o, r))),
  };
}

/** A forward axis: the taps in use and where output o begins to read in the frame. */
function forwardAxis(axis: Axis) {
  const { taps } = usefulAxis(axis);
  const first = taps[0];
  const last = taps.at(-1);
  if (first === undefined || last === undefined) {
    return { taps, first: 0, start: 0, step: 0, framed: frameAxis(0, 0, axis.size) };
  }
  const lowest = first - axis.pad;
  const highest = (axis.out - 1) * axis.stride - axis.pad + last;
  const framed = frameAxis(lowest, highest, axis.size);
  return { taps, first, start: lowest + framed.before, step: axis.stride, framed };
}

function planForward(d: ConvDims): GatherPlan {
  const [rows, cols] = eachAxis(d, forwardAxis);
  const FW = cols.framed.length;
  const plane = rows.framed.length * FW;
  const group: Group = { columns: [], taps: [] };
  for (let n = 0; n < d.N; n++) {
    for (let oh = 0; oh < d.OH; oh++) {
      for (let ow = 0; ow < d.OW; ow++) {
        group.columns.push(
          n * d.C * plane + (rows.start + oh * rows.step) * FW + (cols.start + ow * cols.step),
          (n * d.K * d.OH + oh) * d.OW + ow,
        );
      }
    }
  }
  for (let c = 0; c < d.C; c++) {
    for (const r of rows.taps) {
      for (const s of cols.taps) {
        group.taps.push(
          c * plane + (r - rows.first) * FW + s - cols.first,
          (c * d.R + r) * d.S + s,
        );
      }
    }
  }
  return assemble([group], {
    frame: frameOf(d.N * d.C, [d.H, d.W], rows.framed, cols.framed),
    M: d.K,
    uStride: d.C * d.R * d.S,
    outStride: d.OH * d.OW,
    parts: 1,
  });
}

/** One stride phase of a data gradient's axis: pixels first + stride·j meet outputs q0 + j - i through taps a + stride·i. */
interface Phase {
  readonly a: number;
  readonly first: number;
  readonly count: number;
  readonly q0: number;
  readonly taps: readonly number[];
  /** The largest i of `taps`. */
  readonly last: number;
}

function phasesOf({ size, window, out, pad }: Axis, stride: number) {
  const phases: Phase[] = [];
  for (let a = 0; a < stride; a++) {
    const { first, count } = phasePixels(a, { size, stride, pad });
    if (count === 0) continue;
    const q0 = (first + pad - a) / stride;
    const all = a < window ? range(ceilDiv(window - a, stride)) : [];
    const taps = all.filter((i) => q0 + count - 1 - i >= 0 && q0 - i < out);
    phases.push({ a, first, count, q0, taps, last: taps.at(-1) ?? 0 });
  }
  const busy = phases.filter((phase) => phase.taps.length > 0);
  const lowest = Math.min(...busy.map((phase) => phase.q0 - phase.last));
  const highest = Math.max(...busy.map((ph) => ph.q0 + ph.count - 1 - (ph.taps[0] ?? 0)));
  const framed = busy.length === 0 ? frameAxis(0, 0, out) : frameAxis(lowest, highest, out);
  return { phases, framed };
}

function planDataGrad(d: ConvDims): GatherPlan {
  const [strideH, strideW] = phaseStrides(d);
  const [axisH, axisW] = eachAxis(d, (axis) => axis);
  const rows = phasesOf(axisH, strideH);
  const cols = phasesOf(axisW, strideW);
  const FW = cols.framed.length;
  const plane = rows.framed.length * FW;
  const groups: Group[] = [];
  for (const row of rows.phases) {
    for (const col of cols.phases) {
      const taps: number[] = [];
      for (let k = 0; k < d.K; k++) {
        for (const i of row.taps) {
          for (const j of col.taps) {
            taps.push(
              k * plane + (row.last - i) * FW + col.last - j,
              (k * d.C * d.R + row.a + i * strideH) * d.S + col.a + j * strideW,
            );
          }
        }
      }
      const idle = taps.length === 0;
      const top = row.q0 - row.last + rows.framed.before;
      const left = col.q0 - col.last + cols.framed.before;
      const columns: number[] = [];
      for (let n = 0; n < d.N; n++) {
        for (let i = 0; i < row.count; i++) {
          const h = row.first + i * strideH;
          for (let j = 0; j < col.count; j++) {
            columns.push(
              idle ? 0 : n * d.K * plane + (top + i) * FW + left + j,
              (n * d.C * d.H + h) * d.W + col.first + j * strideW,
            );
          }
        }
      }
      groups.push({ columns, taps });
    }
  }
  return assemble(groups, {
    frame: frameOf(d.N * d.K, [d.OH, d.OW], rows.framed, cols.framed),
    M: d.C,
    uStride: d.R * d.S,
    outStride: d.H * d.W,
    parts: 1,
  });
}

/** A weight gradient's axis: the outputs in use and where output 0 begins to read in the frame. */
function weightAxis(axis: Axis) {
  const { outs } = usefulAxis(axis);
  const lowest = (outs[0] ?? 0) * axis.stride - axis.pad;
  const highest = (outs.at(-1) ?? 0) * axis.stride - axis.pad + axis.window - 1;
  const framed = frameAxis(lowest, highest, axis.size);
  return { outs, framed, start: framed.before - axis.pad };
}

function planWeightGrad(d: ConvDims): GatherPlan {
  const [rows, cols] = eachAxis(d, weightAxis);
  const FW = cols.framed.length;
  const plane = rows.framed.length * FW;
  const taps: number[] = [];
  for (let n = 0; n < d.N; n++) {
    for (const oh of rows.outs) {
      for (const ow of cols.outs) {
        const at = (oh * d.strideH + rows.start) * FW + ow * d.strideW + cols.start;
        taps.push(n * d.C * plane + at, (n * d.K * d.OH + oh) * d.OW + ow);
      }
    }
  }
  const weights = d.C * d.R * d.S;
  const count = taps.length / 2;
  const parts = partsOf({
    units: ceilDiv(d.K, 8) * ceilDiv(weights, gatherThreads * 8),
    terms: count,
    wanted: 64,
    fewest: 64,
    outputs: d.K * weights,
  });
  const chunk = ceilDiv(count, parts);
  const groups = range(parts).map((part): Group => {
    const columns: number[] = [];
    for (let c = 0; c < d.C; c++) {
      for (let r = 0; r < d.R; r++) {
        for (let s = 0; s < d.S; s++) {
          columns.push(
            c * plane + r * FW + s,
            part * partStride(d.K * weights) + (c * d.R + r) * d.S + s,
          );
        }
      }
    }
    return { columns, taps: taps.slice(2 * part * chunk, 2 * (part + 1) * chunk) };
  });
  return assemble(groups, {
    frame: frameOf(d.N * d.C, [d.H, d.W], rows.framed, cols.framed),
    M: d.K,
    uStride: d.OH * d.OW,
    outStride: weights,
    parts,
  });
}

/** Elements from one partial sum of `n` outputs to the next: whole vec4s. */
export function partStride(n: number): number {
  return roundUp(n, 4);
}

export const mostPartialBytes = 2 ** 25;

/**
 * Into how many parts a sum over `terms` is cut: so many that `units` workgroups become `wanted`, but no part under
 * `fewest` terms, no more than 64 parts, and no more than 32 MiB of partial sums.
 */
export function partsOf(o: {
  units: number;
  terms: number;
  wanted: number;
  fewest: number;
  outputs: number;
}): number {
  const parts = Math.min(
    ceilDiv(o.wanted, o.units),
    Math.floor(o.terms / o.fewest),
    Math.floor(mostPartialBytes / (4 * partStride(o.outputs))),
    64,
  );
  return parts < 2 ? 1 : ceilDiv(o.terms, ceilDiv(o.terms, parts));
}

function assemble(
  groups: readonly Group[],
  rest: Pick<GatherPlan, 'frame' | 'M' | 'uStride' | 'outStride' | 'parts'>,
): GatherPlan {
  const counts = groups.map(({ columns }) => columns.length / 2);
  const padded = (TP: number) =>
    counts.reduce((sum, count) => sum + roundUp(count, gatherThreads * TP), 0);
  // 64 sums a thread run fastest; half as many columns at two thirds of the speed pay where the rest would be padding.
  const TM = Math.min(rest.M, 8);
  let TP = TM <= 4 ? 16 : 8;
  while (TP > 4 && padded(TP) > 1.4 * padded(TP / 2)) TP /= 2;
  const each = gatherThreads * TP;
  const blocks = padded(TP) / each;
  const taps = new Uint32Array(groups.reduce((n, g) => n + g.taps.length, 0));
  const columns = new Uint32Array(2 * padded(TP));
  const spans = new Uint32Array(2 * blocks);
  let tap = 0;
  let block = 0;
  let work = 0;
  for (const [g, group] of groups.entries()) {
    const count = counts[g] ?? 0;
    taps.set(group.taps, 2 * tap);
    columns.set(group.columns, 2 * block * each);
    const end = tap + group.taps.length / 2;
    const endBlock = block + ceilDiv(count, each);
    for (let i = block * each + count; i < endBlock * each; i++) columns[2 * i + 1] = unused;
    for (; block < endBlock; block++) spans.set([tap, end], 2 * block);
    work += count * (end - tap);
    tap = end;
  }
  const P = counts.reduce((a, b) => a + b, 0);
  return { ...rest, TM, TP, blocks, P, T: P === 0 ? 0 : work / P, taps, columns, spans };
}
