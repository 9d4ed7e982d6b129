import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import { ceilDiv } from '../util/shape.ts';
import {
  dataGradDirect,
  dataGradTiled,
  forwardDirect,
  forwardTiled,
  frame,
  gather,
  pointwiseRegisters,
  pointwiseTiled,
  pointwiseWeightGradRegisters,
  pointwiseWeightGradTiled,
  sumParts,
  weightGradDirect,
  weightGradTiled,
} from './conv-kernels.ts';
import type { ConvDims } from './conv-kernels.ts';
import { gatherThreads, partsOf, partStride, phaseStrides } from './conv-plan.ts';
import type { ConvKind } from './conv-plan.ts';
import { devicePlan } from './conv-tables.ts';
import type { Kernel } from './kernel.ts';

export type { ConvDims } from './conv-kernels.ts';

export interface ConvForwardArgs {
  /** [N, C, H, W] */
  readonly x: Storage;
  /** [K, C, R, S] */
  readonly w: Storage;
  /** [N, K, OH, OW] */
  readonly out: Storage;
  /** [K] */
  readonly bias?: Storage | undefined;
  readonly dims: ConvDims;
}

export interface ConvDataGradArgs {
  /** [N, K, OH, OW] */
  readonly dy: Storage;
  /** [K, C, R, S] */
  readonly w: Storage;
  /** [N, C, H, W] */
  readonly out: Storage;
  /** [C] */
  readonly bias?: Storage | undefined;
  readonly dims: ConvDims;
}

export interface ConvWeightGradArgs {
  /** [N, C, H, W] */
  readonly x: Storage;
  /** [N, K, OH, OW] */
  readonly dy: Storage;
  /** [K, C, R, S] */
  readonly out: Storage;
  readonly dims: ConvDims;
}

/** One step of a ladder: a kernel, the sizes that it serves, and its launch. */
export interface ConvRung<Args> {
  readonly kernel: Kernel;
  fits(dims: ConvDims): boolean;
  run(gpu: Gpu, args: Args): void;
}

const always = () => true;

/** A 1×1 window with stride 1 and no padding: a matrix product for each image. */
function isPointwise({ R, S, strideH, strideW, padH, padW }: ConvDims): boolean {
  return R === 1 && S === 1 && strideH === 1 && strideW === 1 && padH === 0 && padW === 0;
}

const isPointwiseQuads = (d: ConvDims) => isPointwise(d) && (d.H * d.W) % 4 === 0;

/** The rungs of the forward convolution, simplest first, those of 1×1 windows last. */
export const convForwardLadder: readonly ConvRung<ConvForwardArgs>[] = [
  {
    kernel: forwardDirect,
    fits: always,
    run: (gpu, { x, w, out, bias, dims }) => {
      const tensors = { x, w, bias: bias ?? w, y: out };
      forwardDirect.run(gpu, { tensors, dims, tile: biased(bias) });
    },
  },
  {
    kernel: gather,
    fits: always,
    run: (gpu, { x, w, out, bias, dims }) => {
      runGather(gpu, { kind: 'forward', u: w, x, out, bias, dims });
    },
  },
  {
    kernel: forwardTiled,
    fits: always,
    run: (gpu, { x, w, out, bias, dims }) => {
      const tensors = { x, w, bias: bias ?? w, y: out };
      forwardTiled.run(gpu, { tensors, dims, tile: biased(bias) });
    },
  },
  {
    kernel: pointwiseRegisters,
    fits: isPointwiseQuads,
    run: (gpu, { x, w, out, bias, dims }) => {
      runPointwiseRegisters(gpu, { x, w, out, bias, dims, transposed: false });
    },
  },
  {
    kernel: pointwiseTiled,
    fits: isPointwise,
    run: (gpu, { x, w, out, bias, dims }) => {
      runPointwiseTiled(gpu, { x, w, out, bias, dims, transposed: false });
    },
  },
];

