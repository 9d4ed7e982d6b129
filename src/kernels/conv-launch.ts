/** What a rung of a convolution launches: operands framed or packed, partial sums, the kernel itself. */
import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import { activationOf } from './activation.ts';
import type { FusedActivation } from './activation.ts';
import {
  frame,
  frameRows,
  gather,
  pack,
  pointwiseTiled,
  sumParts,
  window,
} from './conv-kernels.ts';
import type { ConvDims } from './conv-kernels.ts';
import { gatherThreads, partsOf, partStride, planGather } from './conv-plan.ts';
import type { ConvKind, Frame } from './conv-plan.ts';
import { biased } from './conv-rung.ts';
import type { ConvSizes } from './conv-rung.ts';
import { devicePlan } from './conv-tables.ts';
import { planWindow } from './conv-window.ts';
import type { WindowPlan } from './conv-window.ts';
import { broadcastLanes } from './kernel.ts';
import type { Tile } from './kernel.ts';
import { storedOf } from './precision.ts';

// ---- 1×1 windows ----------------------------------------------------------------------------------------------------

interface PointwiseArgs {
  readonly x: Storage;
  readonly w: Storage;
  readonly out: Storage;
  readonly bias?: Storage | undefined;
  readonly activation?: FusedActivation | undefined;
  readonly dims: ConvSizes;
  /** Data gradient: channels K come in and C go out. */
  readonly transposed: boolean;
}

export function runPointwiseTiled(gpu: Gpu, args: PointwiseArgs): void {
  const { x, w, out, bias, transposed } = args;
  const { N, C, H, W, K } = args.dims;
  const { ACT, slope } = activationOf(args.activation);
  pointwiseTiled.run(gpu, {
    tensors: { x, w, bias: bias ?? w, y: out },
    dims: { N, M: transposed ? C : K, T: transposed ? K : C, HW: H * W, slope },
    tile: { ...biased(bias), ACT, TRANSPOSED: String(transposed) },
    stored: storedOf(args.dims),
  });
}

// ---- sums in parts --------------------------------------------------------------------------------------------------

/** How the tiled weight gradients share `positions` out, for a GPU of a hundred cores or so. */
export function splitPositions({ K, C, R, S }: ConvDims, positions: number) {
  const units = ceilDiv(K, 64) * ceilDiv(C * R * S, 64);
  const outputs = K * C * R * S;
  const most = partsOf({ units, terms: positions, wanted: 512, fewest: 256, outputs });
  return { ...cut(positions, most), outputs };
}

/** `terms` cut into at most `most` parts of `chunk`. An empty sum (no images) is one part, whose kernel writes zeros. */
export function cut(terms: number, most: number): { parts: number; chunk: number } {
  const chunk = Math.max(1, ceilDiv(terms, most));
  return { chunk, parts: Math.max(1, ceilDiv(terms, chunk)) };
}

/** Lets `launch` write `parts` partial sums of `outputs` elements and adds them up in fixed order. */
export function sumInParts(
  gpu: Gpu,
  { parts, outputs, out }: { parts: number; outputs: number; out: Storage },
  launch: (target: Storage, stride: number) => void,
): void {
  const stride = partStride(outputs);
  if (parts === 1) {
    launch(out, stride);
    return;
  }
  const scratch = gpu.alloc(4 * parts * stride, 'partial weight gradients');
  launch(scratch, stride);
  const dims = { n4: stride / 4, PARTS: parts };
  sumParts.run(gpu, { tensors: { parts: scratch, out }, dims });
  gpu.release(scratch);
}

// ---- gather and window ----------------------------------------------------------------------------------------------

export interface GatherArgs {
  readonly kind: ConvKind;
  readonly u: Storage;
  readonly x: Storage;
  readonly out: Storage;
  readonly bias?: Storage | undefined;
  /** Of a sum that is not made in parts: the forward convolution's. */
  readonly activation?: FusedActivation | undefined;
  readonly dims: ConvDims;
}

