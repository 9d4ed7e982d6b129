// Second derivatives: d Σ|first gradients|² by every input and by the upstream gradient, as double_backward's golden file
// defines them, on a device and in float64 by central differences of reference gradients.
import { grad } from '../../src/autograd/tape.ts';
import type { Tensor } from '../../src/autograd/tensor.ts';
import { add, square } from '../../src/ops/pointwise.ts';
import { sum } from '../../src/ops/reduce.ts';
import { type Budget, type Data, maxAbs } from '../reference/naive.ts';
import { centralDifference } from './gradient.ts';
import type { Named } from './ops.ts';

export interface SecondOrder {
  readonly y: Tensor;
  /** By input. */
  readonly first: readonly Tensor[];
  /** By input, then by dy. */
  readonly second: readonly Tensor[];
}

/** Value, gradients of Σ y·dy, and gradients of their squared length. */
export function secondOrder(f: () => Tensor, inputs: readonly Tensor[], dy: Tensor): SecondOrder {
  const y = f();
  const first = grad([y], inputs, { gradOutputs: [dy], createGraph: true });
  const energy = first.map((g) => sum(square(g))).reduce((a, b) => add(a, b));
  return { y, first, second: grad([energy], [...inputs, dy], { allowUnused: true }) };
}

const squares = (x: Data) => Array.from(x).reduce((s, a) => s + a * a, 0);

/**
 * The same by central differences of a reference's gradients, over `inputs` and then `dy`. `noise` is what cancellation
 * leaves of the differences.
 */
export function secondReference(
  gradients: (inputs: Named, dy: Data) => Readonly<Record<string, Data>>,
  inputs: Named,
  dy: Float64Array,
): { second: Float64Array[]; noise: number } {
  const names = Object.keys(inputs);
  const energy = (...xs: Float64Array[]) => {
    const t = Object.fromEntries(names.map((name, i) => [name, xs[i]!]));
    return Object.values(gradients(t, xs.at(-1)!)).reduce((s, g) => s + squares(g), 0);
  };
  const point = [...Object.values(inputs), dy];
  const second = point.map((_x, which) => centralDifference(energy, point, which));
  return { second, noise: (4 * 2 ** -53 * energy(...point)) / 1e-5 };
}

/**
 * What a float32 program may be off by. A second derivative is a sum of at most `terms` products along each of the chain's
 * `passes` (forward, backward, and back through both): each pass adds the loop's γ = terms·2⁻²⁴ (Higham 2002, §3.1) of the
 * terms, and these are as large as the largest second derivative of the case.
 */
export function secondBudget(
  all: readonly Data[],
  options: { terms: number; allowance?: number; noise?: number },
): Budget {
  const { terms, allowance = 0, noise = 0 } = options;
  const passes = 4;
  const scale = all.reduce((m, x) => Math.max(m, maxAbs(x)), 0);
  return { abs: scale * (passes * terms * 2 ** -24 + allowance) + noise + 2 ** -126 };
}
