import { at, defineOp, only } from '../autograd/op.ts';
import type { Op } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import * as kernels from '../kernels/resample.ts';
import { dim, showShape } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import { requireWhole } from './check.ts';

interface Planes {
  readonly N: number;
  readonly H: number;
  readonly W: number;
}

function planesOf(op: string, x: Shape): Planes {
  if (x.length !== 4)
    throw new RangeError(`${op}: input is ${showShape(x)}; it must be [N, C, H, W]`);
  return { N: dim(x, 0) * dim(x, 1), H: dim(x, 2), W: dim(x, 3) };
}

function resized(x: Shape, OH: number, OW: number): Shape {
  return [dim(x, 0), dim(x, 1), OH, OW];
}

// ---- pooling --------------------------------------------------------------------------------------------------------

export interface PoolOptions {
  /** Defaults to the window's size, as in PyTorch. */
  readonly stride?: number;
  readonly padding?: number;
}

export interface AvgPoolOptions extends PoolOptions {
  /** Is padding counted in a mean, as zeros? Default true. */
  readonly countIncludePad?: boolean;
}

interface PoolAttrs {
  readonly shape: Shape;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly countIncludePad?: boolean | undefined;
}

function poolAttrs(op: string, x: Tensor, kernel: number, options: PoolOptions): PoolAttrs {
  const { stride = kernel, padding = 0 } = options;
  requireWhole(op, 'window', kernel, 1);
  requireWhole(op, 'stride', stride, 1);
  requireWhole(op, 'padding', padding, 0);
  const out = poolShape(op, { shape: x.shape, kernel, stride, padding });
  if (padding * 2 > kernel || dim(out, 2) < 1 || dim(out, 3) < 1) {
    throw new RangeError(
      `${op}: a window of ${kernel} with stride ${stride} and padding ${padding} does not fit ${showShape(x.shape)}`,
    );
  }
  return { shape: x.shape, kernel, stride, padding };
}

function poolShape(op: string, { shape, kernel, stride, padding }: PoolAttrs): Shape {
  const { H, W } = planesOf(op, shape);
  const size = (n: number) => Math.floor((n + 2 * padding - kernel) / stride) + 1;
  return resized(shape, size(H), size(W));
}

function poolSizes(op: string, attrs: PoolAttrs) {
  const out = poolShape(op, attrs);
  const { kernel, stride, padding, countIncludePad } = attrs;
  return {
    ...planesOf(op, attrs.shape),
    OH: dim(out, 2),
    OW: dim(out, 3),
    kernel,
    stride,
    padding,
    countIncludePad,
  };
}

