import { at, defineOp, only } from '../autograd/op.ts';
import { empty, requireSameShape } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { binary, fill, unary } from '../kernels/pointwise.ts';
import type { BinaryOp, UnaryOp } from '../kernels/pointwise.ts';
import { broadcastShape } from '../util/shape.ts';
import { sumTo } from './reduce.ts';

// ---- one input ------------------------------------------------------------------------------------------------------

interface Scalars {
  readonly a?: number;
  readonly b?: number;
}

type UnaryRule = (args: {
  /** Gradient of the output. */
  readonly g: Tensor;
  readonly x: Tensor;
  readonly y: Tensor;
  readonly attrs: Scalars;
}) => Tensor;

function unaryOp(name: UnaryOp, saves: 'x' | 'y' | 'none', rule: UnaryRule) {
  const op = defineOp<Scalars>({
    name,
    dtypes: 'float',
    infer: (inputs) => [{ shape: at(inputs, 0).shape }],
    forward: (gpu, { inputs, outputs, attrs }) => {
      const out = only(outputs);
      const { storage: x, stored } = at(inputs, 0);
      unary(gpu, name, { x, out: out.storage, n: out.size, ...attrs, stored });
    },
    saves: (inputs, outputs) =>
      saves === 'x' ? [at(inputs, 0)] : saves === 'y' ? [only(outputs)] : [],
    backward: ({ grads, saved, attrs }) => [
      () => {
        const g = at(grads, 0) as Tensor;
        const kept = saved[0] ?? g;
        return rule({ g, x: kept, y: kept, attrs });
      },
    ],
  });
  return (x: Tensor, attrs: Scalars = {}): Tensor => only(op([x], attrs));
}

const negOp = unaryOp('neg', 'none', ({ g }) => neg(g));
const absOp = unaryOp('abs', 'x', ({ g, x }) => mul(g, sign(x)));
const squareOp = unaryOp('square', 'x', ({ g, x }) => mul(g, affine(x, 2, 0)));
const sqrtOp = unaryOp('sqrt', 'y', ({ g, y }) => div(affine(g, 0.5, 0), y));
const rsqrtOp = unaryOp('rsqrt', 'y', ({ g, y }) => mul(affine(g, -0.5, 0), mul(y, square(y))));
const reciprocalOp = unaryOp('reciprocal', 'y', ({ g, y }) => neg(mul(g, square(y))));
const expOp = unaryOp('exp', 'y', ({ g, y }) => mul(g, y));
const logOp = unaryOp('log', 'x', ({ g, x }) => div(g, x));
const reluOp = unaryOp('relu', 'x', ({ g, x }) => reluGrad(g, x));
const leakyReluOp = unaryOp('leakyRelu', 'x', ({ g, x, attrs }) =>
  leakyReluGrad(g, x, attrs.a ?? 0.01),
);
const tanhOp = unaryOp('tanh', 'y', ({ g, y }) => tanhGrad(g, y));
const sigmoidOp = unaryOp('sigmoid', 'y', ({ g, y }) => sigmoidGrad(g, y));
const softplusOp = unaryOp('softplus', 'x', ({ g, x }) => mul(g, sigmoid(x)));
// x > 0: x + 1 ≥ 1, slope 1; else eˣ ≤ 1, its own slope.
const eluPlusOneOp = unaryOp('eluPlusOne', 'y', ({ g, y }) => mul(g, minimum(y, 1)));
const affineOp = unaryOp('affine', 'none', ({ g, attrs }) => affine(g, attrs.a ?? 1, 0));

/** Piecewise constant: no gradient flows. */
const stepOp = defineOp<Scalars>({
  name: 'step',
  dtypes: 'float',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const out = only(outputs);
    const { storage: x, stored } = at(inputs, 0);
    unary(gpu, 'step', { x, out: out.storage, n: out.size, ...attrs, stored });
  },
});

/** −x */
export const neg = (x: Tensor): Tensor => negOp(x);
/** |x|; the gradient at 0 is 0, as in PyTorch. */
export const abs = (x: Tensor): Tensor => absOp(x);
/** x² */
export const square = (x: Tensor): Tensor => squareOp(x);
/** √x */
export const sqrt = (x: Tensor): Tensor => sqrtOp(x);
/** 1/√x */
export const rsqrt = (x: Tensor): Tensor => rsqrtOp(x);
/** 1/x */
export const reciprocal = (x: Tensor): Tensor => reciprocalOp(x);
/** eˣ */
export const exp = (x: Tensor): Tensor => expOp(x);
/** ln x */
export const log = (x: Tensor): Tensor => logOp(x);
/** max(x, 0); a new tensor, never in place: a residual shortcut always sees the unactivated input. */
export const relu = (x: Tensor): Tensor => reluOp(x);
/** x > 0 ? x : negativeSlope·x */
export const leakyRelu = (x: Tensor, negativeSlope = 0.01): Tensor =>
  leakyReluOp(x, { a: negativeSlope });
