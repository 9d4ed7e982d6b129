import { at, defineOp, once } from '../autograd/op.ts';
import type { OutputSpec } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import { attentionResidual as residualKernel } from '../kernels/attention.ts';
import { sameShape, showShape } from '../util/shape.ts';
import { attentionSizes, placeOf } from './attention-common.ts';
import type { AttentionOptions } from './attention-common.ts';
import { attentionBackwardOp, attentionPlainly } from './attention.ts';
import type { AttentionAttrs } from './attention.ts';
import { requireOneGamma, residualGradients, residualPlainly } from './residual.ts';

const op = 'attentionResidual';

/**
 * y = gamma·o + x with o = attention(q, k, v), in attention's last pass. The other outputs, o and its log-sum-exp, are for the
 * backward pass, which y alone would not do for where gamma is 0; o is made only if it is `kept` for one.
 */
const attentionResidualOp = defineOp<AttentionAttrs & { readonly kept: boolean }>({
  name: op,
  dtypes: ['float', 'float', 'float', 'f32', 'float'],
  infer: (inputs, { layout, kept }) => {
    const { B, Nq, DV } = attentionSizes(op, inputs, layout);
    const shape = layout === 'channel' ? [B, DV, Nq] : [B, Nq, DV];
    const x = at(inputs, 4);
    if (!sameShape(x.shape, shape)) {
      throw new RangeError(
        `${op}: the shortcut is ${showShape(x.shape)}, what attention gives ${showShape(shape)}; the shapes must agree`,
      );
    }
    requireOneGamma(op, at(inputs, 3));
    const lse: OutputSpec = { shape: [B, Nq], dtype: 'f32' };
    return kept ? [{ shape }, lse, { shape }] : [{ shape }, lse];
  },
  forward: (gpu, { inputs, outputs, attrs }) => {
    const { layout, scale } = attrs;
    residualKernel(gpu, {
      q: at(inputs, 0).storage,
      k: at(inputs, 1).storage,
      v: at(inputs, 2).storage,
      gamma: at(inputs, 3).storage,
      shortcut: at(inputs, 4).storage,
      joined: at(outputs, 0).storage,
      lse: at(outputs, 1).storage,
      out: outputs[2]?.storage,
      ...attentionSizes(op, inputs, layout),
      ...{ layout, scale },
    });
  },
  saves: (inputs, outputs) => [...inputs.slice(0, 3), ...outputs.slice(1), at(inputs, 3)],
  backward: ({ grads, saved, attrs, needs }) => {
    const [q, k, v, lse] = [at(saved, 0), at(saved, 1), at(saved, 2), at(saved, 3)];
    const [o, gamma, dy] = [at(saved, 4), at(saved, 5), at(grads, 0) as Tensor];
    const branch = residualGradients({ o, gamma, dy, learnt: at(needs, 3) });
    const mixed = { ...attrs, needs: needs.slice(0, 3) };
    const all = once(() => attentionBackwardOp([q, k, v, o, lse, branch.o()], mixed));
    const ofMixed = [0, 1, 2].map((i) => () => at(all(), placeOf(needs, i)));
    return [...ofMixed, branch.gamma, () => dy];
  },
  composition: (inputs, attrs) => [
    residualPlainly(attentionPlainly(inputs, attrs), at(inputs, 3), at(inputs, 4)),
  ],
});

/** A shortcut x, of the shape of what attention gives, and the learnt number gamma [1], of f32. */
export interface Shortcut {
  readonly gamma: Tensor;
  readonly x: Tensor;
}

/**
 * `residual(attention(q, k, v, options), gamma, x)`, bit for bit, in one launch where the adapter's kernel can join them.
 * Throws a RangeError for shapes that do not go together.
 */
export function attentionResidual(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { gamma, x, layout = 'channel', scale = 1 }: Shortcut & AttentionOptions,
): Tensor {
  const inputs = [q, k, v, gamma, x];
  const kept = q.tape.recording && inputs.some((t) => t.requiresGrad);
  return at(attentionResidualOp(inputs, { layout, scale, kept }), 0);
}
