// Central differences in float64.
import { expectClose } from './close.ts';
import { randomData } from './random.ts';

export interface GradientCheck {
  readonly inputs: readonly Float64Array[];
  readonly f: (...inputs: Float64Array[]) => Float64Array;
  /** One gradient an input, of Σ f·dy. */
  readonly backward: (dy: Float64Array, ...inputs: Float64Array[]) => readonly ArrayLike<number>[];
  readonly eps?: number;
}

/** d/dx of a scalar function of several tensors, for input `which`, element by element. */
export function centralDifference(
  scalar: (...inputs: Float64Array[]) => number,
  inputs: readonly Float64Array[],
  which: number,
  eps = 1e-5,
): Float64Array {
  const work = inputs.map((x) => x.slice());
  const x = work[which]!;
  return x.map((value, i) => {
    x[i] = value + eps;
    const up = scalar(...work);
    x[i] = value - eps;
    const down = scalar(...work);
    x[i] = value;
    return (up - down) / (2 * eps);
  });
}

/**
 * Compares `backward` with central differences of Σ f·dy for a random dy. Truncation is eps²/6 of the third derivative
 * (2·10⁻¹¹ of order-1 functions), cancellation is 2⁻⁵³·Σ|f·dy| / eps; the tolerance is 10⁻⁹ of the largest gradient plus
 * four times the cancellation. A gradient wrong in one term in a million fails.
 */
export function checkGradient(what: string, check: GradientCheck): void {
  const { inputs, f, backward, eps = 1e-5 } = check;
  const y = f(...inputs);
  const dy = randomData(y.length, 4321);
  const grads = backward(dy, ...inputs);
  if (grads.length !== inputs.length) throw new Error(`${what}: ${grads.length} gradients`);
  const scalar = (...xs: Float64Array[]) => f(...xs).reduce((s, a, i) => s + a * dy[i]!, 0);
  const terms = y.reduce((s, a, i) => s + Math.abs(a * dy[i]!), 0);
  grads.forEach((grad, which) => {
    const expected = centralDifference(scalar, inputs, which, eps);
    const largest = expected.reduce((m, g) => Math.max(m, Math.abs(g)), 0);
    const abs = 1e-9 * (1 + largest) + (4 * 2 ** -53 * terms) / eps;
    expectClose(grad, expected, { abs }, `${what}, gradient ${which}`);
  });
}
