import { at, defineOp, once, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import {
  batchNormApply,
  batchNormBackward,
  batchNormRunning,
  batchNormStats,
  invStdOf,
} from '../kernels/norm.ts';
import { dim, showShape } from '../util/shape.ts';
import { add, affine, mul, rsqrt, square, sub } from './pointwise.ts';
import { mean } from './reduce.ts';
import { reshape } from './layout.ts';

interface Sizes {
  readonly N: number;
  readonly C: number;
  /** Positions: H·W, or 1 for a matrix. */
  readonly L: number;
}

interface Attrs {
  readonly eps: number;
  /** Inputs after x: gamma, then beta; both or none. */
  readonly affine: boolean;
}

/**
 * y = gamma·(x − mean)/√(var + eps) + beta with the batch's own mean and biased variance per channel. The other
 * outputs are mean, 1/√(var + eps) and var, for the backward pass and the running statistics.
 *   x̂ = (x − mean)·invStd,   dx = gamma·invStd·(dy − Σdy/n − x̂·Σ(dy·x̂)/n),   dgamma = Σ dy·x̂,   dbeta = Σ dy
 */
const batchNormOp = defineOp<Attrs>({
  name: 'batchNorm',
  infer: (inputs) => {
    const { C } = sizesOf(at(inputs, 0));
    return [{ shape: at(inputs, 0).shape }, { shape: [C] }, { shape: [C] }, { shape: [C] }];
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
    });
    batchNormApply(gpu, {
      x: x.storage,
      ...statistics,
      ...affineOf(inputs, attrs),
      out: at(outputs, 0).storage,
      ...sizes,
    });
  },
  saves: (inputs, outputs) => [at(outputs, 1), at(outputs, 2), ...inputs],
  backward: ({ grads, saved, attrs }) => {
    const all = once(() => batchNormBackwardOp([at(grads, 0) as Tensor, ...saved], attrs));
    return [() => at(all(), 0), () => at(all(), 1), () => at(all(), 2)];
  },
  composition: (inputs, attrs) => {
    const x = at(inputs, 0);
    const { axes, shape } = perChannel(x);
    const centred = sub(x, mean(x, axes, { keepdim: true }));
    const variance = mean(square(centred), axes, { keepdim: true });
    const normal = mul(centred, rsqrt(affine(variance, 1, attrs.eps)));
    if (!attrs.affine) return [normal];
    return [add(mul(normal, reshape(at(inputs, 1), shape)), reshape(at(inputs, 2), shape))];
  },
});

/** Inputs dy, mean, invStd, x, gamma?, beta? → dx, dgamma, dbeta. */
const batchNormBackwardOp = defineOp<Attrs>({
  name: 'batchNormBackward',
  infer: (inputs, attrs) => {
    const { C } = sizesOf(at(inputs, 3));
    const dx = { shape: at(inputs, 3).shape };
    return attrs.affine ? [dx, { shape: [C] }, { shape: [C] }] : [dx];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [dy, average, invStd, x] = [at(inputs, 0), at(inputs, 1), at(inputs, 2), at(inputs, 3)];
    batchNormBackward(gpu, {
      x: x.storage,
      dy: dy.storage,
      mean: average.storage,
      invStd: invStd.storage,
      dx: at(outputs, 0).storage,
      ...(attrs.affine
        ? {
            gamma: at(inputs, 4).storage,
            dgamma: at(outputs, 1).storage,
            dbeta: at(outputs, 2).storage,
          }
        : {}),
      ...sizesOf(x),
    });
  },
});

function affineOf(inputs: readonly Tensor[], attrs: Attrs) {
  return attrs.affine ? { gamma: at(inputs, 1).storage, beta: at(inputs, 2).storage } : {};
}

export interface BatchNormOptions {
  /** Scale and shift, each [C]; both or neither. */
  readonly weight?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
  /** Persistent [C] tensors: updated in place in training, used in evaluation. */
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  readonly training: boolean;
  /** Share of the new value in the running statistics. Default 0.1, as PyTorch. */
  readonly momentum?: number;
  readonly eps?: number;
}

/**
 * torch.nn.functional.batch_norm over every axis but 1; x [N, C, …]. Training normalises by the batch and moves the
 * running statistics (with the unbiased variance); evaluation normalises by them.
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
  if (!training) return evaluate(x, options, eps);
  if (N * L < 2) {
    throw new RangeError(
      `batchNorm: one value a channel in ${showShape(x.shape)}; training needs two or more`,
    );
  }
  const scaled = weight !== undefined && bias !== undefined;
  const inputs = scaled ? [x, weight, bias] : [x];
  const outputs = batchNormOp(inputs, { eps, affine: scaled });
  batchNormRunning(x.gpu, {
    mean: at(outputs, 1).storage,
    variance: at(outputs, 3).storage,
    runningMean: runningMean.storage,
    runningVar: runningVar.storage,
    C,
    momentum: options.momentum ?? 0.1,
    count: N * L,
  });
  return at(outputs, 0);
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
  if (weight === undefined || bias === undefined) return normal;
  return add(mul(normal, reshape(weight, shape)), reshape(bias, shape));
}

function sizesOf(x: Tensor): Sizes {
  if (x.shape.length < 2) {
    throw new RangeError(`batchNorm: input is ${showShape(x.shape)}; it needs axes N and C`);
  }
  const [N, C] = [dim(x.shape, 0), dim(x.shape, 1)];
  return { N, C, L: x.size / (N * C) };
}

function perChannel(x: Tensor) {
  return {
    axes: x.shape.map((_d, i) => i).filter((i) => i !== 1),
    shape: x.shape.map((d, i) => (i === 1 ? d : 1)),
  };
}
