import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { stridedCopy } from '../kernels/layout.ts';
import { fill } from '../kernels/pointwise.ts';
import { dim, sameShape, showShape, sizeOf } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import { sumTo } from './reduce.ts';

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--)
    strides[i] = (strides[i + 1] ?? 1) * (shape[i + 1] ?? 1);
  return strides;
}

/** The same elements under another shape; shares the buffer, launches nothing. */
const reshapeOp = defineOp<{ shape: Shape }>({
  name: 'reshape',
  dtypes: 'any',
  view: true,
  infer: (inputs, { shape }) => [{ shape, dtype: at(inputs, 0).dtype }],
  forward: () => undefined,
  saves: (inputs) => [at(inputs, 0)],
  backward: ({ grads, saved }) => [() => reshape(at(grads, 0) as Tensor, at(saved, 0).shape)],
});

/** View under another shape; one size may be −1. Throws where the counts differ. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
  const full = shape.map((d) => (d === -1 ? x.size / known : d));
  if (sizeOf(full) !== x.size || full.some((d) => !Number.isInteger(d))) {
    throw new RangeError(
      `reshape: ${showShape(x.shape)} (${x.size}) does not fill ${showShape(shape)}`,
    );
  }
  return sameShape(full, x.shape) ? x : only(reshapeOp([x], { shape: full }));
}

/** Repeats size-1 axes; the adjoint is a sum over them. */
const expandOp = defineOp<{ shape: Shape }>({
  name: 'expand',
  dtypes: 'any',
  infer: (inputs, { shape }) => [{ shape, dtype: at(inputs, 0).dtype }],
  forward: (gpu, { inputs, outputs, attrs: { shape } }) => {
    const x = at(inputs, 0);
    const lead = shape.length - x.shape.length;
    const own = stridesOf(x.shape);
    const inStrides = shape.map((_d, i) =>
      i < lead || x.shape[i - lead] === 1 ? 0 : (own[i - lead] ?? 0),
    );
    const out = only(outputs);
    stridedCopy(gpu, {
      x: x.storage,
      out: out.storage,
      shape,
      inStrides,
      outStrides: stridesOf(shape),
      stored: x.stored,
    });
  },
  saves: (inputs) => [at(inputs, 0)],
  backward: ({ grads, saved }) => [() => sumTo(at(grads, 0) as Tensor, at(saved, 0).shape)],
});

/** Broadcasts x to `shape` and stores it (torch's expand().contiguous()). */
export function expand(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = shape.length - x.shape.length;
  if (lead < 0 || x.shape.some((d, i) => d !== 1 && d !== shape[i + lead])) {
    throw new RangeError(`expand: ${showShape(x.shape)} cannot be expanded to ${showShape(shape)}`);
  }
  return only(expandOp([x], { shape }));
}

/** out[i₀,…] = x[i_π…]: axis j of the result is axis order[j] of x. */
const permuteOp = defineOp<{ order: readonly number[] }>({
  name: 'permute',
  dtypes: 'any',
  infer: (inputs, { order }) => {
    const x = at(inputs, 0);
    if (
      [...order].sort((a, b) => a - b).some((axis, i) => axis !== i) ||
      order.length !== x.shape.length
    ) {
      throw new RangeError(
        `permute: [${order.join(', ')}] is no order of the axes of ${showShape(x.shape)}`,
      );
    }
    return [{ shape: order.map((axis) => dim(x.shape, axis)), dtype: x.dtype }];
  },
  forward: (gpu, { inputs, outputs, attrs: { order } }) => {
    const x = at(inputs, 0);
    const own = stridesOf(x.shape);
    const out = only(outputs);
    stridedCopy(gpu, {
      x: x.storage,
      out: out.storage,
      shape: out.shape,
      inStrides: order.map((axis) => at(own, axis)),
      outStrides: stridesOf(out.shape),
      stored: x.stored,
    });
  },
  backward: ({ grads, attrs: { order } }) => [
    () => {
      const inverse = order.map((_axis, i) => order.indexOf(i));
      return permute(at(grads, 0) as Tensor, inverse);
    },
  ],
});

/** Reorders the axes, as torch's permute().contiguous(). */
export function permute(x: Tensor, order: readonly number[]): Tensor {
  return only(permuteOp([x], { order }));
}

/** Exchanges two axes (negative ones count from the end). */
export function transpose(x: Tensor, axis0: number, axis1: number): Tensor {
  const rank = x.shape.length;
  // dim() throws where there is no such axis
  for (const axis of [axis0, axis1]) dim(x.shape, axis);
  const [a, b] = [axis0 < 0 ? axis0 + rank : axis0, axis1 < 0 ? axis1 + rank : axis1];
  return permute(
    x,
    x.shape.map((_d, i) => (i === a ? b : i === b ? a : i)),
  );
}

