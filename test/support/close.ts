// The one numeric comparison of the test suite.

export interface CloseBudget {
  readonly abs: number;
  readonly rel?: number;
}

/** Some rows of the report are long; more than this many digits help nobody. */
const show = (x: number) => (Number.isInteger(x) ? String(x) : x.toPrecision(9));

/**
 * Throws unless |actual − reference| ≤ abs + rel·|reference| for every element.
 *
 * NaN is never close, not even to NaN: no result of ours is meant to hold one. An infinity is close only to itself.
 * Lengths must agree. The message names the worst element (one with a non-finite mismatch is worse than any), both values,
 * the error, the budget and how many failed.
 */
export function expectClose(
  actual: ArrayLike<number>,
  reference: ArrayLike<number>,
  budget: CloseBudget,
  what: string,
): void {
  const { abs, rel = 0 } = budget;
  if (!(abs >= 0 && rel >= 0 && Number.isFinite(abs) && Number.isFinite(rel))) {
    throw new Error(`${what}: budget abs ${abs}, rel ${rel} must be finite and not negative`);
  }
  if (actual.length !== reference.length) {
    throw new Error(`${what}: ${actual.length} elements, expected ${reference.length}`);
  }
  if (reference.length === 0) throw new Error(`${what}: nothing to compare (0 elements)`);
  let failed = 0;
  let worst = -1;
  let worstExcess = -Infinity;
  for (let i = 0; i < reference.length; i++) {
    const a = actual[i]!;
    const b = reference[i]!;
    if (a === b) continue;
    const error = Math.abs(a - b);
    const finite = Number.isFinite(a) && Number.isFinite(b);
    const allowed = abs + rel * Math.abs(b);
    if (finite && error <= allowed) continue;
    failed++;
    const excess = finite ? error - allowed : Infinity;
    if (worst < 0 || excess > worstExcess) {
      worst = i;
      worstExcess = excess;
    }
  }
  if (failed === 0) return;
  const a = actual[worst]!;
  const b = reference[worst]!;
  throw new Error(
    `${what}: ${failed} of ${reference.length} elements are off; the worst is [${worst}]: ` +
      `${show(a)}, expected ${show(b)}, error ${Math.abs(a - b).toPrecision(3)} > ` +
      `budget ${(abs + rel * Math.abs(b)).toPrecision(3)}`,
  );
}

/** expectClose for a tensor with a shape: the shapes must be equal too. */
export function expectTensorClose(
  actual: { readonly shape: readonly number[]; readonly data: ArrayLike<number> },
  reference: { readonly shape: readonly number[]; readonly data: ArrayLike<number> },
  budget: CloseBudget,
  what: string,
): void {
  const same =
    actual.shape.length === reference.shape.length &&
    actual.shape.every((d, i) => d === reference.shape[i]);
  if (!same) {
    throw new Error(
      `${what}: shape [${actual.shape.join(', ')}], expected [${reference.shape.join(', ')}]`,
    );
  }
  expectClose(actual.data, reference.data, budget, what);
}
