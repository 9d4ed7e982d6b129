import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once, only } from '../autograd/op.ts';
import { empty } from '../autograd/tensor.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { batchNormApply, batchNormBackward, batchNormStats, invStdOf } from '../kernels/norm.ts';
import { fill } from '../kernels/pointwise.ts';
import { dim, sameShape, showShape } from '../util/shape.ts';
import type { Shape } from '../util/shape.ts';
import {
  activate,
  activatedBy,
  add,
  affine,
  fusedActivation,
  mul,
  rsqrt,
  square,
  sub,
} from './pointwise.ts';
import type { Activation } from './pointwise.ts';
import { mean } from './reduce.ts';
import { reshape } from './layout.ts';

interface Sizes {
  readonly N: number;
  readonly C: number;
  /** Positions: H·W, or 1 for a matrix. */
  readonly L: number;
  /** What x is made of. */
  readonly stored: Tensor['stored'];
}

interface Attrs {
  readonly eps: number;
  /** Inputs after x: gamma, then beta; both or none. */
  readonly affine: boolean;
  readonly activation: Activation | undefined;
}

interface TrainingAttrs extends Attrs {
  readonly momentum: number;
}

/**
 * y = act(gamma·(x − mean)/√(var + eps) + beta) with the batch's own mean and biased variance per channel. The other
 * outputs are mean, 1/√(var + eps) and var, for the backward pass; the last two inputs, the running statistics, move. Only x
 * and y may be f16.
 *   x̂ = (x − mean)·invStd,   g = act′·dy,   dx = gamma·invStd·(g − Σg/n − x̂·Σ(g·x̂)/n),   dgamma = Σ g·x̂,   dbeta = Σ g
 */
const batchNormOp = defineOp<TrainingAttrs>({
  name: 'batchNorm',
  dtypes: ['float'],
  infer: (inputs) => {
    const { C } = sizesOf(at(inputs, 0));
    const statistic = { shape: [C], dtype: 'f32' } as const;
    return [{ shape: at(inputs, 0).shape }, statistic, statistic, statistic];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const x = at(inputs, 0);
    const sizes = sizesOf(x);
    const statistics = { mean: at(outputs, 1).storage, invStd: at(outputs, 2).storage };
    batchNormStats(gpu, {
      x: x.storage,
      ...statistics,
      variance: at(outputs, 3).storage,
      ...sizes,
      eps: attrs.eps,
      running: {
        mean: at(inputs, inputs.length - 2).storage,
        variance: at(inputs, inputs.length - 1).storage,
        momentum: attrs.momentum,
      },
    });
    batchNormApply(gpu, {
      x: x.storage,
      ...statistics,
      ...affineOf(inputs, attrs),
      activation: fusedActivation(attrs.activation),
      out: at(outputs, 0).storage,
      ...sizes,
    });
  },
  saves: (inputs, outputs) => [at(outputs, 1), at(outputs, 2), ...inputs.slice(0, -2)],
  backward: ({ grads, saved, attrs, needs }) => {
    const inputs = [at(grads, 0) as Tensor, ...saved];
    const all = once(() => batchNormBackwardOp(inputs, { ...attrs, dx: at(needs, 0) }));
    return [() => only(all().slice(-1)), () => at(all(), 0), () => at(all(), 1)];
  },
  composition: (inputs, attrs) => {
    const x = to(at(inputs, 0), 'f32');
    const { axes, shape } = perChannel(x);
    const centred = sub(x, mean(x, axes, { keepdim: true }));
    const variance = mean(square(centred), axes, { keepdim: true });
    const normal = mul(centred, rsqrt(affine(variance, 1, attrs.eps)));
    const y = attrs.affine
      ? add(mul(normal, reshape(at(inputs, 1), shape)), reshape(at(inputs, 2), shape))
      : normal;
    return [typeAs(activate(y, attrs.activation), at(inputs, 0))];
  },
});

/** Inputs dy, mean, invStd, x, gamma?, beta? → dgamma and dbeta, then dx where it is needed. */
const batchNormBackwardOp = defineOp<Attrs & { readonly dx: boolean }>({
  name: 'batchNormBackward',
  dtypes: ['float', 'f32', 'f32', 'float'],
  infer: (inputs, attrs) => {
    const { C } = sizesOf(at(inputs, 3));
    const sum = { shape: [C], dtype: 'f32' } as const;
    const affine = attrs.affine ? [sum, sum] : [];
    return attrs.dx ? [...affine, { shape: at(inputs, 3).shape }] : affine;
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [dy, average, invStd, x] = [at(inputs, 0), at(inputs, 1), at(inputs, 2), at(inputs, 3)];
    batchNormBackward(gpu, {
      x: x.storage,
      dy: dy.storage,
      mean: average.storage,
      invStd: invStd.storage,
      ...(attrs.dx ? { dx: only(outputs.slice(-1)).storage } : {}),
      ...(attrs.affine
        ? {
            gamma: at(inputs, 4).storage,
            beta: at(inputs, 5).storage,
            dgamma: at(outputs, 0).storage,
            dbeta: at(outputs, 1).storage,
          }
        : {}),
      activation: fusedActivation(attrs.activation),
      ...sizesOf(x),
    });
  },
});

