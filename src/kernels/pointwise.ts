import type { Gpu } from '../gpu/device.ts';
import type { Storage } from '../gpu/storage.ts';
import type { Stored } from '../gpu/wgsl.ts';
import { ceilDiv, sizeOf } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import { kernel, linearGrid } from './kernel.ts';
import type { Dims, Tile } from './kernel.ts';
import { rowsForm, rowsGrid } from './rows.ts';

export type UnaryOp =
  | 'neg'
  | 'abs'
  | 'square'
  | 'sqrt'
  | 'rsqrt'
  | 'reciprocal'
  | 'exp'
  | 'log'
  | 'relu'
  | 'leakyRelu'
  | 'tanh'
  | 'sigmoid'
  | 'softplus'
  | 'step'
  | 'affine'
  | 'copy'
  | 'clamp'
  | 'eluPlusOne';

export type BinaryOp =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'maximum'
  | 'minimum'
  | 'reluGrad'
  | 'leakyReluGrad'
  | 'tanhGrad'
  | 'sigmoidGrad'
  | 'greater';

/** Name of the shader's constant: `leakyRelu` → `LEAKY_RELU`. */
const constantOf = (op: UnaryOp | BinaryOp) => op.replaceAll(/[A-Z]/g, '_$&').toUpperCase();

const perQuad = ({ n }: Dims<'n'>, tile: (name: string) => number) =>
  linearGrid(ceilDiv(n, 4), tile('WG'));

export const unaryKernel = kernel({
  file: 'pointwise/unary.wgsl',
  tensors: ['x', 'out'],
  dims: ['n', 'a', 'b'],
  tile: { OP: 'RELU' },
  grid: perQuad,
  flops: ({ n }) => n,
  bytes: ({ n }, each = 4) => 2 * each * n,
});

export const binaryKernel = kernel({
  file: 'pointwise/binary.wgsl',
  tensors: ['a', 'b', 'out'],
  dims: ['n', 'param'],
  tile: { OP: 'ADD', A_ONE: 'false', B_ONE: 'false' },
  grid: perQuad,
  flops: ({ n }) => n,
  bytes: ({ n }, each = 4) => 3 * each * n,
});

const broadcastDims = [
  ...(['D0', 'D1', 'D2', 'D3', 'a0', 'a1', 'a2', 'a3', 'b0', 'b1', 'b2', 'b3'] as const),
  'param',
] as const;
type BroadcastDims = Dims<(typeof broadcastDims)[number]>;

const rowsOf = ({ D0, D1, D2 }: BroadcastDims) => D0 * D1 * D2;
const broadcastCost = {
  flops: (dims: BroadcastDims) => rowsOf(dims) * dims.D3,
  bytes: (dims: BroadcastDims, each = 4) =>
    each * (rowsOf(dims) * dims.D3 + readOf(dims, 'a') + readOf(dims, 'b')),
};

/** Elements that one side really has: axes of stride 0 count once. */
function readOf(dims: BroadcastDims, side: 'a' | 'b'): number {
  let n = 1;
  for (const i of [0, 1, 2, 3] as const) if (dims[`${side}${i}`] !== 0) n *= dims[`D${i}`];
  return n;
}

const broadcastTile = { OP: 'ADD', ROWS: 1, A_INNER_ONE: 'false', B_INNER_ONE: 'false', WG: 64 };

/** One element a thread, any strides. */
export const broadcastScalar = kernel({
  file: 'pointwise/binary_broadcast.wgsl',
  entry: 'scalar',
  tensors: ['a', 'b', 'out'],
  dims: broadcastDims,
  tile: broadcastTile,
  grid: (dims, tile) =>
    rowsGrid(rowsOf(dims), { units: dims.D3, each: tile('WG'), rows: tile('ROWS') }),
  ...broadcastCost,
});

/** One vec4 a thread. */
export const broadcastQuads = kernel({
  file: 'pointwise/binary_broadcast.wgsl',
  entry: 'quads',
  tensors: ['aQuads', 'bQuads', 'outQuads'],
  dims: broadcastDims,
  tile: broadcastTile,
  grid: (dims, tile) =>
    rowsGrid(rowsOf(dims), { units: dims.D3 / 4, each: tile('WG'), rows: tile('ROWS') }),
  ...broadcastCost,
});

