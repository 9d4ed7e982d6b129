// sum, mean, max over any set of axes of x (torch.sum, torch.mean, torch.amax). No axes given: all of them. The result
// keeps the reduced axes with size 1, so that its flat order is also that of the squeezed result.
import { type Data, type Round } from './naive.ts';
import { numel, ravel, type Shape, unravel } from './shape.ts';

export interface Reduce {
  readonly x: Data;
  readonly shape: Shape;
  readonly axes?: readonly number[];
}

export type ReduceName = 'sum' | 'mean' | 'max';

export function reducedShape(shape: Shape, axes: readonly number[] = shape.map((_, i) => i)) {
  return shape.map((d, axis) => (axes.includes(axis) ? 1 : d));
}

/** Flat position in the result for each flat position in x. */
function targets({ shape, axes }: Reduce): number[] {
  const out = reducedShape(shape, axes);
  return Array.from({ length: numel(shape) }, (_, i) =>
    ravel(
      unravel(i, shape).map((v, axis) => (out[axis] === 1 ? 0 : v)),
      out,
    ),
  );
}

export function reduce(name: ReduceName, o: Reduce, r: Round): Float64Array {
  const size = numel(reducedShape(o.shape, o.axes));
  const y = new Float64Array(size).fill(name === 'max' ? -Infinity : 0);
  targets(o).forEach((j, i) => {
    y[j] = name === 'max' ? Math.max(y[j]!, o.x[i]!) : r(y[j]! + o.x[i]!);
  });
  const count = o.x.length / size;
  return name === 'mean' ? y.map((a) => r(a / count)) : y;
}

/** max: equal maxima share the gradient evenly, as torch.amax. */
export function reduceBackward(
  name: ReduceName,
  o: Reduce,
  dy: Data,
  r: Round,
): { dx: Float64Array } {
  const at = targets(o);
  const y = reduce(name, o, r);
  const count = o.x.length / y.length;
  const ties = new Float64Array(y.length);
  if (name === 'max') at.forEach((j, i) => (ties[j]! += o.x[i] === y[j] ? 1 : 0));
  const dx = new Float64Array(o.x.length);
  at.forEach((j, i) => {
    if (name === 'sum') dx[i] = dy[j]!;
    else if (name === 'mean') dx[i] = r(dy[j]! / count);
    else dx[i] = o.x[i] === y[j] ? r(dy[j]! / ties[j]!) : 0;
  });
  return { dx };
}