/** An activation that an op before it can take into its own launch. */
export type Activation =
  { readonly name: 'relu' } | { readonly name: 'leakyRelu'; readonly negativeSlope: number };

/** The activation of x; x itself where there is none. */
export function activate(x: Tensor, activation: Activation | undefined): Tensor {
  if (activation === undefined) return x;
  return activation.name === 'relu' ? relu(x) : leakyRelu(x, activation.negativeSlope);
}

/** True where the sign of the result tells which branch was taken: the gradient then needs no other tensor. */
const keepsSign = (activation: Activation) =>
  activation.name === 'relu' || activation.negativeSlope > 0;

/** The result of an op that activates what it stores: an activation whose sign tells no branch comes after it. */
export function activatedBy(
  activation: Activation | undefined,
  op: (fused: Activation | undefined) => Tensor,
): Tensor {
  const fused = activation === undefined || keepsSign(activation);
  return fused ? op(activation) : activate(op(undefined), activation);
}

/** An activation as the kernels take it that apply it. */
export function fusedActivation(activation: Activation | undefined) {
  if (activation === undefined) return undefined;
  return { slope: activation.name === 'relu' ? 0 : activation.negativeSlope };
}

/** The gradient of what was activated, from that of the result y. The branch is that of y's sign. */
export function activationGrad(g: Tensor, y: Tensor, activation: Activation): Tensor {
  return activation.name === 'relu'
    ? reluGrad(g, y)
    : leakyReluGrad(g, y, activation.negativeSlope);
}

/** tanh x */
export const tanh = (x: Tensor): Tensor => tanhOp(x);
/** 1/(1+e⁻ˣ) */
export const sigmoid = (x: Tensor): Tensor => sigmoidOp(x);
/** ln(1+eˣ), stable for any x */
export const softplus = (x: Tensor): Tensor => softplusOp(x);
/** elu(x) + 1, which is positive: x > 0 ? x + 1 : eˣ */
export const eluPlusOne = (x: Tensor): Tensor => eluPlusOneOp(x);
/** scale·x + shift with numbers known to the host. */
export const affine = (x: Tensor, scale: number, shift: number): Tensor =>
  affineOp(x, { a: scale, b: shift });
/** x > 0 ? 1 : below */
export const step = (x: Tensor, below = 0): Tensor => only(stepOp([x], { a: below }));

function sign(x: Tensor): Tensor {
  return sub(step(x), step(neg(x)));
}

// ---- two inputs, broadcast ------------------------------------------------------------------------------------------

type BinaryRule = (args: {
  readonly g: Tensor;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly param: number;
}) => readonly [() => Tensor, (() => Tensor) | undefined];

/** Gradients come in the output's shape and are summed to the inputs' here, in one place for every op. */
function binaryOp(name: BinaryOp, rule: BinaryRule | undefined) {
  const op = defineOp<{ param: number }>({
    name,
    dtypes: 'float',
    infer: (inputs) => [{ shape: broadcastShape(at(inputs, 0).shape, at(inputs, 1).shape, name) }],
    forward: (gpu, { inputs, outputs, attrs }) => {
      const [a, b, out] = [at(inputs, 0), at(inputs, 1), only(outputs)];
      binary(gpu, name, {
        a: a.storage,
        b: b.storage,
        out: out.storage,
        aShape: a.shape,
        bShape: b.shape,
        shape: out.shape,
        param: attrs.param,
        stored: out.stored,
      });
    },
    ...(rule === undefined
      ? {}
      : {
          saves: (inputs: readonly Tensor[]) => inputs,
          backward: ({ grads, saved, attrs }) => {
            const [a, b] = [at(saved, 0), at(saved, 1)];
            const [da, db] = rule({ g: at(grads, 0) as Tensor, a, b, param: attrs.param });
            return [
              () => sumTo(da(), a.shape),
              db === undefined ? undefined : () => sumTo(db(), b.shape),
            ];
          },
        }),
  });
  return (a: Tensor, b: Tensor, param = 0): Tensor => only(op([a, b], { param }));
}

