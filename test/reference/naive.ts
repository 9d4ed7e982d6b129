// Precision and tolerance. Every reference takes a rounding `r` that is applied after each multiply, add,
// divide and function call: `f64` (identity) makes the oracle, `f32` (Math.fround) makes the naive float32
// loop. The distance between the two is what a plain float32 program loses on this very input, and the
// tolerance of a kernel is derived from it.
//
// The naive run says something only when the inputs are themselves float32 values; see `toF32`.

export type Round = (x: number) => number;
export type Data = ArrayLike<number>;

export const f64: Round = (x) => x;
export const f32: Round = Math.fround;

/** One number for `expectClose`: `|actual − reference| ≤ abs + rel·|reference|`. */
export interface Budget {
  readonly abs: number;
  readonly rel?: number;
}

/** The same values after a trip through float32, so that oracle, naive loop and kernel read equal inputs. */
export function toF32(x: Data): Float64Array {
  return Float64Array.from(Float32Array.from(x));
}

/** Largest |x| over the finite elements; 0 for none. */
export function maxAbs(x: Data): number {
  let m = 0;
  for (let i = 0; i < x.length; i++) {
    const a = Math.abs(x[i]!);
    if (Number.isFinite(a) && a > m) m = a;
  }
  return m;
}

/** Distance from float32 `|x|` to the next larger float32: 2^(⌊log₂|x|⌋ − 23), and 2⁻¹⁴⁹ under the normal range. */
export function ulp(x: number): number {
  const a = Math.abs(x);
  if (!(a >= 2 ** -126)) return 2 ** -149;
  let e = Math.floor(Math.log2(a));
  if (2 ** e > a) e--; // log2 rounds up just under a power of two
  if (2 ** (e + 1) <= a) e++;
  return 2 ** (e - 23);
}

export interface BudgetOptions {
  /** Floor, in ulp of `scale`. A tree sum and a fused multiply-add differ from the loop by this much when the loop was lucky. */
  readonly ulps?: number;
  /** Magnitude of the terms, where they cancel and are larger than the result (default: max |ref|). */
  readonly scale?: number;
  /** Absolute error that WGSL grants beyond correct rounding, of `expAllowance` and its siblings. */
  readonly allowance?: number;
}

/**
 * Absolute tolerance of a float32 kernel from `ref` (this family's loop under `f64`) and `naive` (the same loop
 * under `f32`): 2 × max|naive − ref| + 4 ulp(max|ref|) + allowance.
 *
 * The factor 2: a kernel adds the same terms in another order, so its error is another draw from the naive loop's
 * distribution; blocked and tree orders draw from a narrower one (Higham 2002, §4.2: γ_{log n} for γ_n). The maximum over
 * the tensor rather than each element's own error: a single element's error may be 0 by luck. The floor covers tensors so
 * small that the whole maximum is luck, and flushed subnormals.
 *
 * Throws where oracle and naive loop disagree about NaN or infinity: then float32 cannot hold the case, and a tolerance
 * would hide it.
 */
export function budget(ref: Data, naive: Data, options: BudgetOptions = {}): Budget {
  const { ulps = 4, scale = maxAbs(ref), allowance = 0 } = options;
  if (ref.length !== naive.length) {
    throw new Error(`budget: reference has ${ref.length} elements, naive run ${naive.length}`);
  }
  let worst = 0;
  for (let i = 0; i < ref.length; i++) {
    const a = ref[i]!;
    const b = naive[i]!;
    if (Object.is(a, b)) continue;
    if (!Number.isFinite(a) || !Number.isFinite(b)) {
      if (a === b) continue;
      throw new Error(`budget: element ${i} is ${a} in float64 but ${b} in float32`);
    }
    worst = Math.max(worst, Math.abs(a - b));
  }
  return { abs: 2 * worst + ulps * ulp(scale) + 2 ** -126 + allowance };
}

// What WGSL grants its built-ins in float32 (WGSL specification, "Floating point accuracy"), as absolute errors.

/** exp: (3 + 2|x|) ulp of the value. Pass the largest |x| among terms that matter and the largest value. */
export function expAllowance(maxAbsArgument: number, maxValue = 1): number {
  return (3 + 2 * maxAbsArgument) * ulp(maxValue);
}

/** log: 2⁻²¹ for x in [½, 2], 3 ulp of the value elsewhere. */
export function logAllowance(maxAbsValue: number): number {
  return Math.max(2 ** -21, 3 * ulp(maxAbsValue));
}

/** Division: 2.5 ulp of the quotient. */
export function divideAllowance(maxAbsValue: number): number {
  return 2.5 * ulp(maxAbsValue);
}

/** sqrt: 1 / inverseSqrt(x), that is 2 ulp and then 2.5. inverseSqrt alone: 2 ulp, inside this bound. */
export function sqrtAllowance(maxAbsValue: number): number {
  return 4.5 * ulp(maxAbsValue);
}

/**
 * tanh: 10⁻⁵ absolutely, or what sinh(x) / cosh(x) would lose. Drivers are far better; the reference cannot
 * know that.
 */
export const tanhAllowance = 1e-5;

/**
 * Softmax weights of `cols` logits, whatever their size. With d = max − x ≥ 0 a numerator e^−d is off by
 * (3 + 2d)·e^−d ≤ 3 ulp(1). The denominator is off by Σ w·(3 + 2d) of itself, and Σ w·d ≤ ln cols because the entropy
 * ln l + Σ w·d is at most ln cols. The division adds 2.5.
 */
export function softmaxAllowance(cols: number): number {
  return (3 + 3 + 2 * Math.log(cols) + 2.5) * ulp(1);
}

/** What a result may differ by once it is stored as f16: WGSL lets a conversion round either way. */
export function storedAsHalf({ abs, rel = 0 }: Budget): Budget {
  return { abs: abs + 2 ** -24, rel: rel + 2 ** -10 };
}
