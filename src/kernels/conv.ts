import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import {
  convCost,
  dataGradDirect,
  dataGradTiled,
  forwardDirect,
  forwardTiled,
  gather,
  pointwiseTiled,
  pointwiseWeightGradTiled,
  weightGradCost,
  weightGradDirect,
  weightGradTiled,
  window,
} from './conv-kernels.ts';
import {
  runGather,
  runPointwiseTiled,
  runWindow,
  splitPositions,
  sumInParts,
  windowTiles,
} from './conv-launch.ts';
import type { GatherArgs } from './conv-launch.ts';
import { convDataGradMatrix, convForwardMatrix, convWeightGradMatrix } from './conv-matrix.ts';
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
import { biased, forwardLaunchOf, geometryOf, launchOf, withPhases } from './conv-rung.ts';
import type {
  ConvDataGradArgs,
  ConvForwardArgs,
  ConvRung,
  ConvSizes,
  ConvWeightGradArgs,
} from './conv-rung.ts';
import { windowServes } from './conv-window.ts';
import { broadcastLanes, canRun } from './kernel.ts';
import type { Kernel } from './kernel.ts';
import { lanesRung } from './matmul.ts';
import type { ProductArgs } from './matmul.ts';
import { bytesOf, inFloats, mayRound, precisionOf, storedOf } from './precision.ts';
import { climb } from './rung.ts';
import type { Ladder } from './rung.ts';

export type { ConvDims } from './conv-kernels.ts';
export type { ConvDataGradArgs, ConvForwardArgs, ConvSizes, ConvWeightGradArgs };

