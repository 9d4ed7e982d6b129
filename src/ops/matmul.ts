import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { matmul as matmulKernel } from '../kernels/matmul.ts';
import { broadcastShape, dim, sameShape, showShape, sizeOf } from '../util/shape.ts';
import { expand, reshape } from './layout.ts';
import { sumTo } from './reduce.ts';

export interface MatmulOptions {
  /** A is stored [K, M]. */
  readonly transA?: boolean;
  /** B is stored [N, K]. */
  readonly transB?: boolean;
  /** Factor of the product. */
  readonly alpha?: number;
}

interface Attrs {
  readonly transA: boolean;
  readonly transB: boolean;
  readonly alpha: number;
}

/**
 * C = α·op(A)·op(B), batched; a batch of 1 is shared.
 *   dA = α·dC·op(B)ᵀ   (stored as A is: with transA, α·op(B)·dCᵀ)
 *   dB = α·op(A)ᵀ·dC   (stored as B is: with transB, α·dCᵀ·op(A))
 */
const matmulOp = defineOp<Attrs>({
  name: 'matmul',
  dtypes: 'float',
  infer: (inputs, attrs) => {
    const { batch, M, N } = sizes(at(inputs, 0), at(inputs, 1), attrs);
    return [{ shape: [...batch, M, N] }];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [a, b] = [at(inputs, 0), at(inputs, 1)];
    const { M, N, K, batch } = sizes(a, b, attrs);
    const stride = (t: Tensor) =>
      sizeOf(t.shape.slice(0, -2)) === 1 ? 0 : dim(t.shape, -1) * dim(t.shape, -2);
    matmulKernel(gpu, {
      a: a.storage,
      b: b.storage,
      out: only(outputs).storage,
      M,
      N,
      K,
      batch: sizeOf(batch),
      strideA: stride(a),
      strideB: stride(b),
      stored: a.stored,
      ...attrs,
    });
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved, attrs: { transA, transB, alpha } }) => {
    const [a, b] = [at(saved, 0), at(saved, 1)];
    const g = at(grads, 0) as Tensor;
    return [
      () =>
        sumTo(
          transA
            ? matmul(b, g, { transA: transB, transB: true, alpha })
            : matmul(g, b, { transB: !transB, alpha }),
          a.shape,
        ),
      () =>
        sumTo(
          transB
            ? matmul(g, a, { transA: true, transB: transA, alpha })
            : matmul(a, g, { transA: !transA, alpha }),
          b.shape,
        ),
    ];
  },
});

function sizes(a: Tensor, b: Tensor, { transA, transB }: Attrs) {
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw new RangeError(
      `matmul: A is ${showShape(a.shape)} and B is ${showShape(b.shape)}; both need two axes or more`,
    );
  }
  const [M, K] = transA
    ? [dim(a.shape, -1), dim(a.shape, -2)]
    : [dim(a.shape, -2), dim(a.shape, -1)];
  const [KB, N] = transB
    ? [dim(b.shape, -1), dim(b.shape, -2)]
    : [dim(b.shape, -2), dim(b.shape, -1)];
  if (K !== KB) {
    const show = (t: Tensor, transposed: boolean) =>
      `${showShape(t.shape)}${transposed ? 'ᵀ' : ''}`;
    throw new RangeError(
      `matmul: A is ${show(a, transA)} and B is ${show(b, transB)}; the inner sizes must agree: ${K} ≠ ${KB}`,
    );
  }
  return { M, N, K, batch: broadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2), 'matmul') };
}

/**
 * Batched matrix product op(A) [..., M, K] · op(B) [..., K, N] → [..., M, N] with NumPy's broadcasting of the leading
 * axes, as torch.matmul; transposes are flags, never a copy. Operands are f32, or both f16, and so is the product.
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const attrs = {
    transA: options.transA ?? false,
    transB: options.transB ?? false,
    alpha: options.alpha ?? 1,
  };
  const { M, N, batch } = sizes(a, b, attrs);
  const [countA, countB] = [sizeOf(a.shape.slice(0, -2)), sizeOf(b.shape.slice(0, -2))];
  // One B for every A: the batch is more rows, and dB then sums over it inside the product.
  if (countB === 1 && countA > 1 && !attrs.transA) {
    const rows = reshape(a, [-1, dim(a.shape, -1)]);
    const flat = matmulOp([rows, reshape(b, b.shape.slice(-2))], attrs);
    return reshape(only(flat), [...batch, M, N]);
  }
  const whole = (t: Tensor, count: number) =>
    count === 1 || sameShape(t.shape.slice(0, -2), batch)
      ? t
      : expand(t, [...batch, ...t.shape.slice(-2)]);
  return only(matmulOp([whole(a, countA), whole(b, countB)], attrs));
}

/**
 * x [..., in] · weightᵀ → [..., out], weight [out, in]: torch.nn.functional.linear without its bias, which the caller
 * adds. A single row [in] gives [out].
 */
export function linear(x: Tensor, weight: Tensor): Tensor {
  if (x.shape.length !== 1) return matmul(x, weight, { transB: true });
  const row = matmul(reshape(x, [1, x.size]), weight, { transB: true });
  return reshape(row, row.shape.slice(1));
}