function affineOf(inputs: readonly Tensor[], attrs: Attrs) {
  return attrs.affine ? { gamma: at(inputs, 1).storage, beta: at(inputs, 2).storage } : {};
}

export interface BatchNormOptions {
  /** Scale, [C]. Default 1. */
  readonly weight?: Tensor | undefined;
  /** Shift, [C]. Default 0. */
  readonly bias?: Tensor | undefined;
  /** Persistent [C] tensors: updated in place in training, used in evaluation. */
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  readonly training: boolean;
  /** Share of the new value in the running statistics. Default 0.1, as PyTorch. */
  readonly momentum?: number;
  readonly eps?: number;
  /** Applied to the result, in training in the same launch. Default: none. */
  readonly activation?: Activation | undefined;
}

/**
 * torch.nn.functional.batch_norm (and an activation) over every axis but 1; x [N, C, …] of f32 or f16, the rest f32. Training normalises by the batch and moves the
 * running statistics (with the unbiased variance); evaluation normalises by them. Throws a RangeError where a [C] tensor
 * does not fit x, or where one value a channel is to be trained on.
 */
export function batchNorm(x: Tensor, options: BatchNormOptions): Tensor {
  const { weight, bias, runningMean, runningVar, training } = options;
  const eps = options.eps ?? 1e-5;
  const { N, C, L } = sizesOf(x);
  if (runningMean.size !== C) {
    throw new RangeError(
      `batchNorm: input is ${showShape(x.shape)} with ${C} channels, the layer has ${runningMean.size}`,
    );
  }
  for (const [role, t] of Object.entries({ weight, bias, runningVar })) {
    if (t !== undefined && !sameShape(t.shape, [C])) {
      throw new RangeError(
        `batchNorm: ${role} is ${showShape(t.shape)}; it must be [${C}], one number a channel`,
      );
    }
  }
  if (!training)
    return typeAs(activate(evaluate(to(x, 'f32'), options, eps), options.activation), x);
  if (N * L < 2) {
    throw new RangeError(
      `batchNorm: one value a channel in ${showShape(x.shape)}; training needs two or more`,
    );
  }
  const scaled = weight !== undefined || bias !== undefined;
  const inputs = scaled ? [x, weight ?? filled(x, [C], 1), bias ?? filled(x, [C], 0)] : [x];
  const { momentum = 0.1, activation } = options;
  const attrs = { eps, affine: scaled, momentum };
  return activatedBy(activation, (fused) =>
    at(batchNormOp([...inputs, runningMean, runningVar], { ...attrs, activation: fused }), 0),
  );
}

const invStdOp = defineOp<{ eps: number }>({
  name: 'invStd',
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const variance = at(inputs, 0);
    invStdOf(gpu, {
      variance: variance.storage,
      invStd: only(outputs).storage,
      C: variance.size,
      eps: attrs.eps,
    });
  },
});

/** y = gamma·(x − runningMean)·invStd + beta: affine in x, so plain ops carry its gradients. */
function evaluate(
  x: Tensor,
  { weight, bias, runningMean, runningVar }: BatchNormOptions,
  eps: number,
) {
  const { shape } = perChannel(x);
  const invStd = only(invStdOp([runningVar], { eps }));
  const normal = mul(sub(x, reshape(runningMean, shape)), reshape(invStd, shape));
  const scaled = weight === undefined ? normal : mul(normal, reshape(weight, shape));
  return bias === undefined ? scaled : add(scaled, reshape(bias, shape));
}

/** The scale or shift that was left out where the other was given. */
function filled(x: Tensor, shape: Shape, value: number): Tensor {
  const out = empty(x.tape, shape, { label: 'batchNorm default' });
  fill(x.gpu, { out: out.storage, n: out.size, value });
  return out;
}

/** Images, channels and positions of [N, C, …]. Throws a RangeError for fewer axes. */
export function sizesOf(x: Tensor): Sizes {
  if (x.shape.length < 2) {
    throw new RangeError(`batchNorm: input is ${showShape(x.shape)}; it needs axes N and C`);
  }
  const [N, C] = [dim(x.shape, 0), dim(x.shape, 1)];
  return { N, C, L: x.size / (N * C), stored: x.stored };
}

/** The axes of a channel's statistics, and the shape of a number a channel. */
export function perChannel(x: Tensor) {
  return {
    axes: x.shape.map((_d, i) => i).filter((i) => i !== 1),
    shape: x.shape.map((d, i) => (i === 1 ? d : 1)),
  };
}
