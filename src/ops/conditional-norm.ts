import { to, typeAs } from '../autograd/cast.ts';
import { at, defineOp, once } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { conditionalNormApply, conditionalNormBackward } from '../kernels/conditional-norm.ts';
import { batchNormStats } from '../kernels/norm.ts';
import { sameShape, showShape } from '../util/shape.ts';
import { reshape } from './layout.ts';
import { batchNorm, perChannel, sizesOf } from './norm.ts';
import type { BatchNormOptions } from './norm.ts';
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

interface Attrs {
  readonly eps: number;
  readonly momentum: number;
  readonly activation: Activation | undefined;
}

/**
 * y = act(x̂·gain + bias), x̂ = (x − mean)/√(var + eps) by the channel's statistics over the batch, gain and bias [N, C] by
 * image. The other outputs are mean, 1/√(var + eps) and var; the last two inputs, the running statistics, move.
 *   g = act′·dy,   dgain = Σ g·x̂ and dbias = Σ g over an image's positions,
 *   dx = invStd·(gain·g − mean(gain·g) − x̂·mean(gain·g·x̂)), means over the batch
 */
const conditionalNormOp = defineOp<Attrs>({
  name: 'conditionalBatchNorm',
  dtypes: ['float'],
  infer: (inputs) => {
    const statistic = { shape: [sizesOf(at(inputs, 0)).C], dtype: 'f32' } as const;
    return [{ shape: at(inputs, 0).shape }, statistic, statistic, statistic];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [x, gain, bias, runningMean, runningVar] = inputs.map((t) => t.storage);
    if (!x || !gain || !bias || !runningMean || !runningVar) throw new Error('five inputs');
    const shared = { x, mean: at(outputs, 1).storage, invStd: at(outputs, 2).storage };
    const sizes = sizesOf(at(inputs, 0));
    const { eps, momentum } = attrs;
    const running = { mean: runningMean, variance: runningVar, momentum };
    const variance = at(outputs, 3).storage;
    batchNormStats(gpu, { ...shared, variance, ...sizes, eps, running });
    const activation = fusedActivation(attrs.activation);
    const out = at(outputs, 0).storage;
    conditionalNormApply(gpu, { ...shared, gain, bias, activation, out, ...sizes });
  },
  saves: (inputs, outputs) => [at(outputs, 1), at(outputs, 2), ...inputs.slice(0, 3)],
  backward: ({ grads, saved, attrs, needs }) => {
    const inputs = [at(grads, 0) as Tensor, ...saved];
    const all = once(() => conditionalNormBackwardOp(inputs, { ...attrs, dx: at(needs, 0) }));
    return [() => at(all(), 2), () => at(all(), 0), () => at(all(), 1)];
  },
  composition: (inputs, attrs) => {
    const x = to(at(inputs, 0), 'f32');
    const { axes } = perChannel(x);
    const centred = sub(x, mean(x, axes, { keepdim: true }));
    const variance = mean(square(centred), axes, { keepdim: true });
    const normal = mul(centred, rsqrt(affine(variance, 1, attrs.eps)));
    const y = scaled(normal, at(inputs, 1), at(inputs, 2));
    return [typeAs(activate(y, attrs.activation), at(inputs, 0))];
  },
});

/** Inputs dy, mean, invStd, x, gain, bias → dgain and dbias, then dx where it is needed. */
const conditionalNormBackwardOp = defineOp<Attrs & { readonly dx: boolean }>({
  name: 'conditionalBatchNormBackward',
  dtypes: ['float', 'f32', 'f32', 'float'],
  infer: (inputs, attrs) => {
    const sums = { shape: at(inputs, 4).shape, dtype: 'f32' } as const;
    return attrs.dx ? [sums, sums, { shape: at(inputs, 3).shape }] : [sums, sums];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [dy, average, invStd, x] = [at(inputs, 0), at(inputs, 1), at(inputs, 2), at(inputs, 3)];
    conditionalNormBackward(gpu, {
      ...{ x: x.storage, dy: dy.storage, mean: average.storage, invStd: invStd.storage },
      ...{ gain: at(inputs, 4).storage, bias: at(inputs, 5).storage },
      ...{ dgain: at(outputs, 0).storage, dbias: at(outputs, 1).storage },
      dx: outputs[2]?.storage,
      activation: fusedActivation(attrs.activation),
      ...sizesOf(x),
    });
  },
});

export interface ConditionalBatchNormOptions extends Omit<BatchNormOptions, 'weight' | 'bias'> {
  /** Scale and shift of each image, [N, C] of f32. */
  readonly gain: Tensor;
  readonly bias: Tensor;
}

/**
 * `batchNorm` with a scale and a shift for every image: x [N, C, …] of f32 or f16, the rest f32. The statistics are those of
 * the whole batch. Throws a RangeError where gain or bias does not fit x, and as batchNorm does.
 */
export function conditionalBatchNorm(x: Tensor, options: ConditionalBatchNormOptions): Tensor {
  const { gain, bias, runningMean, runningVar, training, momentum = 0.1, eps = 1e-5 } = options;
  const { N, C, L } = sizesOf(x);
  for (const [role, t] of Object.entries({ gain, bias })) {
    if (!sameShape(t.shape, [N, C])) {
      throw new RangeError(
        `conditionalBatchNorm: ${role} is ${showShape(t.shape)}; it must be ${showShape([N, C])}, a number for each channel of each image`,
      );
    }
  }
  const { activation } = options;
  if (!training || N * L < 2 || runningMean.size !== C || runningVar.size !== C) {
    // Evaluation, or what batchNorm refuses.
    const state = { runningMean, runningVar, training, momentum, eps };
    const y = scaled(batchNorm(to(x, 'f32'), state), gain, bias);
    return typeAs(activate(y, activation), x);
  }
  const inputs = [x, gain, bias, runningMean, runningVar];
  return activatedBy(activation, (fused) =>
    at(conditionalNormOp(inputs, { eps, momentum, activation: fused }), 0),
  );
}

/** x̂·gain + bias, a number a channel of an image. */
function scaled(normal: Tensor, gain: Tensor, bias: Tensor): Tensor {
  const shape = normal.shape.map((d, i) => (i < 2 ? d : 1));
  return add(mul(normal, reshape(gain, shape)), reshape(bias, shape));
}
