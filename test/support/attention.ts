// Attention of given sizes: inputs, what the float64 loops make of them and what a kernel may differ by.
import type { AttentionDims, AttentionLayout } from '../../src/kernels/attention-common.ts';
import {
  attention as reference,
  attentionBackward as referenceBackward,
} from '../reference/attention.ts';
import {
  budget,
  expAllowance,
  f32,
  f64,
  logAllowance,
  maxAbs,
  softmaxAllowance,
} from '../reference/naive.ts';
import type { Budget, Data } from '../reference/naive.ts';
import { randomFloats } from './random.ts';

export type Sizes = readonly [B: number, Nq: number, Nk: number, DK: number, DV: number];

export type Gradient = 'dq' | 'dk' | 'dv';
export const layouts: readonly AttentionLayout[] = ['channel', 'sequence'];

export function setUp([B, Nq, Nk, DK, DV]: Sizes, layout: AttentionLayout, size = 1) {
  const dims: AttentionDims = { B, Nq, Nk, DK, DV, layout, scale: 1 / Math.sqrt(DK) };
  const q = randomFloats(B * Nq * DK, 1, -size, size);
  const k = randomFloats(B * Nk * DK, 2, -size, size);
  const v = randomFloats(B * Nk * DV, 3);
  const dOut = randomFloats(B * Nq * DV, 4);
  const input = { q, k, v, ...dims, channelMajor: layout === 'channel' };
  const forward = reference(input, f64);
  const naive = reference(input, f32);
  const allowance = softmaxAllowance(Nk);
  return {
    dims,
    q,
    k,
    v,
    dOut,
    input,
    forward,
    /** Weights that sum to 1 average values of at most max|v|: an error of the weights arrives no larger. */
    outBudget: budget(forward.o, naive.o, { allowance: allowance * maxAbs(v) }),
    lseBudget: budget(forward.lse, naive.lse, {
      allowance: allowance + logAllowance(Math.log(Nk)),
    }),
  };
}

export type Made = ReturnType<typeof setUp>;

/**
 * Budgets of dq, dk and dv. P = exp(s - lse) has the relative error that WGSL grants exp at the largest exponent, besides
 * lse's own; it multiplies every term of the sums, so the allowance is that error times the largest sum of the terms' sizes.
 */
export function backwardBudgets(made: Made): {
  ref: Record<Gradient, Data>;
  of: (name: Gradient) => Budget;
} {
  const { input, dOut, dims, lseBudget } = made;
  const ref = referenceBackward(input, dOut, f64);
  const naive = referenceBackward(input, dOut, f32);
  const { Nq, Nk, DK, DV, scale } = dims;
  const spread = 2 * scale * DK * maxAbs(made.q) * maxAbs(made.k) + Math.log(Nk);
  const relative = expAllowance(spread) + 2 * lseBudget.abs;
  const dP = 2 * DV * maxAbs(dOut) * maxAbs(made.v);
  // A row of P sums to 1; a column to at most Nq.
  const terms = {
    dq: scale * dP * maxAbs(made.k),
    dk: scale * dP * maxAbs(made.q) * Nq,
    dv: maxAbs(dOut) * Nq,
  };
  return {
    ref,
    of: (name) => budget(ref[name], naive[name], { allowance: relative * terms[name] }),
  };
}
