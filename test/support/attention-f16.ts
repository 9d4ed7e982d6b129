// Attention on operands of f16: inputs that it holds exactly, what the float64 loops make of them, and what a kernel may
// differ by that rounds P and dS to f16 as well.
import type { AttentionDims, AttentionLayout } from '../../src/kernels/attention-common.ts';
import { attention as reference, attentionBackward } from '../reference/attention.ts';
import {
  budget,
  expAllowance,
  f32,
  f64,
  logAllowance,
  maxAbs,
  softmaxAllowance,
} from '../reference/naive.ts';
import type { Budget } from '../reference/naive.ts';
import type { Sizes } from './attention.ts';
import { randomHalves, storedAsHalf } from './half.ts';

/** WGSL lets a conversion to f16 round either way. */
const half = 2 ** -10;
export const names = ['out', 'lse', 'dq', 'dk', 'dv'] as const;
export type Name = (typeof names)[number];

export function setUpHalves(
  [B, Nq, Nk, DK, DV]: Sizes,
  layout: AttentionLayout,
  { stored }: Pick<AttentionDims, 'stored'> = {},
) {
  const scale = 1 / Math.sqrt(DK);
  const dims: AttentionDims = { B, Nq, Nk, DK, DV, layout, scale, precision: 'f16', stored };
  const [q, k] = [randomHalves(B * Nq * DK, 1), randomHalves(B * Nk * DK, 2)];
  const [v, dOut] = [randomHalves(B * Nk * DV, 3), randomHalves(B * Nq * DV, 4)];
  const input = { q, k, v, ...dims, channelMajor: layout === 'channel' };
  const run = (r: typeof f64) => {
    const { o, lse } = reference(input, r);
    return { out: o, lse, ...attentionBackward(input, dOut, r) };
  };
  const [expected, naive] = [run(f64), run(f32)];
  // What exp and lse may be off by, of a weight, and what a weight loses as f16.
  const spread = 2 * scale * DK * maxAbs(q) * maxAbs(k) + Math.log(Nk);
  const lse = softmaxAllowance(Nk) + logAllowance(Math.log(Nk));
  const weight = expAllowance(spread) + 2 * lse + half;
  const outAllowance = weight * maxAbs(v);
  // The most that a column of P sums to, and that dP comes to: dv of ones, and dOut·v pair by pair.
  const ones = new Float64Array(dOut.length).fill(1);
  const column = maxAbs(attentionBackward(input, ones, f64).dv);
  const dP = largestDot({ B, Nq, Nk, DV, layout }, dOut, v);
  // delta is made from an `out` that is off by its own budget, and by its rounding where it is stored as f16.
  const delta = DV * maxAbs(dOut) * (outAllowance + (stored === 'f16' ? half * maxAbs(v) : 0));
  const dS = scale * (2 * (weight + half) * dP + delta);
  const allowance: Record<Name, number> = {
    out: outAllowance,
    lse,
    dq: dS * maxAbs(k) + Nk * 2 ** -24,
    dk: dS * maxAbs(q) * column + Nq * 2 ** -24,
    dv: weight * column * maxAbs(dOut),
  };
  const allowed = (name: Name): Budget => {
    const float = budget(expected[name], naive[name], { allowance: allowance[name] });
    return stored === 'f16' && name !== 'lse' ? storedAsHalf(float) : float;
  };
  return { dims, given: { q, k, v, dOut }, expected, allowed };
}

/** max |dOut_i · v_j| over every pair of a query and a key. */
function largestDot(
  { B, Nq, Nk, DV, layout }: Pick<AttentionDims, 'B' | 'Nq' | 'Nk' | 'DV' | 'layout'>,
  dOut: Float64Array,
  v: Float64Array,
): number {
  const at = (x: Float64Array, N: number, b: number, n: number, d: number) =>
    layout === 'channel' ? x[(b * DV + d) * N + n]! : x[(b * N + n) * DV + d]!;
  let most = 0;
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Nq; i++) {
      for (let j = 0; j < Nk; j++) {
        let dot = 0;
        for (let d = 0; d < DV; d++) dot += at(dOut, Nq, b, i, d) * at(v, Nk, b, j, d);
        most = Math.max(most, Math.abs(dot));
      }
    }
  }
  return most;
}

export type MadeHalves = ReturnType<typeof setUpHalves>;
