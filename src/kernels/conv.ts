import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import {
  dataGradDirect,
  dataGradTiled,
  forwardDirect,
  forwardTiled,
  gather,
  pointwiseTiled,
  pointwiseWeightGradTiled,
  weightGradDirect,
  weightGradTiled,
  window,
} from './conv-kernels.ts';
import type { ConvDims } from './conv-kernels.ts';
import {
  biased,
  runGather,
  runPointwiseTiled,
  runWindow,
  splitPositions,
  sumInParts,
  windowTiles,
} from './conv-launch.ts';
import { phaseStrides } from './conv-plan.ts';
import type { ConvKind } from './conv-plan.ts';
import {
  dataGradProduct,
  forwardProduct,
  isFlat,
  isPointwise,
  runProduct,
  weightGradProduct,
} from './conv-product.ts';
import type { Product } from './conv-product.ts';
import { windowServes } from './conv-window.ts';
import { broadcastLanes, canRun } from './kernel.ts';
import type { Kernel } from './kernel.ts';
import { lanesRung } from './matmul.ts';
import { climb } from './rung.ts';
import type { Ladder, Rung } from './rung.ts';

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

export type ConvRung<Args> = Rung<ConvDims, Args>;

/** A rung of one tile: its kernel, the sizes that it serves, its launch. */
function plain<Args>(
  made: Kernel,
  run: (gpu: Gpu, args: Args) => void,
  serves: (dims: ConvDims) => boolean = () => true,
): ConvRung<Args> {
  return {
    name: made.name,
    kernels: [made],
    fits: (gpu, dims) => canRun(gpu, made) && serves(dims),
    tiles: () => [{}],
    run,
  };
}

/**
 * A convolution that is a matrix product as its operands lie: `product` tells its sizes, and nothing where it is none.
 * A sum over images is one product for each and `sum_parts`.
 */
function productRung<Args extends { readonly dims: ConvDims; readonly out: Storage }>(
  product: (dims: ConvDims) => Product | undefined,
  operands: (args: Args) => { a: Storage; b: Storage; bias?: Storage | undefined },
): ConvRung<Args> {
  return {
    name: lanesRung.name,
    kernels: lanesRung.kernels,
    fits: (gpu, dims) => {
      const made = product(dims);
      return made !== undefined && lanesRung.fits(gpu, made.sizes);
    },
    tiles: (gpu, dims) => {
      const made = product(dims);
      return made === undefined ? [] : lanesRung.tiles(gpu, made.sizes);
    },
    run: (gpu, args, tile) => {
      const made = product(args.dims);
      if (made === undefined) throw new Error(`${lanesRung.name}: not a product`);
      runProduct(gpu, { ...made, ...operands(args), out: args.out }, tile);
    },
  };
}

function windowRung<Args extends { readonly dims: ConvDims; readonly out: Storage }>(
  kind: ConvKind,
  operands: (args: Args) => { u: Storage; x: Storage; bias?: Storage | undefined },
): ConvRung<Args> {
  return {
    name: window.name,
    kernels: [window],
    fits: (gpu, dims) =>
      canRun(gpu, window) && broadcastLanes(gpu) !== undefined && windowServes(dims),
    tiles: (gpu, dims) => windowTiles(gpu, kind, dims),
    run: (gpu, args, tile = windowTiles(gpu, kind, args.dims)[0] ?? {}) => {
      const { dims, out } = args;
      runWindow(gpu, { kind, ...operands(args), out, dims }, tile);
    },
  };
}

const forwardRungs: readonly ConvRung<ConvForwardArgs>[] = [
  plain(forwardDirect, (gpu, { x, w, out, bias, dims }) => {
    const tensors = { x, w, bias: bias ?? w, y: out };
    forwardDirect.run(gpu, { tensors, dims, tile: biased(bias) });
  }),
  plain(gather, (gpu, { x, w, out, bias, dims }) => {
    runGather(gpu, { kind: 'forward', u: w, x, out, bias, dims });
  }),
  plain(forwardTiled, (gpu, { x, w, out, bias, dims }) => {
    const tensors = { x, w, bias: bias ?? w, y: out };
    forwardTiled.run(gpu, { tensors, dims, tile: biased(bias) });
  }),
  windowRung('forward', ({ x, w, bias }) => ({ u: w, x, bias })),
  productRung(forwardProduct, (args) =>
    isFlat(args.dims) ? { ...args, a: args.x, b: args.w } : { ...args, a: args.w, b: args.x },
  ),
  plain(
    pointwiseTiled,
    (gpu, { x, w, out, bias, dims }) => {
      runPointwiseTiled(gpu, { x, w, out, bias, dims, transposed: false });
    },
    isPointwise,
  ),
];

const dataGradRungs: readonly ConvRung<ConvDataGradArgs>[] = [
  plain(dataGradDirect, (gpu, { dy, w, out, bias, dims }) => {
    const tensors = { dy, w, bias: bias ?? w, dx: out };
    dataGradDirect.run(gpu, { tensors, dims, tile: biased(bias) });
  }),
  plain(gather, (gpu, { dy, w, out, bias, dims }) => {
    runGather(gpu, { kind: 'dataGrad', u: w, x: dy, out, bias, dims });
  }),
  plain(dataGradTiled, (gpu, { dy, w, out, bias, dims }) => {
    const [strideH, strideW] = phaseStrides(dims);
    dataGradTiled.run(gpu, {
      tensors: { dy, w, bias: bias ?? w, dx: out },
      dims: { ...dims, strideH, strideW },
      tile: biased(bias),
    });
  }),
  windowRung('dataGrad', ({ dy, w, bias }) => ({ u: w, x: dy, bias })),
  productRung(dataGradProduct, (args) =>
    isPointwise(args.dims)
      ? { ...args, a: args.w, b: args.dy }
      : { ...args, a: args.dy, b: args.w },
  ),
  plain(
    pointwiseTiled,
    (gpu, { dy, w, out, bias, dims }) => {
      runPointwiseTiled(gpu, { x: dy, w, out, bias, dims, transposed: true });
    },
    isPointwise,
  ),
];