/** The rungs of the data gradient, simplest first, those of 1×1 windows last. */
export const convDataGradLadder: readonly ConvRung<ConvDataGradArgs>[] = [
  {
    kernel: dataGradDirect,
    fits: always,
    run: (gpu, { dy, w, out, bias, dims }) => {
      const tensors = { dy, w, bias: bias ?? w, dx: out };
      dataGradDirect.run(gpu, { tensors, dims, tile: biased(bias) });
    },
  },
  {
    kernel: gather,
    fits: always,
    run: (gpu, { dy, w, out, bias, dims }) => {
      runGather(gpu, { kind: 'dataGrad', u: w, x: dy, out, bias, dims });
    },
  },
  {
    kernel: dataGradTiled,
    fits: always,
    run: (gpu, { dy, w, out, bias, dims }) => {
      const [strideH, strideW] = phaseStrides(dims);
      dataGradTiled.run(gpu, {
        tensors: { dy, w, bias: bias ?? w, dx: out },
        dims: { ...dims, strideH, strideW },
        tile: biased(bias),
      });
    },
  },
  {
    kernel: pointwiseRegisters,
    fits: isPointwiseQuads,
    run: (gpu, { dy, w, out, bias, dims }) => {
      runPointwiseRegisters(gpu, { x: dy, w, out, bias, dims, transposed: true });
    },
  },
  {
    kernel: pointwiseTiled,
    fits: isPointwise,
    run: (gpu, { dy, w, out, bias, dims }) => {
      runPointwiseTiled(gpu, { x: dy, w, out, bias, dims, transposed: true });
    },
  },
];

/** The rungs of the weight gradient, simplest first, those of 1×1 windows last. */
export const convWeightGradLadder: readonly ConvRung<ConvWeightGradArgs>[] = [
  {
    kernel: weightGradDirect,
    fits: always,
    run: (gpu, { x, dy, out, dims }) => {
      weightGradDirect.run(gpu, { tensors: { x, dy, dw: out }, dims });
    },
  },
  {
    kernel: gather,
    fits: always,
    run: (gpu, { x, dy, out, dims }) => {
      runGather(gpu, { kind: 'weightGrad', u: dy, x, out, bias: undefined, dims });
    },
  },
  {
    kernel: weightGradTiled,
    fits: always,
    run: (gpu, { x, dy, out, dims }) => {
      const { N, OH, OW } = dims;
      const { parts, chunk, outputs } = splitPositions(dims, N * OH * OW);
      sumInParts(gpu, { parts, outputs, out }, (target, stride) => {
        weightGradTiled.run(gpu, {
          tensors: { x, dy, parts: target },
          dims: { ...dims, chunk, stride },
        });
      });
    },
  },
  {
    kernel: pointwiseWeightGradRegisters,
    fits: isPointwiseQuads,
    run: (gpu, { x, dy, out, dims }) => {
      const { N, C, K, H, W } = dims;
      const units = ceilDiv(K, 8) * ceilDiv(C, 16);
      const outputs = K * C;
      const most = partsOf({ units, terms: N, wanted: 64, fewest: 1, outputs });
      const { parts, chunk } = cut(N, most);
      sumInParts(gpu, { parts, outputs, out }, (target, stride) => {
        pointwiseWeightGradRegisters.run(gpu, {
          tensors: { x, dy, parts: target },
          dims: { N, C, K, HW4: (H * W) / 4, chunk, stride },
        });
      });
    },
  },
  {
    kernel: pointwiseWeightGradTiled,
    fits: isPointwise,
    run: (gpu, { x, dy, out, dims }) => {
      const { N, C, K, H, W } = dims;
      const { parts, chunk, outputs } = splitPositions(dims, N * H * W);
      sumInParts(gpu, { parts, outputs, out }, (target, stride) => {
        pointwiseWeightGradTiled.run(gpu, {
          tensors: { x, dy, parts: target },
          dims: { N, C, K, HW: H * W, chunk, stride },
        });
      });
    },
  },
];

/** Registers alone for a CPU driver, workgroup tiles for a GPU; a 1×1 window has its own of each. */
function choose<Args>(gpu: Gpu, ladder: readonly ConvRung<Args>[], dims: ConvDims): ConvRung<Args> {
  const order = gpu.adapter.kind === 'software' ? [3, 1] : [4, 2];
  const rung = order.map((i) => ladder[i]).find((candidate) => candidate?.fits(dims));
  if (rung === undefined) throw new Error('no convolution kernel fits');
  return rung;
}

export function chooseConvForward(gpu: Gpu, dims: ConvDims): ConvRung<ConvForwardArgs> {
  return choose(gpu, convForwardLadder, dims);
}

export function chooseConvDataGrad(gpu: Gpu, dims: ConvDims): ConvRung<ConvDataGradArgs> {
  return choose(gpu, convDataGradLadder, dims);
}

export function chooseConvWeightGrad(gpu: Gpu, dims: ConvDims): ConvRung<ConvWeightGradArgs> {
  return choose(gpu, convWeightGradLadder, dims);
}

/** out[N,K,OH,OW] = x[N,C,H,W] * w[K,C,R,S] (+ bias[K]): PyTorch's conv2d, zero padding. */
export function convForward(gpu: Gpu, args: ConvForwardArgs): void {
  chooseConvForward(gpu, args.dims).run(gpu, args);
}

