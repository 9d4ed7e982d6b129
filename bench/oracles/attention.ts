// Rows of attention and of its gradient, as in test/reference/attention.ts.
import type { Gpu } from '../../src/gpu/device.ts';
import { attention as runAttention } from '../../src/kernels/attention.ts';
import type { AttentionDims } from '../../src/kernels/attention-common.ts';
import { mayRound } from '../../src/kernels/precision.ts';
import { attention } from '../../test/reference/attention.ts';
import { logAllowance, maxAbs, softmaxAllowance, ulp } from '../../test/reference/naive.ts';
import type { Data, Round } from '../../test/reference/naive.ts';
import { dataOf } from './oracle.ts';
import type { Entry, Inputs, Oracle, Storages } from './oracle.ts';

/** Place of element (b, n, d) of a tensor of N positions and D dims. */
function place({ layout }: AttentionDims, N: number, D: number) {
  return layout === 'channel'
    ? (b: number, n: number, d: number) => (b * D + d) * N + n
    : (b: number, n: number, d: number) => (b * N + n) * D + d;
}

/** Position `n` of batch `b`: its D numbers. */
function row(data: Data, at: (b: number, n: number, d: number) => number, [b, n, D]: number[]) {
  return Float64Array.from({ length: D ?? 0 }, (_, d) => data[at(b ?? 0, n ?? 0, d)] ?? NaN);
}

/** What a weight loses where it may be rounded to f16: a share of itself, and whatever is less than f16 holds. */
const half = (dims: AttentionDims) =>
  mayRound(dims) ? { share: 2 ** -10, least: 2 ** -24 } : { share: 0, least: 0 };

/** A unit is a query: its row of the output and its lse. */
export const attentionForwardOracle: Oracle<AttentionDims> = {
  ladder: 'attention-forward',
  units: ({ B, Nq }) => B * Nq,
  cost: ({ Nk, DK, DV }) => Nk * (DK + DV),
  unit(dims, inputs, u, r) {
    const { Nq, Nk, DK, DV, scale, layout } = dims;
    const [b, i] = [Math.floor(u / Nq), u % Nq];
    const [k, v] = (['k', 'v'] as const).map((name) => {
      const size = Nk * (name === 'k' ? DK : DV);
      return (inputs[name] ?? new Float32Array()).subarray(b * size, (b + 1) * size);
    });
    const q = row(dataOf(inputs, 'q'), place(dims, Nq, DK), [b, i, DK]);
    const sizes = { B: 1, Nq: 1, Nk, DK, DV, scale, channelMajor: layout === 'channel' };
    const made = attention({ q, k: k ?? [], v: v ?? [], ...sizes }, r);
    const slack = softmaxAllowance(Nk);
    const atOut = place(dims, Nq, DV);
    const slackOut = (slack + half(dims).share) * maxAbs(v ?? []);
    const out = Array.from(made.o, (value, d): Entry => {
      return { output: 'out', at: atOut(b, i, d), value, slack: slackOut };
    });
    const lse = made.lse[0] ?? NaN;
    return [...out, { output: 'lse', at: u, value: lse, slack: slack + logAllowance(lse) }];
  },
};

/**
 * The gradient as a function of what its kernels are given: q, k, v, dOut, and the forward's out and lse. A unit is a
 * query (its row of dq) or, after the queries, a key (its rows of dk and dv).
 */
export const attentionBackwardOracle: Oracle<AttentionDims> = {
  ladder: 'attention-backward',
  units: ({ B, Nq, Nk }) => B * (Nq + Nk),
  cost: ({ Nq, Nk, DK, DV }) => Math.max(Nq, Nk) * 2 * (DK + DV),
  prepare(gpu: Gpu, dims, s: Storages) {
    const { q, k, v, out, lse } = s;
    if (!q || !k || !v || !out || !lse) throw new Error('the gradient lacks an operand');
    runAttention(gpu, { ...dims, q, k, v, out, lse });
  },
  unit(dims, inputs, u, r) {
    const { B, Nq } = dims;
    return u < B * Nq ? queryUnit(dims, inputs, u, r) : keyUnit(dims, inputs, u - B * Nq, r);
  },
};