const weightGradRungs: readonly ConvRung<ConvWeightGradArgs>[] = [
  plain(weightGradDirect, (gpu, { x, dy, out, dims }) => {
    weightGradDirect.run(gpu, { tensors: { x, dy, dw: out }, dims });
  }),
  plain(gather, (gpu, { x, dy, out, dims }) => {
    runGather(gpu, { kind: 'weightGrad', u: dy, x, out, dims });
  }),
  plain(weightGradTiled, (gpu, { x, dy, out, dims }) => {
    const { N, OH, OW } = dims;
    const { parts, chunk, outputs } = splitPositions(dims, N * OH * OW);
    sumInParts(gpu, { parts, outputs, out }, (target, stride) => {
      weightGradTiled.run(gpu, {
        tensors: { x, dy, parts: target },
        dims: { ...dims, chunk, stride },
      });
    });
  }),
  windowRung('weightGrad', ({ x, dy }) => ({ u: dy, x })),
  productRung(weightGradProduct, ({ x, dy }) => ({ a: dy, b: x })),
  plain(
    pointwiseWeightGradTiled,
    (gpu, { x, dy, out, dims }) => {
      const { N, C, K, H, W } = dims;
      const { parts, chunk, outputs } = splitPositions(dims, N * H * W);
      sumInParts(gpu, { parts, outputs, out }, (target, stride) => {
        pointwiseWeightGradTiled.run(gpu, {
          tensors: { x, dy, parts: target },
          dims: { N, C, K, HW: H * W, chunk, stride },
        });
      });
    },
    isPointwise,
  ),
];

/** Lanes that share their loads for a CPU driver, workgroup tiles for a GPU; a convolution that is a product runs as one. */
function preferred(gpu: Gpu, quads: number, pointwise: Kernel, tiled: Kernel) {
  if (gpu.adapter.kind !== 'software') return [pointwise.name, tiled.name];
  // Four columns a lane: maps narrower than three would leave most of them idle.
  const wide = quads >= 3 ? [window.name] : [];
  return [lanesRung.name, ...wide, gather.name];
}

const elements = ({ N, C, H, W, K, R, S, OH, OW }: ConvDims) => ({
  image: N * C * H * W,
  weights: K * C * R * S,
  result: N * K * OH * OW,
});
const dimsOf = ({ dims }: { readonly dims: ConvDims }) => dims;
const flops = (d: ConvDims) => forwardDirect.flops({ ...d });
const bytes = (d: ConvDims) => forwardDirect.bytes({ ...d });

/** out[N,K,OH,OW] = x * w, simplest rung first, those of matrix products last. */
export const convForwardLadder: Ladder<ConvDims, ConvForwardArgs, 'x' | 'w' | 'out'> = {
  name: 'conv-forward',
  rungs: forwardRungs,
  preferred: (gpu, { OW }) => preferred(gpu, OW, pointwiseTiled, forwardTiled),
  dimsOf,
  operands: (d) => ({ x: elements(d).image, w: elements(d).weights, out: elements(d).result }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...storages, dims }),
  flops,
  bytes,
};

/** out[N,C,H,W] = the gradient of a forward convolution by x; the transposed convolution. */
export const convDataGradLadder: Ladder<ConvDims, ConvDataGradArgs, 'dy' | 'w' | 'out'> = {
  name: 'conv-data-grad',
  rungs: dataGradRungs,
  preferred: (gpu, dims) =>
    preferred(gpu, dims.W / phaseStrides(dims)[1], pointwiseTiled, dataGradTiled),
  dimsOf,
  operands: (d) => ({ dy: elements(d).result, w: elements(d).weights, out: elements(d).image }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...storages, dims }),
  flops,
  bytes,
};

/** out[K,C,R,S] = the gradient of a forward convolution by w. */
export const convWeightGradLadder: Ladder<ConvDims, ConvWeightGradArgs, 'x' | 'dy' | 'out'> = {
  name: 'conv-weight-grad',
  rungs: weightGradRungs,
  preferred: (gpu, { OW }) => preferred(gpu, OW, pointwiseWeightGradTiled, weightGradTiled),
  dimsOf,
  operands: (d) => ({ x: elements(d).image, dy: elements(d).result, out: elements(d).weights }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...storages, dims }),
  flops,
  bytes,
};

/** out[N,K,OH,OW] = x[N,C,H,W] * w[K,C,R,S] (+ bias[K]): PyTorch's conv2d, zero padding. */
export function convForward(gpu: Gpu, args: ConvForwardArgs): void {
  climb(gpu, convForwardLadder, args);
}

/**
 * out[N,C,H,W] = the gradient of `convForward` by x, from dy[N,K,OH,OW] and w[K,C,R,S] (+ bias[C]). With its roles read as
 * K = inputs, C = outputs it is PyTorch's convTranspose2d, and H, W may exceed what OH, OW reach (output padding).
 */
export function convDataGrad(gpu: Gpu, args: ConvDataGradArgs): void {
  climb(gpu, convDataGradLadder, args);
}

/** out[K,C,R,S] = the gradient of `convForward` by w, from x[N,C,H,W] and dy[N,K,OH,OW]. Same input, same bits. */
export function convWeightGrad(gpu: Gpu, args: ConvWeightGradArgs): void {
  climb(gpu, convWeightGradLadder, args);
}