/** `x` in its frame, in scratch; `x` itself where it needs none. */
function framed(gpu: Gpu, x: Storage, border: Frame | undefined): Storage {
  if (border === undefined) return x;
  const out = gpu.alloc(4 * border.planes * border.FH * border.FW, 'framed operand');
  const dims = { ...border };
  if (border.W % 4 === 0 && border.FW % 4 === 0) {
    frameRows.run(gpu, { tensors: { x4: x, out }, dims, tile: { SHIFT: border.left % 4 } });
  } else frame.run(gpu, { tensors: { x, out }, dims });
  return out;
}

export function runGather(gpu: Gpu, args: GatherArgs): void {
  const { kind, u, x, out, bias, dims } = args;
  const { plan, tables } = devicePlan(gpu, `${kind} by gather`, dims, () => {
    const { taps, columns, spans, ...made } = planGather(kind, dims);
    return { plan: made, tables: { taps, columns, spans } };
  });
  const { M, uStride, outStride, blocks, P, T, TM, TP, parts } = plan;
  const { taps = u, columns = u, spans = u } = tables;
  const { ACT, slope } = activationOf(args.activation);
  const operand = framed(gpu, x, plan.frame);
  const reads = (u.bytes + operand.bytes) / 4;
  sumInParts(gpu, { parts, outputs: M * outStride, out }, (target) => {
    gather.run(gpu, {
      tensors: { u, x: operand, taps, columns, spans, bias: bias ?? u, out: target },
      dims: { M, uStride, outStride, blocks, P, T, reads, slope },
      tile: { ...biased(bias), ACT, TM, TP, WG: gatherThreads },
    });
  });
  if (operand !== x) gpu.release(operand);
}

/** Heights of the tile: rows past M are computed for nothing, more rows share a load of x. */
export function windowTiles(gpu: Gpu, kind: ConvKind, dims: ConvDims): readonly Tile[] {
  const M = kind === 'dataGrad' ? dims.C : dims.K;
  const heights = [16, 8, 4, 24].filter((TM) => TM < M + (TM <= 8 ? 4 : 8));
  if (M <= 4) heights.reverse();
  return heights.map((TM) => ({ LANES: broadcastLanes(gpu) ?? 8, TM }));
}

interface WindowTables {
  readonly plan: Omit<WindowPlan, 'pack'> & { pack: { T: number; rowStride: number } | undefined };
}

export function runWindow(gpu: Gpu, args: GatherArgs, tile: Tile): void {
  const { kind, x, out, bias, dims } = args;
  const { plan, tables } = devicePlan(gpu, `${kind} by window`, dims, () => {
    const made = planWindow(kind, dims);
    const phases = made.launches.map((launch, i) => [`phases ${i}`, launch.phases] as const);
    const source = made.pack === undefined ? {} : { source: made.pack.source };
    return {
      plan: made,
      tables: { ...Object.fromEntries(phases), ...source },
    };
  });
  const { M, parts, chunk, stride } = plan;
  const { ACT, slope } = activationOf(args.activation);
  const operand = framed(gpu, x, plan.frameX);
  const u = packed(gpu, args.u, plan, tables['source']) ?? framed(gpu, args.u, plan.frameU);
  const lanes = Number(tile['LANES']);
  const reads = (u.bytes + operand.bytes + out.bytes) / 4 / plan.launches.length;
  sumInParts(gpu, { parts, outputs: stride, out }, (target) => {
    plan.launches.forEach(({ shape, phaseCount, columns, work }, i) => {
      const phase = tables[`phases ${i}`] ?? u;
      const blocks = ceilDiv(columns, lanes);
      window.run(gpu, {
        tensors: { u, x: operand, phase, bias: bias ?? u, out: target },
        dims: { M, blocks, phases: phaseCount, parts, chunk, stride, work, reads, slope },
        tile: { ...biased(bias), ACT, ...shape, ...tile },
      });
    });
  });
  if (operand !== x) gpu.release(operand);
  if (u !== args.u) gpu.release(u);
}

function packed(gpu: Gpu, w: Storage, plan: WindowTables['plan'], source: Storage | undefined) {
  if (plan.pack === undefined || source === undefined) return undefined;
  const { M } = plan;
  const { T, rowStride } = plan.pack;
  const out = gpu.alloc(16 * M * T, 'packed weights');
  pack.run(gpu, { tensors: { w, source, out }, dims: { M, T, rowStride } });
  return out;
}
