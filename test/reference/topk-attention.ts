// Attention in which a query looks only at the `top` keys of the largest scores; of equal scores, at the lowest keys.
// Shapes and layouts as in attention.ts.
import { type Attention, attention, attentionBackward } from './attention.ts';
import { type Data, type Round } from './naive.ts';

export type TopkAttention = Attention & { readonly top: number };

/** Keys of each query [B, Nq, top], largest score first. */
export function chosenKeys(o: TopkAttention, r: Round): number[][] {
  const { q, k, B, Nq, Nk, DK, scale, channelMajor, top } = o;
  const at = (b: number, n: number, d: number, N: number) =>
    channelMajor ? (b * DK + d) * N + n : (b * N + n) * DK + d;
  return Array.from({ length: B * Nq }, (_, row) => {
    const [b, i] = [Math.floor(row / Nq), row % Nq];
    const scores = Array.from({ length: Nk }, (_key, j) => {
      let dot = 0;
      for (let d = 0; d < DK; d++) dot = r(dot + r(q[at(b, i, d, Nq)]! * k[at(b, j, d, Nk)]!));
      return r(r(scale) * dot);
    });
    const order = scores.map((_s, j) => j).sort((a, c) => scores[c]! - scores[a]! || a - c);
    return order.slice(0, top);
  });
}

/** One query and its own keys, as an attention of its own: what the choice leaves of the whole. */
function queryOf(o: TopkAttention, row: number, keys: readonly number[]): Attention {
  const { q, k, v, Nq, Nk, DK, DV, scale, channelMajor } = o;
  const [b, i] = [Math.floor(row / Nq), row % Nq];
  const column = (x: Data, n: number, N: number, D: number) =>
    Array.from(
      { length: D },
      (_, d) => x[channelMajor ? (b * D + d) * N + n : (b * N + n) * D + d]!,
    );
  return {
    q: column(q, i, Nq, DK),
    k: keys.flatMap((j) => column(k, j, Nk, DK)),
    v: keys.flatMap((j) => column(v, j, Nk, DV)),
    ...{ B: 1, Nq: 1, Nk: keys.length, DK, DV, scale, channelMajor: false },
  };
}

/** Adds rows of D numbers to their positions of a tensor in the layout of `o`. */
function spread(
  o: TopkAttention,
  {
    into,
    rows,
    b,
    keys,
    D,
    N,
  }: { into: Float64Array; rows: Data; b: number; keys: readonly number[]; D: number; N: number },
  r: Round,
): void {
  keys.forEach((n, t) => {
    for (let d = 0; d < D; d++) {
      const at = o.channelMajor ? (b * D + d) * N + n : (b * N + n) * D + d;
      into[at] = r(into[at]! + rows[t * D + d]!);
    }
  });
}

export function topkAttention(o: TopkAttention, r: Round): Float64Array {
  const out = new Float64Array(o.B * o.Nq * o.DV);
  chosenKeys(o, r).forEach((keys, row) => {
    const rows = attention(queryOf(o, row, keys), r).o;
    const [b, i] = [Math.floor(row / o.Nq), row % o.Nq];
    spread(o, { into: out, rows, b, keys: [i], D: o.DV, N: o.Nq }, r);
  });
  return out;
}

export function topkAttentionBackward(
  o: TopkAttention,
  dy: Data,
  r: Round,
): { dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const { Nq, Nk, DK, DV, channelMajor } = o;
  const [dq, dk, dv] = [o.q, o.k, o.v].map((x) => new Float64Array(x.length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  chosenKeys(o, r).forEach((keys, row) => {
    const [b, i] = [Math.floor(row / Nq), row % Nq];
    const dOut = Array.from(
      { length: DV },
      (_, e) => dy[channelMajor ? (b * DV + e) * Nq + i : (b * Nq + i) * DV + e]!,
    );
    const g = attentionBackward(queryOf(o, row, keys), dOut, r);
    spread(o, { into: dq, rows: g.dq, b, keys: [i], D: DK, N: Nq }, r);
    spread(o, { into: dk, rows: g.dk, b, keys, D: DK, N: Nk }, r);
    spread(o, { into: dv, rows: g.dv, b, keys, D: DV, N: Nk }, r);
  });
  return { dq, dk, dv };
}
