// Rows of attention, plain or masked, and of its gradient, as in test/reference/attention.ts.
import type { Gpu } from '../../src/gpu/device.ts';
import type { Storage } from '../../src/gpu/storage.ts';
import { attention as runAttention } from '../../src/kernels/attention.ts';
import type { AttentionDims } from '../../src/kernels/attention-common.ts';
import { maskedAttention } from '../../src/kernels/masked-attention.ts';
import type { MaskedDims } from '../../src/kernels/masked-attention.ts';
import { mayRound } from '../../src/kernels/precision.ts';
import { attention } from '../../test/reference/attention.ts';
import { logAllowance, maxAbs, softmaxAllowance, ulp } from '../../test/reference/naive.ts';
import type { Data, Round } from '../../test/reference/naive.ts';
import { dataOf } from './oracle.ts';
import type { Entry, Inputs, Oracle, Storages } from './oracle.ts';

/** Place of element (b, n, d) of a tensor of N positions and D dims. */
export function place({ layout }: Pick<AttentionDims, 'layout'>, N: number, D: number) {
  return layout === 'channel'
    ? (b: number, n: number, d: number) => (b * D + d) * N + n
    : (b: number, n: number, d: number) => (b * N + n) * D + d;
}

/** Position `n` of batch `b`: its D numbers. */
export function row(
  data: Data,
  at: (b: number, n: number, d: number) => number,
  [b, n, D]: number[],
) {
  return Float64Array.from({ length: D ?? 0 }, (_, d) => data[at(b ?? 0, n ?? 0, d)] ?? NaN);
}

/** What a weight loses where it may be rounded to f16: a share of itself, and whatever is less than f16 holds. */
const half = (dims: AttentionDims) =>
  mayRound(dims) ? { share: 2 ** -10, least: 2 ** -24 } : { share: 0, least: 0 };

/** What is added to the score of query i and key j of batch b: −∞ hides the key. */
type Bias = (b: number, i: number, j: number) => number;

const none: Bias = () => 0;

/** A unit is a query: its row of the output and its lse. */
function forwardOracle<D extends AttentionDims>(
  ladder: string,
  biasOf: (dims: D, inputs: Inputs) => Bias,
): Oracle<D> {
  return {
    ladder,
    units: ({ B, Nq }) => B * Nq,
    cost: ({ Nk, DK, DV }) => Nk * (DK + DV),
    unit(dims, inputs, u, r) {
      const { Nq, Nk, DK, DV, scale, layout } = dims;
      const [b, i] = [Math.floor(u / Nq), u % Nq];
      const [k, v] = keysOf(dims, inputs, b);
      const q = row(dataOf(inputs, 'q'), place(dims, Nq, DK), [b, i, DK]);
      const sizes = { B: 1, Nq: 1, Nk, DK, DV, scale, channelMajor: layout === 'channel' };
      const added = biasOf(dims, inputs);
      const bias: Bias = (_b, _i, j) => added(b, i, j);
      const made = attention({ q, k, v, ...sizes, bias }, r);
      const slack = softmaxAllowance(Nk);
      const atOut = place(dims, Nq, DV);
      const slackOut = (slack + half(dims).share) * maxAbs(v);
      const out = Array.from(made.o, (value, d): Entry => {
        return { output: 'out', at: atOut(b, i, d), value, slack: slackOut };
      });
      const lse = made.lse[0] ?? NaN;
      return [...out, { output: 'lse', at: u, value: lse, slack: slack + logAllowance(lse) }];
    },
  };
}

/** Keys and values of one batch, as they lie. */
export function keysOf(
  { Nk, DK, DV }: Pick<AttentionDims, 'Nk' | 'DK' | 'DV'>,
  inputs: Inputs,
  b: number,
): [Float32Array, Float32Array] {
  const of = (name: string, size: number) =>
    (inputs[name] ?? new Float32Array()).subarray(b * size, (b + 1) * size);
  return [of('k', Nk * DK), of('v', Nk * DV)];
}

/**
 * The gradient as a function of what its kernels are given: q, k, v, dOut, and the forward's out and lse. A unit is a
 * query (its row of dq) or, after the queries, a key (its rows of dk and dv).
 */
function backwardOracle<D extends AttentionDims>(
  ladder: string,
  biasOf: (dims: D, inputs: Inputs) => Bias,
  run: (gpu: Gpu, dims: D, s: Storages) => void,
): Oracle<D> {
  return {
    ladder,
    units: ({ B, Nq, Nk }) => B * (Nq + Nk),
    cost: ({ Nq, Nk, DK, DV }) => Math.max(Nq, Nk) * 2 * (DK + DV),
    prepare: run,
    unit(dims, inputs, u, r) {
      const { B, Nq } = dims;
      const bias = biasOf(dims, inputs);
      return u < B * Nq
        ? queryUnit(dims, inputs, u, { r, bias })
        : keyUnit(dims, inputs, u - B * Nq, { r, bias });
    },
  };
}

