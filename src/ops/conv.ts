import { typeAs } from '../autograd/cast.ts';
import { at, defineOp, once, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { convDataGrad, convForward, convWeightGrad } from '../kernels/conv.ts';
import type { ConvDims } from '../kernels/conv.ts';
import { dim, sameShape, showShape } from '../util/shape.ts';
import { requireWhole } from './check.ts';
import { activatedBy, activationGrad, fusedActivation } from './pointwise.ts';
import type { Activation } from './pointwise.ts';
import { sum } from './reduce.ts';

/**
 * Three bilinear maps, closed under differentiation. With x [N,C,H,W], w [K,C,R,S], y [N,K,OH,OW] of one geometry:
 *   correlate(x, w) → y      the convolution
 *   scatter(y, w)   → x      its adjoint by x: the data gradient, and the transposed convolution
 *   weigh(x, y)     → w      its adjoint by w: the weight gradient
 * The gradient of each by either argument is one of the other two. x, w and y are of one float type, bias and what `weigh`
 * gives are f32 in either: the parameters that they belong to are.
 */
interface Attrs {
  readonly dims: ConvDims;
}

interface CorrelateAttrs extends Attrs {
  readonly activation?: Activation | undefined;
}

/** y = act(correlate(x, w) + bias). The gradient takes act′ by the sign of y: what was activated is never in memory. */
const correlateOp = defineOp<CorrelateAttrs>({
  name: 'conv2d',
  dtypes: ['float', 'float', 'f32'],
  infer: (_inputs, { dims: d }) => [{ shape: [d.N, d.K, d.OH, d.OW] }],
  forward: (gpu, { inputs, outputs, attrs: { dims, activation } }) => {
    const [x, w, bias] = [at(inputs, 0), at(inputs, 1), inputs[2]];
    convForward(gpu, {
      x: x.storage,
      w: w.storage,
      bias: bias?.storage,
      activation: fusedActivation(activation),
      out: only(outputs).storage,
      dims: { ...dims, stored: x.stored },
    });
  },
  saves: (inputs, outputs, { activation }) => [
    ...inputs.slice(0, 2),
    ...(activation === undefined ? [] : outputs),
  ],
  backward: ({ grads, saved, attrs: { dims, activation } }) => {
    const [x, w] = [at(saved, 0), at(saved, 1)];
    const g = once(() => {
      const dy = at(grads, 0) as Tensor;
      return activation === undefined ? dy : activationGrad(dy, at(saved, 2), activation);
    });
    return [() => scatter(g(), w, dims), () => weigh(x, g(), dims), () => sum(g(), [0, 2, 3])];
  },
});

const scatterOp = defineOp<Attrs>({
  name: 'convTranspose2d',
  dtypes: ['float', 'float', 'f32'],
  infer: (_inputs, { dims: d }) => [{ shape: [d.N, d.C, d.H, d.W] }],
  forward: (gpu, { inputs, outputs, attrs: { dims } }) => {
    const [y, w, bias] = [at(inputs, 0), at(inputs, 1), inputs[2]];
    convDataGrad(gpu, {
      dy: y.storage,
      w: w.storage,
      bias: bias?.storage,
      out: only(outputs).storage,
      dims: { ...dims, stored: y.stored },
    });
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved, attrs: { dims } }) => {
    const [y, w] = [at(saved, 0), at(saved, 1)];
    const g = at(grads, 0) as Tensor;
    return [() => correlate(g, w, dims), () => weigh(g, y, dims), () => sum(g, [0, 2, 3])];
  },
});

const weighOp = defineOp<Attrs>({
  name: 'convWeight',
  dtypes: 'float',
  infer: (_inputs, { dims: d }) => [{ shape: [d.K, d.C, d.R, d.S], dtype: 'f32' }],
  forward: (gpu, { inputs, outputs, attrs: { dims } }) => {
    const [x, y] = [at(inputs, 0), at(inputs, 1)];
    convWeightGrad(gpu, {
      x: x.storage,
      dy: y.storage,
      out: only(outputs).storage,
      dims: { ...dims, stored: x.stored },
    });
  },
  saves: (inputs) => inputs,
  backward: ({ grads, saved, attrs: { dims } }) => {
    const [x, y] = [at(saved, 0), at(saved, 1)];
    const g = typeAs(at(grads, 0) as Tensor, x);
    return [() => scatter(y, g, dims), () => correlate(x, g, dims)];
  },
});

function correlate(x: Tensor, w: Tensor, dims: ConvDims): Tensor {
  return only(correlateOp([x, w], { dims }));
}
function scatter(y: Tensor, w: Tensor, dims: ConvDims, bias?: Tensor): Tensor {
  return only(scatterOp(bias === undefined ? [y, w] : [y, w, bias], { dims }));
}
function weigh(x: Tensor, y: Tensor, dims: ConvDims): Tensor {
  return only(weighOp([x, y], { dims }));
}

export type Pair = number | readonly [number, number];