/** A rung of one tile: its kernel, the sizes that it serves, its launch. */
function plain<Args>(
  made: Kernel,
  run: (gpu: Gpu, args: Args) => void,
  serves: (dims: ConvSizes) => boolean = () => true,
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
function productRung<Args extends { readonly dims: ConvSizes; readonly out: Storage }>(
  product: (dims: ConvSizes) => Product | undefined,
  operands: (args: Args) => Pick<ProductArgs, 'a' | 'b' | 'bias' | 'activation'>,
): ConvRung<Args> {
  return {
    name: lanesRung.name,
    kernels: lanesRung.kernels,
    fits: (gpu, dims) => {
      const made = product(dims);
      return made !== undefined && inFloats(dims) && lanesRung.fits(gpu, made.sizes);
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

type Operands<Args> = (args: Args) => Pick<GatherArgs, 'u' | 'x' | 'bias' | 'activation'>;

function gatherRung<Args extends { readonly dims: ConvSizes; readonly out: Storage }>(
  kind: ConvKind,
  operands: Operands<Args>,
): ConvRung<Args> {
  return plain(
    gather,
    (gpu, args) => {
      const { dims, out } = args;
      runGather(gpu, { kind, ...operands(args), out, dims: geometryOf(dims) });
    },
    inFloats,
  );
}

function windowRung<Args extends { readonly dims: ConvSizes; readonly out: Storage }>(
  kind: ConvKind,
  operands: Operands<Args>,
): ConvRung<Args> {
  return {
    name: window.name,
    kernels: [window],
    fits: (gpu, dims) =>
      canRun(gpu, window) &&
      broadcastLanes(gpu) !== undefined &&
      inFloats(dims) &&
      windowServes(dims),
    tiles: (gpu, dims) => windowTiles(gpu, kind, dims),
    run: (gpu, args, tile = windowTiles(gpu, kind, args.dims)[0] ?? {}) => {
      const { dims, out } = args;
      runWindow(gpu, { kind, ...operands(args), out, dims: geometryOf(dims) }, tile);
    },
  };
}

const forwardRungs: readonly ConvRung<ConvForwardArgs>[] = [
  plain(forwardDirect, (gpu, args) => {
    forwardDirect.run(gpu, forwardLaunchOf(args));
  }),
  gatherRung('forward', ({ w, ...args }) => ({ ...args, u: w })),
  plain(forwardTiled, (gpu, args) => {
    forwardTiled.run(gpu, forwardLaunchOf(args));
  }),
  windowRung('forward', ({ w, ...args }) => ({ ...args, u: w })),
  productRung(forwardProduct, (args) =>
    isFlat(args.dims) ? { ...args, a: args.x, b: args.w } : { ...args, a: args.w, b: args.x },
  ),
  plain(
    pointwiseTiled,
    (gpu, args) => {
      runPointwiseTiled(gpu, { ...args, transposed: false });
    },
    isPointwise,
  ),
  convForwardMatrix,
];

const dataGradRungs: readonly ConvRung<ConvDataGradArgs>[] = [
  plain(dataGradDirect, (gpu, { dy, w, out, bias, dims }) => {
    const tensors = { dy, w, bias: bias ?? w, dx: out };
    dataGradDirect.run(gpu, { tensors, ...launchOf(dims), tile: biased(bias) });
  }),
  gatherRung('dataGrad', ({ dy, w, bias }) => ({ u: w, x: dy, bias })),
  plain(dataGradTiled, (gpu, { dy, w, out, bias, dims }) => {
    const tensors = { dy, w, bias: bias ?? w, dx: out };
    dataGradTiled.run(gpu, { tensors, ...launchOf(withPhases(dims)), tile: biased(bias) });
  }),
  windowRung('dataGrad', ({ dy, w, bias }) => ({ u: w, x: dy, bias })),
  productRung(dataGradProduct, (args) =>
    isFlat(args.dims) ? { ...args, a: args.dy, b: args.w } : { ...args, a: args.w, b: args.dy },
  ),
  plain(
    pointwiseTiled,
    (gpu, { dy, w, out, bias, dims }) => {
      runPointwiseTiled(gpu, { x: dy, w, out, bias, dims, transposed: true });
    },
    isPointwise,
  ),
  convDataGradMatrix,
];

const weightGradRungs: readonly ConvRung<ConvWeightGradArgs>[] = [
  plain(weightGradDirect, (gpu, { x, dy, out, dims }) => {
    weightGradDirect.run(gpu, { tensors: { x, dy, dw: out }, ...launchOf(dims) });
  }),
  gatherRung('weightGrad', ({ x, dy }) => ({ u: dy, x })),
  plain(weightGradTiled, (gpu, { x, dy, out, dims: sizes }) => {
    const { dims, stored } = launchOf(sizes);
    const { parts, chunk, outputs } = splitPositions(dims, dims.N * dims.OH * dims.OW);
    sumInParts(gpu, { parts, outputs, out }, (target, stride) => {
      const tensors = { x, dy, parts: target };
      weightGradTiled.run(gpu, { tensors, dims: { ...dims, chunk, stride }, stored });
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
          stored: storedOf(dims),
        });
      });
    },
    isPointwise,
  ),
  convWeightGradMatrix,
];

/**
 * Lanes that share their loads for a CPU driver, workgroup tiles for a GPU, tensor cores once operands may be rounded; a
 * convolution that is a product runs as one. `tiles` are the names of a GPU's rungs, `quads` the columns of a map, or of a
 * phase of it.
 */
function preferred(
  { gpu, dims, quads }: { gpu: Gpu; dims: ConvSizes; quads: number },
  tiles: { readonly cores: string; readonly pointwise: string; readonly tiled: string },
) {
  if (gpu.adapter.kind !== 'software') {
    return [...(mayRound(dims) ? [tiles.cores] : []), tiles.pointwise, tiles.tiled];
  }
  // Four columns a lane: maps narrower than three would leave most of them idle.
  const wide = quads >= 3 ? [window.name] : [];
  return [lanesRung.name, ...wide, gather.name];
}

const elements = ({ N, C, H, W, K, R, S, OH, OW }: ConvSizes) => ({
  image: N * C * H * W,
  weights: K * C * R * S,
  result: N * K * OH * OW,
});
const dimsOf = ({ dims }: { readonly dims: ConvSizes }) => ({
  ...geometryOf(dims),
  ...precisionOf(dims),
});
const flops = (d: ConvSizes) => convCost.flops(geometryOf(d));
const bytes = (d: ConvSizes) => convCost.bytes(geometryOf(d), bytesOf(d));

/** out[N,K,OH,OW] = x * w, simplest rung first, those of matrix products and of tensor cores last. */
export const convForwardLadder: Ladder<ConvSizes, ConvForwardArgs, 'x' | 'w' | 'out'> = {
  name: 'conv-forward',
  rungs: forwardRungs,
  preferred: (gpu, dims) =>
    preferred(
      { gpu, dims, quads: dims.OW },
      {
        cores: convForwardMatrix.name,
        pointwise: pointwiseTiled.name,
        tiled: forwardTiled.name,
      },
    ),
  dimsOf,
  operands: (d) => ({ x: elements(d).image, w: elements(d).weights, out: elements(d).result }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...storages, dims }),
  flops,
  bytes,
  halves: ['x', 'w', 'out'],
  inFloats: ({ x, w, out, dims, ...rest }, swap) => ({
    ...{ x: swap('x', x), w: swap('w', w), out: swap('out', out), ...rest },
    dims: geometryOf(dims),
  }),
};

/** out[N,C,H,W] = the gradient of a forward convolution by x; the transposed convolution. */
export const convDataGradLadder: Ladder<ConvSizes, ConvDataGradArgs, 'dy' | 'w' | 'out'> = {
  name: 'conv-data-grad',
  rungs: dataGradRungs,
  preferred: (gpu, dims) =>
    preferred(
      { gpu, dims, quads: dims.W / phaseStrides(dims)[1] },
      {
        cores: convDataGradMatrix.name,
        pointwise: pointwiseTiled.name,
        tiled: dataGradTiled.name,
      },
    ),
  dimsOf,
  operands: (d) => ({ dy: elements(d).result, w: elements(d).weights, out: elements(d).image }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...storages, dims }),
  flops,
  bytes,
  halves: ['dy', 'w', 'out'],
  inFloats: ({ dy, w, out, bias, dims }, swap) => ({
    ...{ dy: swap('dy', dy), w: swap('w', w), out: swap('out', out), bias },
    dims: geometryOf(dims),
  }),
};

/** out[K,C,R,S] = the gradient of a forward convolution by w, in f32 always. */
export const convWeightGradLadder: Ladder<ConvSizes, ConvWeightGradArgs, 'x' | 'dy' | 'out'> = {
  name: 'conv-weight-grad',
  rungs: weightGradRungs,
  preferred: (gpu, dims) =>
    preferred(
      { gpu, dims, quads: dims.OW },
      {
        cores: convWeightGradMatrix.name,
        pointwise: pointwiseWeightGradTiled.name,
        tiled: weightGradTiled.name,
      },
    ),
  dimsOf,
  operands: (d) => ({ x: elements(d).image, dy: elements(d).result, out: elements(d).weights }),
  outputs: ['out'],
  argsOf: (dims, storages) => ({ ...storages, dims }),
  flops,
  bytes: (d) => weightGradCost.bytes(geometryOf(d), bytesOf(d)),
  halves: ['x', 'dy'],
  inFloats: ({ x, dy, out, dims }, swap) => ({
    ...{ x: swap('x', x), dy: swap('dy', dy), out },
    dims: geometryOf(dims),
  }),
};

/** out[N,K,OH,OW] = act(x[N,C,H,W] * w[K,C,R,S] (+ bias[K])): PyTorch's conv2d, zero padding, and an activation. */
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
