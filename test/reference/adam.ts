// One optimiser step on one tensor, as torch.optim.Adam and torch.optim.SGD, and the moving average of weights. State goes
// in and comes out; nothing is changed in place. `step` counts from 1.
import { type Data, type Round } from './naive.ts';

export interface Adam {
  readonly p: Data;
  readonly g: Data;
  readonly m: Data;
  readonly v: Data;
  readonly step: number;
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  /** Default 1e-8. */
  readonly eps?: number;
  /** L2, added to the gradient (Adam, not AdamW). Default 0. */
  readonly weightDecay?: number;
}

/**
 * g ← g + λp;  m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;
 * p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps).
 * The scalars of the step (corrections, step size) are made in float64 and rounded once, as a host would.
 */
export function adam(o: Adam, r: Round): { p: Float64Array; m: Float64Array; v: Float64Array } {
  const { step, lr, beta1, beta2, eps = 1e-8, weightDecay = 0 } = o;
  const stepSize = r(lr / (1 - beta1 ** step));
  const rootCorrection = r(Math.sqrt(1 - beta2 ** step));
  const p = Float64Array.from(o.p);
  const m = Float64Array.from(o.m);
  const v = Float64Array.from(o.v);
  for (let i = 0; i < p.length; i++) {
    let g = o.g[i]!;
    if (weightDecay !== 0) g = r(g + r(r(weightDecay) * p[i]!));
    m[i] = r(r(r(beta1) * m[i]!) + r(r(1 - beta1) * g));
    v[i] = r(r(r(beta2) * v[i]!) + r(r(1 - beta2) * r(g * g)));
    const denominator = r(r(r(Math.sqrt(v[i]!)) / rootCorrection) + r(eps));
    p[i] = r(p[i]! - r(stepSize * r(m[i]! / denominator)));
  }
  return { p, m, v };
}

export interface Sgd {
  readonly p: Data;
  readonly g: Data;
  /** Momentum buffer; absent before the first step, which then takes the gradient itself, undamped. */
  readonly buffer?: Data;
  readonly lr: number;
  readonly momentum?: number;
  readonly dampening?: number;
  readonly nesterov?: boolean;
  readonly weightDecay?: number;
}

/** g ← g + λp;  b ← μb + (1 − dampening)g;  p ← p − lr·(nesterov ? g + μb : b). Without momentum: p ← p − lr·g. */
export function sgd(o: Sgd, r: Round): { p: Float64Array; buffer: Float64Array } {
  const { lr, momentum = 0, dampening = 0, nesterov = false, weightDecay = 0 } = o;
  const p = Float64Array.from(o.p);
  const buffer = new Float64Array(p.length);
  for (let i = 0; i < p.length; i++) {
    let g = o.g[i]!;
    if (weightDecay !== 0) g = r(g + r(r(weightDecay) * p[i]!));
    if (momentum !== 0) {
      buffer[i] = o.buffer ? r(r(r(momentum) * o.buffer[i]!) + r(r(1 - dampening) * g)) : g;
      g = nesterov ? r(g + r(r(momentum) * buffer[i]!)) : buffer[i]!;
    }
    p[i] = r(p[i]! - r(r(lr) * g));
  }
  return { p, buffer };
}

/** average ← decay·average + (1 − decay)·p */
export function ema(
  { average, p, decay }: { readonly average: Data; readonly p: Data; readonly decay: number },
  r: Round,
): Float64Array {
  return Float64Array.from(average, (a, i) => r(r(r(decay) * a) + r(r(1 - decay) * p[i]!)));
}