export interface ConvOptions {
  readonly bias?: Tensor | undefined;
  readonly stride?: Pair;
  readonly padding?: Pair;
}

function pair(value: Pair): readonly [number, number] {
  return typeof value === 'number' ? [value, value] : value;
}

/** Strides from 1 and paddings from 0, by rows and by columns. */
function geometryOf(op: string, options: ConvOptions) {
  const [strideH, strideW] = pair(options.stride ?? 1);
  const [padH, padW] = pair(options.padding ?? 0);
  for (const stride of [strideH, strideW]) requireWhole(op, 'stride', stride, 1);
  for (const padding of [padH, padW]) requireWhole(op, 'padding', padding, 0);
  return { strideH, strideW, padH, padW };
}

/**
 * torch.nn.functional.conv2d: x [N, C, H, W], weight [K, C, R, S], bias [K] → [N, K, OH, OW] with
 * OH = ⌊(H + 2·padding − R)/stride⌋ + 1. Input and weight are f32, or both f16, and so is the result; the bias is f32.
 * An activation is applied where the result is stored: one launch less, and N·K·OH·OW elements that are never kept, since
 * the gradient goes by the sign of the result. One whose slope does not keep the sign is an op of its own.
 * Throws a RangeError naming the sizes that do not meet or are no sizes.
 */
export function conv2d(
  x: Tensor,
  weight: Tensor,
  options: ConvOptions & { readonly activation?: Activation | undefined } = {},
): Tensor {
  const { strideH, strideW, padH, padW } = geometryOf('conv2d', options);
  const [N, C, H, W] = four('conv2d', 'input', x);
  const [K, CW, R, S] = four('conv2d', 'weight', weight);
  if (C !== CW) {
    throw new RangeError(
      `conv2d: input is ${showShape(x.shape)} but weight is ${showShape(weight.shape)}; the input channels must agree: ${C} ≠ ${CW}`,
    );
  }
  const OH = Math.floor((H + 2 * padH - R) / strideH) + 1;
  const OW = Math.floor((W + 2 * padW - S) / strideW) + 1;
  if (OH < 1 || OW < 1) {
    throw new RangeError(
      `conv2d: a ${R}×${S} kernel does not fit into ${showShape(x.shape)} with padding ${padH}, ${padW}`,
    );
  }
  checkBias('conv2d', options.bias, K);
  const dims = { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW };
  const inputs = options.bias === undefined ? [x, weight] : [x, weight, options.bias];
  return activatedBy(options.activation, (activation) =>
    only(correlateOp(inputs, { dims, activation })),
  );
}

/**
 * torch.nn.functional.conv_transpose2d: x [N, Cin, H, W], weight [Cin, Cout, R, S], bias [Cout] → [N, Cout, OH, OW]
 * with OH = (H − 1)·stride − 2·padding + R + outputPadding; float types as of `conv2d`.
 */
export function convTranspose2d(
  x: Tensor,
  weight: Tensor,
  options: ConvOptions & { readonly outputPadding?: Pair } = {},
): Tensor {
  const { strideH, strideW, padH, padW } = geometryOf('convTranspose2d', options);
  const [extraH, extraW] = pair(options.outputPadding ?? 0);
  for (const extra of [extraH, extraW]) requireWhole('convTranspose2d', 'outputPadding', extra, 0);
  const [N, K, OH, OW] = four('convTranspose2d', 'input', x);
  const [KW, C, R, S] = four('convTranspose2d', 'weight', weight);
  if (K !== KW) {
    throw new RangeError(
      `convTranspose2d: input is ${showShape(x.shape)} but weight is ${showShape(weight.shape)}; the input channels must agree: ${K} ≠ ${KW}`,
    );
  }
  const H = (OH - 1) * strideH - 2 * padH + R + extraH;
  const W = (OW - 1) * strideW - 2 * padW + S + extraW;
  if (H < 1 || W < 1 || extraH >= strideH || extraW >= strideW) {
    throw new RangeError(
      `convTranspose2d: ${showShape(x.shape)} with stride ${strideH}, ${strideW}, padding ${padH}, ${padW} and outputPadding ${extraH}, ${extraW} gives ${H}×${W}; sizes must be positive and outputPadding below the stride`,
    );
  }
  checkBias('convTranspose2d', options.bias, C);
  const dims = { N, C, H, W, K, R, S, OH, OW, strideH, strideW, padH, padW };
  return scatter(x, weight, dims, options.bias);
}

function checkBias(op: string, bias: Tensor | undefined, channels: number): void {
  if (bias !== undefined && !sameShape(bias.shape, [channels])) {
    throw new RangeError(
      `${op}: bias is ${showShape(bias.shape)}; it must be [${channels}], one number an output channel`,
    );
  }
}

function four(op: string, role: string, t: Tensor): [number, number, number, number] {
  if (t.shape.length !== 4) {
    throw new RangeError(`${op}: ${role} is ${showShape(t.shape)}; it must have four axes`);
  }
  return [dim(t.shape, 0), dim(t.shape, 1), dim(t.shape, 2), dim(t.shape, 3)];
}