/** Largest of each window, and where it was. */
const maxPoolOp: Op<PoolAttrs> = defineOp({
  name: 'maxPool2d',
  dtypes: 'float',
  infer: (_inputs, attrs) => {
    const shape = poolShape('maxPool2d', attrs);
    return [{ shape }, { shape, dtype: 'u32' }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.maxPool2d(gpu, {
      x: at(inputs, 0).storage,
      out: at(outputs, 0).storage,
      index: at(outputs, 1).storage,
      ...poolSizes('maxPool2d', attrs),
      stored: at(inputs, 0).stored,
    });
  },
  saves: (_inputs, outputs) => [at(outputs, 1)],
  backward: ({ grads, saved, attrs }) => [
    () => only(maxScatterOp([at(grads, 0) as Tensor, at(saved, 0)], attrs)),
  ],
});

/** Puts each window's value at its maximum's place; adjoint of the gather. */
const maxScatterOp: Op<PoolAttrs> = defineOp({
  name: 'maxPool2dBackward',
  dtypes: ['float', 'u32'],
  infer: (_inputs, { shape }) => [{ shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.maxPool2dBackward(gpu, {
      dOut: at(inputs, 0).storage,
      index: at(inputs, 1).storage,
      dx: only(outputs).storage,
      ...poolSizes('maxPool2d', attrs),
      stored: at(inputs, 0).stored,
    });
  },
  saves: (inputs) => [at(inputs, 1)],
  backward: ({ grads, saved, attrs }) => [
    () => only(maxGatherOp([at(grads, 0) as Tensor, at(saved, 0)], attrs)),
    undefined,
  ],
});

/** Takes each window's value from its maximum's place. */
const maxGatherOp: Op<PoolAttrs> = defineOp({
  name: 'maxPool2dGather',
  dtypes: ['float', 'u32'],
  infer: (_inputs, attrs) => [{ shape: poolShape('maxPool2d', attrs) }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.maxPool2dGather(gpu, {
      x: at(inputs, 0).storage,
      index: at(inputs, 1).storage,
      out: only(outputs).storage,
      ...poolSizes('maxPool2d', attrs),
      stored: at(inputs, 0).stored,
    });
  },
  saves: (inputs) => [at(inputs, 1)],
  backward: ({ grads, saved, attrs }) => [
    () => only(maxScatterOp([at(grads, 0) as Tensor, at(saved, 0)], attrs)),
    undefined,
  ],
});

const avgPoolOp: Op<PoolAttrs> = defineOp({
  name: 'avgPool2d',
  dtypes: 'float',
  infer: (_inputs, attrs) => [{ shape: poolShape('avgPool2d', attrs) }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.avgPool2d(gpu, {
      x: at(inputs, 0).storage,
      out: only(outputs).storage,
      ...poolSizes('avgPool2d', attrs),
      stored: at(inputs, 0).stored,
    });
  },
  backward: ({ grads, attrs }) => [() => only(avgSpreadOp([at(grads, 0) as Tensor], attrs))],
});

const avgSpreadOp: Op<PoolAttrs> = defineOp({
  name: 'avgPool2dBackward',
  dtypes: 'float',
  infer: (_inputs, { shape }) => [{ shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.avgPool2dBackward(gpu, {
      dOut: at(inputs, 0).storage,
      dx: only(outputs).storage,
      ...poolSizes('avgPool2d', attrs),
      stored: at(inputs, 0).stored,
    });
  },
  backward: ({ grads, attrs }) => [() => only(avgPoolOp([at(grads, 0) as Tensor], attrs))],
});

/**
 * torch.nn.functional.max_pool2d: x [N, C, H, W] → [N, C, OH, OW]; of equal values the first wins, and NaN before every
 * number. Throws a RangeError for a window, stride or padding that is no size, or does not fit.
 */
export function maxPool2d(x: Tensor, kernel: number, options: PoolOptions = {}): Tensor {
  return at(maxPoolOp([x], poolAttrs('maxPool2d', x, kernel, options)), 0);
}

/** torch.nn.functional.avg_pool2d. Shapes and errors as maxPool2d. */
export function avgPool2d(x: Tensor, kernel: number, options: AvgPoolOptions = {}): Tensor {
  const { countIncludePad = true } = options;
  const attrs = { ...poolAttrs('avgPool2d', x, kernel, options), countIncludePad };
  return only(avgPoolOp([x], attrs));
}

// ---- enlarging ------------------------------------------------------------------------------------------------------

const upsampleOp: Op<{ shape: Shape }> = defineOp({
  name: 'upsampleNearest2x',
  dtypes: 'float',
  infer: (_inputs, { shape }) => {
    const { H, W } = planesOf('upsampleNearest2x', shape);
    return [{ shape: resized(shape, 2 * H, 2 * W) }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.upsampleNearest2x(gpu, {
      x: at(inputs, 0).storage,
      out: only(outputs).storage,
      ...planesOf('upsampleNearest2x', attrs.shape),
      stored: at(inputs, 0).stored,
    });
  },
  backward: ({ grads, attrs }) => [() => only(upsampleBackwardOp([at(grads, 0) as Tensor], attrs))],
});

const upsampleBackwardOp: Op<{ shape: Shape }> = defineOp({
  name: 'upsampleNearest2xBackward',
  dtypes: 'float',
  infer: (_inputs, { shape }) => [{ shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.upsampleNearest2xBackward(gpu, {
      dOut: at(inputs, 0).storage,
      dx: only(outputs).storage,
      ...planesOf('upsampleNearest2x', attrs.shape),
      stored: at(inputs, 0).stored,
    });
  },
  backward: ({ grads, attrs }) => [() => only(upsampleOp([at(grads, 0) as Tensor], attrs))],
});

/** Each pixel four times: torch's interpolate(scale_factor=2, mode='nearest'). */
export function upsampleNearest2x(x: Tensor): Tensor {
  return only(upsampleOp([x], { shape: x.shape }));
}

interface ResizeAttrs {
  readonly shape: Shape;
  readonly OH: number;
  readonly OW: number;
  readonly alignCorners: boolean;
}

function resizeSizes({ shape, OH, OW, alignCorners }: ResizeAttrs) {
  const { N, H, W } = planesOf('resizeBilinear', shape);
  return { planes: N, H, W, OH, OW, alignCorners };
}

const resizeOp: Op<ResizeAttrs> = defineOp({
  name: 'resizeBilinear',
  dtypes: 'float',
  infer: (_inputs, { shape, OH, OW }) => [{ shape: resized(shape, OH, OW) }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.resizeBilinear(gpu, {
      x: at(inputs, 0).storage,
      out: only(outputs).storage,
      ...resizeSizes(attrs),
      stored: at(inputs, 0).stored,
    });
  },
  backward: ({ grads, attrs }) => [() => only(resizeBackwardOp([at(grads, 0) as Tensor], attrs))],
});

const resizeBackwardOp: Op<ResizeAttrs> = defineOp({
  name: 'resizeBilinearBackward',
  dtypes: 'float',
  infer: (_inputs, { shape }) => [{ shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    kernels.resizeBilinearBackward(gpu, {
      dOut: at(inputs, 0).storage,
      dx: only(outputs).storage,
      ...resizeSizes(attrs),
      stored: at(inputs, 0).stored,
    });
  },
  backward: ({ grads, attrs }) => [() => only(resizeOp([at(grads, 0) as Tensor], attrs))],
});

/** torch's interpolate(size, mode='bilinear', align_corners): x [N, C, H, W] → [N, C, ...size]; sizes from 1. */
export function resizeBilinear(
  x: Tensor,
  size: readonly [number, number],
  options: { readonly alignCorners?: boolean } = {},
): Tensor {
  const [OH, OW] = size;
  planesOf('resizeBilinear', x.shape);
  requireWhole('resizeBilinear', 'height', OH, 1);
  requireWhole('resizeBilinear', 'width', OW, 1);
  return only(
    resizeOp([x], { shape: x.shape, OH, OW, alignCorners: options.alignCorners ?? false }),
  );
}