interface SliceAttrs {
  readonly axis: number;
  readonly start: number;
  readonly length: number;
}

/** A run of one axis; the adjoint puts it back among zeros. */
const sliceOp = defineOp<SliceAttrs>({
  name: 'slice',
  dtypes: 'any',
  infer: (inputs, { axis, length }) => {
    const { shape, dtype } = at(inputs, 0);
    return [{ shape: shape.map((d, i) => (i === axis ? length : d)), dtype }];
  },
  forward: (gpu, { inputs, outputs, attrs: { axis, start } }) => {
    const x = at(inputs, 0);
    const own = stridesOf(x.shape);
    const out = only(outputs);
    stridedCopy(gpu, {
      x: x.storage,
      out: out.storage,
      shape: out.shape,
      inStrides: own,
      outStrides: stridesOf(out.shape),
      inOffset: start * at(own, axis),
      stored: x.stored,
    });
  },
  saves: (inputs) => [at(inputs, 0)],
  backward: ({ grads, saved, attrs }) => [
    () => embed(at(grads, 0) as Tensor, { ...attrs, shape: at(saved, 0).shape }),
  ],
});

/** x[…, start:start+length, …] along `axis`. */
export function slice(x: Tensor, axis: number, start: number, length: number): Tensor {
  const size = dim(x.shape, axis);
  if (start < 0 || length < 1 || start + length > size) {
    throw new RangeError(
      `slice: ${start}..${start + length} is outside axis ${axis} of ${showShape(x.shape)}`,
    );
  }
  return only(sliceOp([x], { axis: axis < 0 ? axis + x.shape.length : axis, start, length }));
}

/** Adjoint of slice: zeros of the whole shape with the run put in. */
const embedOp = defineOp<SliceAttrs & { shape: Shape }>({
  name: 'embedSlice',
  dtypes: 'float',
  infer: (_inputs, { shape }) => [{ shape }],
  forward: (gpu, { inputs, outputs, attrs: { axis, start, shape } }) => {
    const x = at(inputs, 0);
    const out = only(outputs);
    const own = stridesOf(shape);
    fill(gpu, { out: out.storage, n: out.size, value: 0, stored: out.stored });
    stridedCopy(gpu, {
      x: x.storage,
      out: out.storage,
      shape: x.shape,
      inStrides: stridesOf(x.shape),
      outStrides: own,
      outOffset: start * at(own, axis),
      stored: x.stored,
    });
  },
  backward: ({ grads, attrs: { axis, start, length } }) => [
    () => slice(at(grads, 0) as Tensor, axis, start, length),
  ],
});

function embed(x: Tensor, attrs: SliceAttrs & { shape: Shape }): Tensor {
  return only(embedOp([x], attrs));
}

/** Joins along an axis; the adjoint slices. */
const concatOp = defineOp<{ axis: number }>({
  name: 'concat',
  dtypes: 'any',
  infer: (inputs, { axis }) => {
    const { shape: first, dtype } = at(inputs, 0);
    for (const x of inputs) {
      if (x.dtype !== dtype) {
        throw new RangeError(
          `concat: ${x.dtype} ${showShape(x.shape)} does not join ${dtype} ${showShape(first)}; the element types must agree`,
        );
      }
      if (x.shape.length !== first.length || x.shape.some((d, i) => i !== axis && d !== first[i])) {
        throw new RangeError(
          `concat: ${showShape(x.shape)} does not join ${showShape(first)} along axis ${axis}; the other sizes must agree`,
        );
      }
    }
    const total = inputs.reduce((n, x) => n + dim(x.shape, axis), 0);
    return [{ shape: first.map((d, i) => (i === axis ? total : d)), dtype }];
  },
  forward: (gpu, { inputs, outputs, attrs: { axis } }) => {
    const out = only(outputs);
    const outStrides = stridesOf(out.shape);
    let start = 0;
    for (const x of inputs) {
      stridedCopy(gpu, {
        x: x.storage,
        out: out.storage,
        shape: x.shape,
        inStrides: stridesOf(x.shape),
        outStrides,
        outOffset: start * at(outStrides, axis),
        stored: x.stored,
      });
      start += dim(x.shape, axis);
    }
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved, attrs: { axis } }) => {
    let start = 0;
    return saved.map((x) => {
      const from = start;
      start += dim(x.shape, axis);
      return () => slice(at(grads, 0) as Tensor, axis, from, dim(x.shape, axis));
    });
  },
});

/** Joins tensors along `axis`, as torch.cat. */
export function concat(inputs: readonly Tensor[], axis = 0): Tensor {
  const rank = at(inputs, 0).shape.length;
  return only(concatOp(inputs, { axis: axis < 0 ? axis + rank : axis }));
}