/**
 * out[N,C,H,W] = the gradient of `convForward` by x, from dy[N,K,OH,OW] and w[K,C,R,S] (+ bias[C]). With its roles read as
 * K = inputs, C = outputs it is PyTorch's convTranspose2d, and H, W may exceed what OH, OW reach (output padding).
 */
export function convDataGrad(gpu: Gpu, args: ConvDataGradArgs): void {
  chooseConvDataGrad(gpu, args.dims).run(gpu, args);
}

/** out[K,C,R,S] = the gradient of `convForward` by w, from x[N,C,H,W] and dy[N,K,OH,OW]. Same input, same bits. */
export function convWeightGrad(gpu: Gpu, args: ConvWeightGradArgs): void {
  chooseConvWeightGrad(gpu, args.dims).run(gpu, args);
}

// ---- launches -------------------------------------------------------------------------------------------------------

const biased = (bias: Storage | undefined) => ({ BIAS: String(bias !== undefined) });

interface PointwiseArgs {
  readonly x: Storage;
  readonly w: Storage;
  readonly out: Storage;
  readonly bias: Storage | undefined;
  readonly dims: ConvDims;
  /** Data gradient: channels K come in and C go out. */
  readonly transposed: boolean;
}

function pointwiseLaunch({ x, w, out, bias, dims, transposed }: PointwiseArgs) {
  const { N, C, K } = dims;
  return {
    tensors: { x, w, bias: bias ?? w, y: out },
    sizes: { N, M: transposed ? C : K, T: transposed ? K : C },
    flags: { ...biased(bias), TRANSPOSED: String(transposed) },
  };
}

function runPointwiseRegisters(gpu: Gpu, args: PointwiseArgs): void {
  const { tensors, sizes, flags } = pointwiseLaunch(args);
  const { H, W } = args.dims;
  pointwiseRegisters.run(gpu, {
    tensors,
    dims: { ...sizes, HW4: (H * W) / 4 },
    tile: { ...flags, TM: sizes.M <= 4 ? 4 : 8 },
  });
}

function runPointwiseTiled(gpu: Gpu, args: PointwiseArgs): void {
  const { tensors, sizes, flags } = pointwiseLaunch(args);
  const { H, W } = args.dims;
  pointwiseTiled.run(gpu, { tensors, dims: { ...sizes, HW: H * W }, tile: flags });
}

/** How the tiled weight gradients share `positions` out, for a GPU of a hundred cores or so. */
function splitPositions({ K, C, R, S }: ConvDims, positions: number) {
  const units = ceilDiv(K, 64) * ceilDiv(C * R * S, 64);
  const outputs = K * C * R * S;
  const most = partsOf({ units, terms: positions, wanted: 512, fewest: 256, outputs });
  return { ...cut(positions, most), outputs };
}

/** `terms` cut into at most `most` parts of `chunk`. An empty sum (no images) is one part, whose kernel writes zeros. */
function cut(terms: number, most: number): { parts: number; chunk: number } {
  const chunk = Math.max(1, ceilDiv(terms, most));
  return { chunk, parts: Math.max(1, ceilDiv(terms, chunk)) };
}

/** Lets `launch` write `parts` partial sums of `outputs` elements and adds them up in fixed order. */
function sumInParts(
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

interface GatherArgs {
  readonly kind: ConvKind;
  readonly u: Storage;
  readonly x: Storage;
  readonly out: Storage;
  readonly bias: Storage | undefined;
  readonly dims: ConvDims;
}

function runGather(gpu: Gpu, { kind, u, x, out, bias, dims }: GatherArgs): void {
  const plan = devicePlan(gpu, kind, dims);
  const { frame: border, M, uStride, outStride, blocks, P, T, TM, TP, parts } = plan;
  let framed = x;
  if (border !== undefined) {
    framed = gpu.alloc(4 * border.planes * border.FH * border.FW, 'framed operand');
    frame.run(gpu, { tensors: { x, out: framed }, dims: { ...border } });
  }
  sumInParts(gpu, { parts, outputs: M * outStride, out }, (target) => {
    gather.run(gpu, {
      tensors: { u, x: framed, ...plan.tables, bias: bias ?? u, out: target },
      dims: { M, uStride, outStride, blocks, P, T, reads: (u.bytes + framed.bytes) / 4 },
      tile: { ...biased(bias), TM, TP, WG: gatherThreads },
    });
  });
  if (framed !== x) gpu.release(framed);
}