export const fillKernel = kernel({
  file: 'pointwise/fill.wgsl',
  tensors: ['out'],
  dims: ['n', 'value'],
  grid: perQuad,
  flops: () => 0,
  bytes: ({ n }, each = 4) => each * n,
});

export const totalKernel = kernel({
  file: 'pointwise/total.wgsl',
  tensors: ['a', 'b', 'c', 'd', 'out'],
  dims: ['n', 'count'],
  grid: perQuad,
  flops: ({ n, count }) => (count - 1) * n,
  bytes: ({ n, count }, each = 4) => each * (count + 1) * n,
});

export const imagesKernel = kernel({
  file: 'pointwise/images.wgsl',
  tensors: ['bytes', 'out'],
  dims: ['n'],
  grid: perQuad,
  flops: ({ n }) => 2 * n,
  bytes: ({ n }, each = 4) => (1 + each) * n,
});

export interface UnaryArgs {
  readonly x: Storage;
  readonly out: Storage;
  readonly n: number;
  /** Slope of leakyRelu, value of step at x ≤ 0, scale of affine, low of clamp. Default 0. */
  readonly a?: number;
  /** Shift of affine, high of clamp. Default 0. */
  readonly b?: number;
  /** What x and out are made of. */
  readonly stored?: Stored;
}

/** out = f(x), elementwise over n floats. `step` is x > 0 ? 1 : a; `affine` is a·x + b; `clamp` keeps [a, b]. */
export function unary(gpu: Gpu, op: UnaryOp, args: UnaryArgs): void {
  const { x, out, n, a = 0, b = 0, stored = 'f32' } = args;
  const tile = { OP: constantOf(op) };
  unaryKernel.run(gpu, { tensors: { x, out }, dims: { n, a, b }, tile, stored });
}

export interface BinaryArgs {
  readonly a: Storage;
  readonly b: Storage;
  readonly out: Storage;
  readonly aShape: Shape;
  readonly bShape: Shape;
  /** The broadcast of both. */
  readonly shape: Shape;
  /** Slope of leakyReluGrad. Default 0. */
  readonly param?: number;
  /** What all three are made of. */
  readonly stored?: Stored;
}

/**
 * out = f(a, b) with NumPy broadcasting. reluGrad(g, x) = x ≤ 0 ? 0 : g, whatever g is; leakyReluGrad(g, x) =
 * x > 0 ? g : param·g; tanhGrad(g, y) = g·(1 − y²); sigmoidGrad(g, y) = g·y·(1 − y); greater = a > b ? 1 : 0.
 * Throws where more than four dims are left after neighbours that broadcast alike are joined.
 */
export function binary(gpu: Gpu, op: BinaryOp, args: BinaryArgs): void {
  const { a, b, out, aShape, bShape, shape, param = 0, stored = 'f32' } = args;
  const n = sizeOf(shape);
  const [aCount, bCount] = [sizeOf(aShape), sizeOf(bShape)];
  const OP = constantOf(op);
  if ((aCount === n || aCount === 1) && (bCount === n || bCount === 1)) {
    const tile = { OP, A_ONE: String(aCount < n), B_ONE: String(bCount < n) };
    binaryKernel.run(gpu, { tensors: { a, b, out }, dims: { n, param }, tile, stored });
    return;
  }
  const axes = collapse(aShape, bShape, shape);
  const dims = { ...paddedDims(axes), param };
  const { quads, tile } = broadcastForm(axes, { OP, D3: dims.D3 });
  if (quads) {
    const [aQuads, bQuads, outQuads] = [a, b, out];
    broadcastQuads.run(gpu, { tensors: { aQuads, bQuads, outQuads }, dims, tile, stored });
  } else broadcastScalar.run(gpu, { tensors: { a, b, out }, dims, tile, stored });
}

interface BroadcastAxis {
  size: number;
  a: number;
  b: number;
}