function rowsOf(dims: AttentionDims, inputs: Inputs) {
  const { Nq, Nk, DK, DV } = dims;
  const of = (name: string, N: number, D: number) => {
    const at = place(dims, N, D);
    const data = dataOf(inputs, name);
    return (b: number, n: number) => row(data, at, [b, n, D]);
  };
  return {
    q: of('q', Nq, DK),
    k: of('k', Nk, DK),
    v: of('v', Nk, DV),
    out: of('out', Nq, DV),
    dOut: of('dOut', Nq, DV),
  };
}

function dot(a: Data, b: Data, r: Round): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum = r(sum + r((a[i] ?? NaN) * (b[i] ?? NaN)));
  return sum;
}

/** P and dS of one pair of query and key, and the share of them that WGSL's exp and a rounding to f16 may take. */
function pair(
  dims: AttentionDims,
  o: { q: Data; k: Data; v: Data; dOut: Data; lse: number; delta: number },
  r: Round,
) {
  const x = r(r(r(dims.scale) * dot(o.q, o.k, r)) - o.lse);
  const p = r(Math.exp(x));
  const ds = r(r(dims.scale) * r(p * r(dot(o.dOut, o.v, r) - o.delta)));
  return { p, ds, share: (3 + 2 * Math.abs(x)) * ulp(1) + half(dims).share };
}

/** Sums of rows with their slack. */
class Row {
  readonly values: Float64Array;
  readonly slack: Float64Array;

  /** What every factor may be off by, whatever its size. */
  readonly #least: number;

  constructor(D: number, least: number) {
    this.#least = least;
    this.values = new Float64Array(D);
    this.slack = new Float64Array(D);
  }

  add(factor: number, by: Data, share: number, r: Round): void {
    for (let d = 0; d < this.values.length; d++) {
      const term = r(factor * (by[d] ?? NaN));
      this.values[d] = r((this.values[d] ?? 0) + term);
      const slack = share * Math.abs(term) + this.#least * Math.abs(by[d] ?? NaN);
      this.slack[d] = (this.slack[d] ?? 0) + slack;
    }
  }

  entries(output: string, at: (d: number) => number): Entry[] {
    const { slack } = this;
    return Array.from(this.values, (value, d) => {
      return { output, at: at(d), value, slack: slack[d] ?? 0 };
    });
  }
}

function queryUnit(dims: AttentionDims, inputs: Inputs, u: number, r: Round): Entry[] {
  const { Nq, Nk, DK } = dims;
  const [b, i] = [Math.floor(u / Nq), u % Nq];
  const rows = rowsOf(dims, inputs);
  const [q, dOut] = [rows.q(b, i), rows.dOut(b, i)];
  const delta = dot(dOut, rows.out(b, i), r);
  const lse = inputs['lse']?.[u] ?? NaN;
  const dq = new Row(DK, half(dims).least);
  for (let j = 0; j < Nk; j++) {
    const k = rows.k(b, j);
    const { ds, share } = pair(dims, { q, k, v: rows.v(b, j), dOut, lse, delta }, r);
    dq.add(ds, k, share, r);
  }
  const at = place(dims, Nq, DK);
  return dq.entries('dq', (d) => at(b, i, d));
}

function keyUnit(dims: AttentionDims, inputs: Inputs, u: number, r: Round): Entry[] {
  const { Nq, Nk, DK, DV } = dims;
  const [b, j] = [Math.floor(u / Nk), u % Nk];
  const rows = rowsOf(dims, inputs);
  const [k, v] = [rows.k(b, j), rows.v(b, j)];
  const { least } = half(dims);
  const [dk, dv] = [new Row(DK, least), new Row(DV, least)];
  for (let i = 0; i < Nq; i++) {
    const [q, dOut] = [rows.q(b, i), rows.dOut(b, i)];
    const delta = dot(dOut, rows.out(b, i), r);
    const lse = inputs['lse']?.[b * Nq + i] ?? NaN;
    const { p, ds, share } = pair(dims, { q, k, v, dOut, lse, delta }, r);
    dk.add(ds, q, share, r);
    dv.add(p, dOut, share, r);
  }
  const [atK, atV] = [place(dims, Nk, DK), place(dims, Nk, DV)];
  return [...dk.entries('dk', (d) => atK(b, j, d)), ...dv.entries('dv', (d) => atV(b, j, d))];
}
