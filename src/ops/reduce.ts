import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { argmax as argmaxKernel } from '../kernels/argmax.ts';
import { reduce } from '../kernels/reduce.ts';
import { dim, sameShape, showShape } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import { div, greater, mul, affine } from './pointwise.ts';
import { expand, reshape } from './layout.ts';

export interface ReduceOptions {
  /** Keep the reduced axes with size 1. Default false. */
  readonly keepdim?: boolean;
}

interface ReduceAttrs {
  readonly axes: readonly number[];
  readonly scale: number;
}

/** Σ over axes in f32, times a scale; the result keeps the reduced axes as 1. d = scale·expand(g). */
const sumOp = defineOp<ReduceAttrs>({
  name: 'sum',
  dtypes: 'float',
  infer: (inputs, { axes }) => [{ shape: keptShape(at(inputs, 0).shape, axes), dtype: 'f32' }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { storage: x, shape, stored } = at(inputs, 0);
    reduce(gpu, 'sum', { x, out: only(outputs).storage, shape, ...attrs, stored });
  },
  saves: (inputs) => [at(inputs, 0)],
  backward: ({ grads, saved, attrs }) => {
    const x = at(saved, 0);
    return [
      () => {
        const g = at(grads, 0) as Tensor;
        const scaled = attrs.scale === 1 ? g : mul(g, attrs.scale);
        return expand(typeAs(scaled, x), x.shape);
      },
    ];
  },
});

/** max over axes; where several are largest they share the gradient evenly (torch.amax). */
const maxOp = defineOp<ReduceAttrs>({
  name: 'amax',
  infer: (inputs, { axes }) => [{ shape: keptShape(at(inputs, 0).shape, axes) }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const x = at(inputs, 0);
    reduce(gpu, 'max', { x: x.storage, out: only(outputs).storage, shape: x.shape, ...attrs });
  },
  saves: (inputs, outputs) => [at(inputs, 0), only(outputs)],
  backward: ({ grads, saved, attrs }) => {
    const [x, y] = [at(saved, 0), at(saved, 1)];
    return [
      () => {
        // y ≥ x everywhere, so x is largest exactly where y > x does not hold.
        const hits = affine(greater(expand(y, x.shape), x), -1, 1);
        const count = only(sumOp([hits], attrs));
        return mul(hits, expand(div(at(grads, 0) as Tensor, count), x.shape));
      },
    ];
  },
});

/** Sum over `axes` (all of them if left out), as torch.sum; of f16 it is f32. */
export function sum(x: Tensor, axes?: readonly number[], options: ReduceOptions = {}): Tensor {
  return reduced(x, { axes, options, scale: () => 1, op: sumOp });
}

/** Mean over `axes` (all of them if left out), as torch.mean; of f16 it is f32. */
export function mean(x: Tensor, axes?: readonly number[], options: ReduceOptions = {}): Tensor {
  return reduced(x, { axes, options, scale: (count) => 1 / count, op: sumOp });
}

/** Largest value over `axes` (all of them if left out), as torch.amax; of x's element type. */
export function amax(x: Tensor, axes?: readonly number[], options: ReduceOptions = {}): Tensor {
  const found = reduced(to(x, 'f32'), { axes, options, scale: () => 1, op: maxOp });
  return typeAs(found, x);
}

/** Places of the largest, without gradient. */
const argmaxOp = defineOp({
  name: 'argmax',
  infer: (inputs) => [{ shape: at(inputs, 0).shape.slice(0, -1), dtype: 'u32' }],
  forward: (gpu, { inputs, outputs }) => {
    const { storage: x, shape } = at(inputs, 0);
    const out = only(outputs);
    argmaxKernel(gpu, { x, out: out.storage, rows: out.size, cols: dim(shape, -1) });
  },
});

/** Place of the largest value along the last axis, as torch.argmax(x, −1): x […, cols] → […] (u32), the first of equals. */
export function argmax(x: Tensor): Tensor {
  if (x.shape.length === 0 || x.size === 0) {
    throw new RangeError(
      `argmax: input is ${showShape(x.shape)}; it needs a last axis and at least one element`,
    );
  }
  return only(argmaxOp([x], undefined));
}

/** Sums a broadcast result's gradient back to the shape of the operand that was broadcast; of f16 the sum is f32. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const axes = x.shape
    .map((_d, i) => i)
    .filter((i) => i < lead || (shape[i - lead] === 1 && x.shape[i] !== 1));
  const summed = axes.length === 0 ? x : only(sumOp([x], { axes, scale: 1 }));
  return reshape(summed, shape);
}

function reduced(
  x: Tensor,
  how: {
    axes: readonly number[] | undefined;
    options: ReduceOptions;
    scale: (count: number) => number;
    op: typeof sumOp;
  },
): Tensor {
  const rank = x.shape.length;
  const axes = normalise(how.axes ?? x.shape.map((_d, i) => i), x.shape);
  const count = axes.reduce((n, axis) => n * at(x.shape, axis), 1);
  const kept = only(how.op([x], { axes, scale: how.scale(count) }));
  if (how.options.keepdim === true || rank === 0) return kept;
  return reshape(
    kept,
    x.shape.filter((_d, i) => !axes.includes(i)),
  );
}

function normalise(axes: readonly number[], shape: Shape): number[] {
  const rank = shape.length;
  const out = axes.map((a) => (a < 0 ? a + rank : a)).sort((a, b) => a - b);
  if (out.some((a, i) => a < 0 || a >= rank || a === out[i - 1])) {
    throw new RangeError(
      `reduce: axes [${axes.join(', ')}] do not name distinct axes of ${showShape(shape)}`,
    );
  }
  return out;
}

function keptShape(shape: Shape, axes: readonly number[]): number[] {
  return shape.map((d, i) => (axes.includes(i) ? 1 : d));
}