/** The storage of that name. Throws where the bench made none. */
export function storageOf(storages: Storages, name: string): Storage {
  const found = storages[name];
  if (found === undefined) throw new Error(`the gradient lacks ${name}`);
  return found;
}

/** What every forward pass is given and makes, for the gradients that are measured after it. */
const forwardOperands = (s: Storages) => ({
  ...{ q: storageOf(s, 'q'), k: storageOf(s, 'k'), v: storageOf(s, 'v') },
  ...{ out: storageOf(s, 'out'), lse: storageOf(s, 'lse') },
});

export const attentionForwardOracle = forwardOracle<AttentionDims>('attention-forward', () => none);
export const attentionBackwardOracle = backwardOracle<AttentionDims>(
  'attention-backward',
  () => none,
  (gpu, dims, s) => {
    runAttention(gpu, { ...dims, ...forwardOperands(s) });
  },
);

/** The mask of a case: later keys, or what the operand `hides` adds; no case here has words for one. */
function maskOf(dims: MaskedDims, inputs: Inputs): Bias {
  const { heads, mask, causal, maskItems, maskHeads, maskQueries, maskKeys } = dims;
  const extents = [maskItems, maskHeads, maskQueries, maskKeys];
  const hides = dataOf(inputs, 'hides');
  return (b, i, j) => {
    if (causal && j > i) return -Infinity;
    if (mask === 'none') return 0;
    const at = [Math.floor(b / heads), b % heads, i, j];
    return (
      hides[at.reduce((sum, n, a) => sum * (extents[a] ?? 1) + (extents[a] === 1 ? 0 : n), 0)] ??
      NaN
    );
  };
}

export const maskedForwardOracle = forwardOracle('masked-attention-forward', maskOf);
export const maskedBackwardOracle = backwardOracle(
  'masked-attention-backward',
  maskOf,
  (gpu, dims, s) => {
    maskedAttention(gpu, { ...dims, ...forwardOperands(s), hides: storageOf(s, 'hides') });
  },
);

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

export function dot(a: Data, b: Data, r: Round): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum = r(sum + r((a[i] ?? NaN) * (b[i] ?? NaN)));
  return sum;
}

/** P and dS of one pair of query and key, and the share of them that WGSL's exp and a rounding to f16 may take. */
function pair(
  dims: AttentionDims,
  o: { q: Data; k: Data; v: Data; dOut: Data; lse: number; delta: number; bias: number },
  r: Round,
) {
  if (o.bias === -Infinity) return { p: 0, ds: 0, share: 0 };
  const x = r(r(r(r(dims.scale) * dot(o.q, o.k, r)) + o.bias) - o.lse);
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

interface Making {
  readonly r: Round;
  readonly bias: Bias;
}

function queryUnit(dims: AttentionDims, inputs: Inputs, u: number, { r, bias }: Making): Entry[] {
  const { Nq, Nk, DK } = dims;
  const [b, i] = [Math.floor(u / Nq), u % Nq];
  const rows = rowsOf(dims, inputs);
  const [q, dOut] = [rows.q(b, i), rows.dOut(b, i)];
  const delta = dot(dOut, rows.out(b, i), r);
  const lse = inputs['lse']?.[u] ?? NaN;
  const dq = new Row(DK, half(dims).least);
  for (let j = 0; j < Nk; j++) {
    const k = rows.k(b, j);
    const given = { q, k, v: rows.v(b, j), dOut, lse, delta, bias: bias(b, i, j) };
    const { ds, share } = pair(dims, given, r);
    dq.add(ds, k, share, r);
  }
  const at = place(dims, Nq, DK);
  return dq.entries('dq', (d) => at(b, i, d));
}

function keyUnit(dims: AttentionDims, inputs: Inputs, u: number, { r, bias }: Making): Entry[] {
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
    const given = { q, k, v, dOut, lse, delta, bias: bias(b, i, j) };
    const { p, ds, share } = pair(dims, given, r);
    dk.add(ds, q, share, r);
    dv.add(p, dOut, share, r);
  }
  const [atK, atV] = [place(dims, Nk, DK), place(dims, Nk, DV)];
  return [...dk.entries('dk', (d) => atK(b, j, d)), ...dv.entries('dv', (d) => atV(b, j, d))];
}