const addOp = binaryOp('add', ({ g }) => [() => g, () => g]);
const subOp = binaryOp('sub', ({ g }) => [() => g, () => neg(g)]);
const mulOp = binaryOp('mul', ({ g, a, b }) => [() => mul(g, b), () => mul(g, a)]);
const divOp = binaryOp('div', ({ g, a, b }) => [
  () => div(g, b),
  // b² would leave f32's range long before the gradient does.
  () => neg(div(mul(g, div(a, b)), b)),
]);
const greaterOp = binaryOp('greater', undefined);
const maximumOp = binaryOp('maximum', ({ g, a, b }) => [
  () => shared(g, greater(a, b), greater(b, a)),
  () => shared(g, greater(b, a), greater(a, b)),
]);
const minimumOp = binaryOp('minimum', ({ g, a, b }) => [
  () => shared(g, greater(b, a), greater(a, b)),
  () => shared(g, greater(a, b), greater(b, a)),
]);
// d/dg (x≤0 ? 0 : g) is itself with the new gradient; x only chooses the branch.
const reluGradOp = binaryOp('reluGrad', ({ g, b }) => [() => reluGrad(g, b), undefined]);
// d/dg (x>0 ? g : s·g) is itself with the new gradient; x only chooses the branch.
const leakyReluGradOp = binaryOp('leakyReluGrad', ({ g, b, param }) => [
  () => leakyReluGrad(g, b, param),
  undefined,
]);
// g·(1−y²): by g the same rule, by y −2·g·y.
const tanhGradOp = binaryOp('tanhGrad', ({ g, a, b }) => [
  () => tanhGrad(g, b),
  () => mul(g, mul(affine(a, -2, 0), b)),
]);
// g·y·(1−y): by g the same rule, by y g·(1−2y).
const sigmoidGradOp = binaryOp('sigmoidGrad', ({ g, a, b }) => [
  () => sigmoidGrad(g, b),
  () => mul(g, mul(a, affine(b, -2, 1))),
]);

/** The whole gradient to who wins, 0 (even of an infinite one) to who loses; ties share it evenly, as in PyTorch. */
function shared(g: Tensor, wins: Tensor, loses: Tensor): Tensor {
  const share = affine(sub(wins, loses), 0.5, 0.5);
  return reluGrad(mul(g, share), share);
}

/** x > 0 ? g : 0, chosen and not multiplied: an infinite g is stopped too. */
function reluGrad(g: Tensor, x: Tensor): Tensor {
  requireSameShape('reluGrad', ['gradient', 'input'], g, x);
  return reluGradOp(g, x);
}
function leakyReluGrad(g: Tensor, x: Tensor, slope: number): Tensor {
  if (slope === 0) return reluGrad(g, x);
  requireSameShape('leakyReluGrad', ['gradient', 'input'], g, x);
  return leakyReluGradOp(g, x, slope);
}
function tanhGrad(g: Tensor, y: Tensor): Tensor {
  return tanhGradOp(g, y);
}
function sigmoidGrad(g: Tensor, y: Tensor): Tensor {
  return sigmoidGradOp(g, y);
}

type Operand = Tensor | number;

/** A number as a tensor of the other operand's element type. */
function lift({ tape, dtype }: Tensor, value: Operand): Tensor {
  if (typeof value !== 'number') return value;
  const out = empty(tape, [1], { dtype, label: 'scalar' });
  fill(tape.gpu, { out: out.storage, n: 1, value, stored: out.stored });
  return out;
}

/** a + b, broadcast. */
export function add(a: Tensor, b: Operand): Tensor {
  return typeof b === 'number' ? affine(a, 1, b) : addOp(a, b);
}
/** a − b, broadcast. */
export function sub(a: Tensor, b: Operand): Tensor {
  return typeof b === 'number' ? affine(a, 1, -b) : subOp(a, b);
}
/** a · b elementwise, broadcast. */
export function mul(a: Tensor, b: Operand): Tensor {
  return typeof b === 'number' ? affine(a, b, 0) : mulOp(a, b);
}
/** a / b elementwise, broadcast. */
export function div(a: Tensor, b: Operand): Tensor {
  return typeof b === 'number' ? affine(a, 1 / b, 0) : divOp(a, b);
}
/** Elementwise maximum, broadcast. */
export function maximum(a: Tensor, b: Operand): Tensor {
  return maximumOp(a, lift(a, b));
}
/** Elementwise minimum, broadcast. */
export function minimum(a: Tensor, b: Operand): Tensor {
  return minimumOp(a, lift(a, b));
}
/** 1 where a > b, else 0; no gradient. */
export function greater(a: Tensor, b: Operand): Tensor {
  return greaterOp(a, lift(a, b));
}