/** Axes of the result with each side's stride (0 where it repeats), neighbours joined, size-1 axes dropped. */
function collapse(aShape: Shape, bShape: Shape, shape: Shape): BroadcastAxis[] {
  const rank = shape.length;
  const axes: BroadcastAxis[] = [];
  let [a, b] = [1, 1];
  for (let i = rank - 1; i >= 0; i--) {
    const size = shape[i] ?? 1;
    const aSize = aShape[i - rank + aShape.length] ?? 1;
    const bSize = bShape[i - rank + bShape.length] ?? 1;
    const axis = { size, a: aSize === 1 ? 0 : a, b: bSize === 1 ? 0 : b };
    a *= aSize;
    b *= bSize;
    if (size === 1) continue;
    const inner = axes[0];
    const joins =
      inner !== undefined && axis.a === inner.a * inner.size && axis.b === inner.b * inner.size;
    if (joins) axes[0] = { size: size * inner.size, a: inner.a, b: inner.b };
    else axes.unshift(axis);
  }
  if (axes.length > 4) {
    throw new RangeError(
      `broadcast of [${aShape.join(', ')}] and [${bShape.join(', ')}] alternates over ${axes.length} axes; at most 4 are supported`,
    );
  }
  return axes;
}

function paddedDims(axes: readonly BroadcastAxis[]) {
  const at = (i: number) => axes[axes.length - 4 + i] ?? { size: 1, a: 0, b: 0 };
  const [w, x, y, z] = [at(0), at(1), at(2), at(3)];
  return {
    ...{ D0: w.size, D1: x.size, D2: y.size, D3: z.size },
    ...{ a0: w.a, a1: x.a, a2: y.a, a3: z.a },
    ...{ b0: w.b, b1: x.b, b2: y.b, b3: z.b },
  };
}

/** vec4 where the innermost axis allows it, and rows where it is long. */
function broadcastForm(axes: readonly BroadcastAxis[], { OP, D3 }: { OP: string; D3: number }) {
  const inner = axes.at(-1) ?? { size: 1, a: 0, b: 0 };
  const aligned = (side: 'a' | 'b') =>
    inner[side] === 0 || (inner[side] === 1 && axes.slice(0, -1).every((x) => x[side] % 4 === 0));
  const quads = D3 % 4 === 0 && aligned('a') && aligned('b');
  const tile: Tile = {
    OP,
    ROWS: rowsForm(quads ? D3 / 4 : D3, broadcastTile.WG),
    A_INNER_ONE: String(inner.a === 0),
    B_INNER_ONE: String(inner.b === 0),
  };
  return { quads, tile };
}

/** out = value, n elements. */
export function fill(
  gpu: Gpu,
  { out, n, value, stored = 'f32' }: { out: Storage; n: number; value: number; stored?: Stored },
): void {
  fillKernel.run(gpu, { tensors: { out }, dims: { n, value }, stored });
}

export interface TotalArgs {
  readonly terms: readonly Storage[];
  readonly out: Storage;
  readonly n: number;
  /** What the terms and the sum are made of. */
  readonly stored?: Stored;
}

/** out = Σ terms, two or more of n elements each, in their order; three more terms a launch. */
export function total(gpu: Gpu, { terms, out, n, stored = 'f32' }: TotalArgs): void {
  const [a, b, c, d] = terms;
  if (a === undefined || b === undefined) throw new Error('a total has two terms or more');
  const count = Math.min(4, terms.length);
  const more = terms.slice(4);
  const sum = more.length === 0 ? out : gpu.alloc(out.bytes, 'total');
  const tensors = { a, b, c: c ?? a, d: d ?? a, out: sum };
  totalKernel.run(gpu, { tensors, dims: { n, count }, tile: { COUNT: count }, stored });
  if (more.length > 0) total(gpu, { terms: [sum, ...more], out, n, stored });
}

/** Pixels to floats: n bytes, four to a u32 word, → byte·(2/255) − 1. */
export function imagesToFloat(
  gpu: Gpu,
  { bytes, out, n, stored = 'f32' }: { bytes: Storage; out: Storage; n: number; stored?: Stored },
): void {
  imagesKernel.run(gpu, { tensors: { bytes, out }, dims: { n }, stored });
}
