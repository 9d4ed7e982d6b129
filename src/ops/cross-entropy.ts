import { at, defineOp, only } from '../autograd/op.ts';
import type { Tensor } from '../autograd/tensor.ts';
import * as kernels from '../kernels/cross-entropy.ts';
import { dim, showShape } from '../util/shape.ts';
import { exp, log, mul, sub } from './pointwise.ts';
import { amax, sum } from './reduce.ts';

interface Attrs {
  readonly ignore: number;
  readonly smoothing: number;
}

const sizesOf = ({ shape }: Tensor) => ({ rows: dim(shape, 0), classes: dim(shape, 1) });

/**
 * L = mean over the rows that count of Σ_c w_c·(ln Σ e^x − x_c),  w = (1 − smoothing)·[c is the label] + smoothing/classes.
 * The other outputs are ln Σ e^x of each row and one over the number of rows that count.
 *   dx = dL·(softmax(x) − w)/rows that count
 */
const crossEntropyOp = defineOp<Attrs>({
  name: 'crossEntropy',
  dtypes: ['f32', 'u32'],
  infer: (inputs) => [{ shape: [] }, { shape: [dim(at(inputs, 0).shape, 0)] }, { shape: [] }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [logits, labels] = [at(inputs, 0), at(inputs, 1)];
    kernels.crossEntropy(gpu, {
      logits: logits.storage,
      labels: labels.storage,
      out: at(outputs, 0).storage,
      lse: at(outputs, 1).storage,
      share: at(outputs, 2).storage,
      ...sizesOf(logits),
      ...attrs,
    });
  },
  saves: (inputs, outputs) => [...inputs, at(outputs, 1), at(outputs, 2)],
  backward: ({ grads, saved, attrs }) => [
    () => only(gradOp([...saved, at(grads, 0) as Tensor], attrs)),
    undefined,
  ],
  composition: (inputs, attrs) => {
    const [x, labels] = [at(inputs, 0), at(inputs, 1)];
    const share = at(crossEntropyOp([x.detach(), labels], attrs), 2);
    const wanted = only(wantedOp([labels, share], { ...attrs, classes: dim(x.shape, 1) }));
    // The maximum only shifts the exponent: it has no gradient of its own.
    const shifted = sub(x, amax(x, [-1], { keepdim: true }).detach());
    const lse = log(sum(exp(shifted), [-1], { keepdim: true }));
    return [sum(mul(wanted, sub(lse, shifted)))];
  },
});

/** logits, labels, lse, share, dL → dlogits. */
const gradOp = defineOp<Attrs>({
  name: 'crossEntropyBackward',
  dtypes: ['f32', 'u32'],
  infer: (inputs) => [{ shape: at(inputs, 0).shape }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const logits = at(inputs, 0);
    kernels.crossEntropyBackward(gpu, {
      logits: logits.storage,
      labels: at(inputs, 1).storage,
      lse: at(inputs, 2).storage,
      share: at(inputs, 3).storage,
      dy: at(inputs, 4).storage,
      dx: only(outputs).storage,
      ...sizesOf(logits),
      ...attrs,
    });
  },
});

/** labels, share → w·share [rows, classes]: what the softmax is to be. No gradient flows. */
const wantedOp = defineOp<Attrs & { readonly classes: number }>({
  name: 'crossEntropyWanted',
  dtypes: ['u32', 'f32'],
  infer: (inputs, { classes }) => [{ shape: [at(inputs, 0).size, classes], dtype: 'f32' }],
  forward: (gpu, { inputs, outputs, attrs }) => {
    const [labels, share] = [at(inputs, 0), at(inputs, 1)];
    const args = { labels: labels.storage, share: share.storage, out: only(outputs).storage };
    kernels.wantedOf(gpu, { ...args, rows: labels.size, ...attrs });
  },
});

export interface CrossEntropyOptions {
  /** Share of the target that goes to all classes alike, from 0 to 1. Default 0. */
  readonly labelSmoothing?: number;
  /** Rows with this label have no part in the loss. Default: none. */
  readonly ignoreIndex?: number;
}

/**
 * torch.nn.functional.cross_entropy: logits [rows, classes] (f32) and labels [rows] (u32) → the mean, a tensor of one
 * element, over the rows that are not ignored. Nobody looks at the labels on the host: a row whose label is no class is left
 * out, where PyTorch throws; and where no row is left the loss and its gradients are 0, where PyTorch has NaN. Throws a
 * RangeError for other shapes, or a smoothing outside 0 to 1.
 */
export function crossEntropy(
  logits: Tensor,
  labels: Tensor,
  { labelSmoothing = 0, ignoreIndex = kernels.none }: CrossEntropyOptions = {},
): Tensor {
  const rows = logits.shape[0];
  if (logits.shape.length !== 2 || labels.shape.length !== 1 || labels.shape[0] !== rows) {
    throw new RangeError(
      `crossEntropy: logits are ${showShape(logits.shape)} and labels ${showShape(labels.shape)}; [rows, classes] and [rows] are needed`,
    );
  }
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) {
    throw new RangeError(`crossEntropy: labelSmoothing is ${labelSmoothing}; it must be 0 to 1`);
  }
  return at(
    crossEntropyOp([logits, labels], { ignore: ignoreIndex, smoothing: labelSmoothing }),
    0,
  );
}
