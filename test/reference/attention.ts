// O = softmax(scale·Q·Kᵀ + bias)·V, softmax over the keys, and lse = log Σ exp(scale·q·k + bias) of every query; a bias of −∞
// hides a key, and a query from which every key is hidden gets zeros.
//   sequence-major:  Q [B, Nq, DK]  K [B, Nk, DK]  V [B, Nk, DV]  →  O [B, Nq, DV]  lse [B, Nq]
//   channel-major:   Q [B, DK, Nq]  K [B, DK, Nk]  V [B, DV, Nk]  →  O [B, DV, Nq]  lse [B, Nq]
import { type Data, type Round } from './naive.ts';

export interface Attention {
  readonly q: Data;
  readonly k: Data;
  readonly v: Data;
  readonly B: number;
  readonly Nq: number;
  readonly Nk: number;
  readonly DK: number;
  readonly DV: number;
  readonly scale: number;
  readonly channelMajor: boolean;
  /** What is added to the score of query i and key j of batch b; nothing if left out. */
  readonly bias?: (b: number, i: number, j: number) => number;
}

/** Flat offset of element (b, n, d) of a [B, N, D] tensor in the layout asked for. */
function offset(channelMajor: boolean, N: number, D: number) {
  return (b: number, n: number, d: number) =>
    channelMajor ? (b * D + d) * N + n : (b * N + n) * D + d;
}

function layouts({ channelMajor, Nq, Nk, DK, DV }: Attention) {
  return {
    atQ: offset(channelMajor, Nq, DK),
    atK: offset(channelMajor, Nk, DK),
    atV: offset(channelMajor, Nk, DV),
    atO: offset(channelMajor, Nq, DV),
  };
}

/** Softmax weights of one query, its log-sum-exp beside them. */
function weights(o: Attention, b: number, i: number, r: Round): { p: Float64Array; lse: number } {
  const { q, k, Nk, DK, scale } = o;
  const { atQ, atK } = layouts(o);
  const p = new Float64Array(Nk);
  let m = -Infinity;
  for (let j = 0; j < Nk; j++) {
    let dot = 0;
    for (let d = 0; d < DK; d++) dot = r(dot + r(q[atQ(b, i, d)]! * k[atK(b, j, d)]!));
    p[j] = r(r(scale) * dot);
    if (o.bias !== undefined) p[j] = r(p[j]! + o.bias(b, i, j));
    m = Math.max(m, p[j]!);
  }
  if (m === -Infinity) return { p: new Float64Array(Nk), lse: -Infinity };
  let l = 0;
  for (let j = 0; j < Nk; j++) {
    p[j] = r(Math.exp(r(p[j]! - m)));
    l = r(l + p[j]!);
  }
  for (let j = 0; j < Nk; j++) p[j] = r(p[j]! / l);
  return { p, lse: r(m + r(Math.log(l))) };
}

export function attention(o: Attention, r: Round): { o: Float64Array; lse: Float64Array } {
  const { v, B, Nq, Nk, DV } = o;
  const { atV, atO } = layouts(o);
  const out = new Float64Array(B * Nq * DV);
  const lse = new Float64Array(B * Nq);
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Nq; i++) {
      const w = weights(o, b, i, r);
      lse[b * Nq + i] = w.lse;
      for (let d = 0; d < DV; d++) {
        let sum = 0;
        for (let j = 0; j < Nk; j++) sum = r(sum + r(w.p[j]! * v[atV(b, j, d)]!));
        out[atO(b, i, d)] = sum;
      }
    }
  }
  return { o: out, lse };
}

/** dO → dQ, dK, dV. dS = P·(dP − Σ P·dP) with dP = dO·Vᵀ; dQ = scale·dS·K, dK = scale·dSᵀ·Q, dV = Pᵀ·dO. */
export function attentionBackward(
  o: Attention,
  dy: Data,
  r: Round,
): { dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const { q, k, v, B, Nq, Nk, DK, DV, scale } = o;
  const { atQ, atK, atV, atO } = layouts(o);
  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  const dp = new Float64Array(Nk);
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Nq; i++) {
      const { p } = weights(o, b, i, r);
      let s = 0;
      for (let j = 0; j < Nk; j++) {
        let dot = 0;
        for (let d = 0; d < DV; d++) {
          dot = r(dot + r(dy[atO(b, i, d)]! * v[atV(b, j, d)]!));
          dv[atV(b, j, d)] = r(dv[atV(b, j, d)]! + r(p[j]! * dy[atO(b, i, d)]!));
        }
        dp[j] = dot;
        s = r(s + r(p[j]! * dot));
      }
      for (let j = 0; j < Nk; j++) {
        const ds = r(r(scale) * r(p[j]! * r(dp[j]! - s)));
        for (let d = 0; d < DK; d++) {
          dq[atQ(b, i, d)] = r(dq[atQ(b, i, d)]! + r(ds * k[atK(b, j, d)]!));
          dk[atK(b, j, d)] = r(dk[atK(b, j, d)]! + r(ds * q[atQ(b, i, d)]!));
        }
      }
    }
  }
  return { dq, dk, dv };
}
