// Rows of top-k and linear attention and of their gradients, as in test/reference.
import { packHalves } from '../../src/util/half.ts';
import { linearAttention as runLinear } from '../../src/kernels/linear-attention.ts';
import type { LinearDims } from '../../src/kernels/linear-attention.ts';
import { topkAttention as runTopk } from '../../src/kernels/topk-attention.ts';
import type { TopkDims } from '../../src/kernels/topk-attention.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { linearAttention } from '../../test/reference/linear-attention.ts';
import {
  divideAllowance,
  expAllowance,
  maxAbs,
  softmaxAllowance,
  ulp,
} from '../../test/reference/naive.ts';
import type { Data, Round } from '../../test/reference/naive.ts';
import { topkAttention } from '../../test/reference/topk-attention.ts';
import { dot, keysOf, place, row, storageOf } from './attention.ts';
import { dataOf, randomFloats } from './oracle.ts';
import type { Entry, Inputs, Oracle, Storages } from './oracle.ts';

/**
 * Queries and keys of multiples of 1/64: their products add up exactly in f32 for up to a thousand dims, so that rounding
 * never changes which scores are the largest.
 */
function coarse(gpu: Gpu, dims: TopkDims, s: Storages): void {
  const { B, Nq, Nk, DK, stored } = dims;
  const sizes = [B * Nq * DK, B * Nk * DK];
  (['q', 'k'] as const).forEach((name, i) => {
    const n = sizes[i] ?? 0;
    const data = randomFloats(n, i).map((x) => Math.round(64 * x) / 64);
    gpu.write(storageOf(s, name), stored === 'f16' ? packHalves(data).subarray(0, n) : data);
  });
}

/** A unit is a query: its row of the output. */
export const topkForwardOracle: Oracle<TopkDims> = {
  ladder: 'topk-attention-forward',
  units: ({ B, Nq }) => B * Nq,
  cost: ({ Nk, DK }) => Nk * DK,
  prepare: coarse,
  unit(dims, inputs, u, r) {
    const { Nq, Nk, DK, DV, scale, layout, top } = dims;
    const [b, i] = [Math.floor(u / Nq), u % Nq];
    const [k, v] = keysOf(dims, inputs, b);
    const q = row(dataOf(inputs, 'q'), place(dims, Nq, DK), [b, i, DK]);
    const sizes = { B: 1, Nq: 1, Nk, DK, DV, scale, channelMajor: layout === 'channel', top };
    const slack = softmaxAllowance(top) * maxAbs(v);
    const at = place(dims, Nq, DV);
    return Array.from(topkAttention({ q, k, v, ...sizes }, r), (value, d): Entry => {
      return { output: 'out', at: at(b, i, d), value, slack };
    });
  },
};

/** The chosen keys: words among operands that are read as floats. */
function indexIn({ index = new Float32Array() }: Inputs): Uint32Array {
  return new Uint32Array(index.buffer, index.byteOffset, index.length);
}

/** dS of the pairs of query i, from the weights that were chosen. */
function pairsOf(dims: TopkDims, inputs: Inputs, [b, i]: readonly [number, number], r: Round) {
  const { Nq, Nk, DV, scale, top } = dims;
  const index = indexIn(inputs);
  const weight = dataOf(inputs, 'weight');
  const dOut = row(dataOf(inputs, 'dOut'), place(dims, Nq, DV), [b, i, DV]);
  const atV = place(dims, Nk, DV);
  const pairs = Array.from({ length: top }, (_, t) => {
    const at = (b * top + t) * Nq + i;
    const key = index[at] ?? 0;
    const dP = dot(dOut, row(dataOf(inputs, 'v'), atV, [b, key, DV]), r);
    return { key, w: weight[at] ?? NaN, dP };
  });
  const mean = pairs.reduce((sum, { w, dP }) => r(sum + r(w * dP)), 0);
  return pairs.map(({ key, w, dP }) => ({ key, w, ds: r(r(scale) * r(w * r(dP - mean))) }));
}

const sumRows = (D: number) => new Float64Array(D);
function addRow(sum: Float64Array, factor: number, by: Data, r: Round): void {
  for (let d = 0; d < sum.length; d++) sum[d] = r((sum[d] ?? 0) + r(factor * (by[d] ?? NaN)));
}
const entriesOf = (output: string, values: Float64Array, at: (d: number) => number, slack = 0) =>
  Array.from(values, (value, d): Entry => ({ output, at: at(d), value, slack }));

/**
 * The gradient as a function of q, k, v, dOut and the pairs that were chosen. A unit is a query (its row of dq) or, after the
 * queries, a key (its rows of dk and dv).
 */
export const topkBackwardOracle: Oracle<TopkDims> = {
  ladder: 'topk-attention-backward',
  units: ({ B, Nq, Nk }) => B * (Nq + Nk),
  cost: ({ Nq, DK, DV, top }) => top * (Nq + top * (DK + 2 * DV)),
  prepare(gpu, dims, s) {
    coarse(gpu, dims, s);
    gpu.scope(() => {
      const out = gpu.alloc(4 * dims.B * dims.Nq * dims.DV, 'topk output');
      const [q, k, v] = [storageOf(s, 'q'), storageOf(s, 'k'), storageOf(s, 'v')];
      const [index, weight] = [storageOf(s, 'index'), storageOf(s, 'weight')];
      runTopk(gpu, { ...dims, q, k, v, out, index, weight });
    });
  },
  unit(dims, inputs, u, r) {
    const { B, Nq, Nk, DK, DV, top } = dims;
    const [atQ, atK, atO, atV] = [
      ...[place(dims, Nq, DK), place(dims, Nk, DK)],
      ...[place(dims, Nq, DV), place(dims, Nk, DV)],
    ] as const;
    if (u < B * Nq) {
      const [b, i] = [Math.floor(u / Nq), u % Nq];
      const dq = sumRows(DK);
      for (const { key, ds } of pairsOf(dims, inputs, [b, i], r)) {
        addRow(dq, ds, row(dataOf(inputs, 'k'), atK, [b, key, DK]), r);
      }
      return entriesOf('dq', dq, (d) => atQ(b, i, d));
    }
    const [b, j] = [Math.floor((u - B * Nq) / Nk), (u - B * Nq) % Nk];
    const index = indexIn(inputs);
    const [dk, dv] = [sumRows(DK), sumRows(DV)];
    for (let n = 0; n < top * Nq; n++) {
      if (index[b * top * Nq + n] !== j) continue;
      const [t, i] = [Math.floor(n / Nq), n % Nq];
      const pair = pairsOf(dims, inputs, [b, i], r)[t];
      addRow(dk, pair?.ds ?? NaN, row(dataOf(inputs, 'q'), atQ, [b, i, DK]), r);
      addRow(dv, pair?.w ?? NaN, row(dataOf(inputs, 'dOut'), atO, [b, i, DV]), r);
    }
    return [
      ...entriesOf('dk', dk, (d) => atK(b, j, d)),
      ...entriesOf('dv', dv, (d) => atV(b, j, d)),
    ];
  },
};

const feature = (x: number, r: Round) => (x > 0 ? r(x + 1) : r(Math.exp(x)));
const features = (x: Data, r: Round) => Float64Array.from(x, (a) => feature(a, r));
const slope = (x: number, r: Round) => (x > 0 ? 1 : r(Math.exp(x)));

/** A feature of |x| ≤ 1 may be off by so much of itself, and a quotient. */
const featureShare = expAllowance(1);
const quotientShare = divideAllowance(1);

/** A unit is a query: its row of the output. */
export const linearForwardOracle: Oracle<LinearDims> = {
  ladder: 'linear-attention-forward',
  units: ({ B, Nq }) => B * Nq,
  cost: ({ Nk, DK, DV }) => Nk * (DK + DV),
  unit(dims, inputs, u, r) {
    const { Nq, Nk, DK, DV, layout } = dims;
    const [b, i] = [Math.floor(u / Nq), u % Nq];
    const [k, v] = keysOf(dims, inputs, b);
    const q = row(dataOf(inputs, 'q'), place(dims, Nq, DK), [b, i, DK]);
    const sizes = { B: 1, Nq: 1, Nk, DK, DV, channelMajor: layout === 'channel' };
    // Two features in the numerator of a weight and two below it.
    const slack = (4 * featureShare + quotientShare) * maxAbs(v);
    const at = place(dims, Nq, DV);
    return Array.from(linearAttention({ q, k, v, ...sizes }, r), (value, d): Entry => {
      return { output: 'out', at: at(b, i, d), value, slack };
    });
  },
};

/** What a query has of the state (S, z): φ(q), 1 / φ(q)ᵀz, and what its own output takes off, −φ(q)ᵀS·dOut / (φ(q)ᵀz)². */
function askedBy(dims: LinearDims, inputs: Inputs, [b, i]: readonly [number, number], r: Round) {
  const { Nq, DK, DV } = dims;
  const state = dataOf(inputs, 'state');
  const f = features(row(dataOf(inputs, 'q'), place(dims, Nq, DK), [b, i, DK]), r);
  const g = row(dataOf(inputs, 'dOut'), place(dims, Nq, DV), [b, i, DV]);
  const at = (d: number) => (b * DK + d) * (DV + 1);
  let [mass, sum] = [0, 0];
  for (let d = 0; d < DK; d++) mass = r(mass + r((f[d] ?? NaN) * (state[at(d) + DV] ?? NaN)));
  for (let e = 0; e < DV; e++) {
    let own = 0;
    for (let d = 0; d < DK; d++) own = r(own + r((f[d] ?? NaN) * (state[at(d) + e] ?? NaN)));
    sum = r(sum + r(own * (g[e] ?? NaN)));
  }
  return { f, g, at, state, w: r(1 / mass), c: r(-r(sum / mass) / mass) };
}

/** Of a term with at most eight features and four quotients in it. */
const termShare = 8 * featureShare + 4 * quotientShare + ulp(1);

/**
 * The gradient as a function of q, k, v, dOut and the forward's state. A unit is a query (its row of dq) or, after the queries,
 * a key (its rows of dk and dv), which needs every query.
 */
export const linearBackwardOracle: Oracle<LinearDims> = {
  ladder: 'linear-attention-backward',
  units: ({ B, Nq, Nk }) => B * (Nq + Nk),
  cost: ({ Nq, DK, DV }) => Nq * DK * DV,
  prepare(gpu, dims, s) {
    gpu.scope(() => {
      const out = gpu.alloc(4 * dims.B * dims.Nq * dims.DV, 'linear output');
      const [q, k, v] = [storageOf(s, 'q'), storageOf(s, 'k'), storageOf(s, 'v')];
      runLinear(gpu, { ...dims, q, k, v, out, state: storageOf(s, 'state') });
    });
  },
  unit(dims, inputs, u, r) {
    const { B, Nq, Nk, DK, DV } = dims;
    if (u < B * Nq) {
      const [b, i] = [Math.floor(u / Nq), u % Nq];
      const { g, at, state, w, c } = askedBy(dims, inputs, [b, i], r);
      const x = row(dataOf(inputs, 'q'), place(dims, Nq, DK), [b, i, DK]);
      const atQ = place(dims, Nq, DK);
      return Array.from({ length: DK }, (_, d): Entry => {
        let sum = r(c * (state[at(d) + DV] ?? NaN));
        let size = Math.abs(sum);
        for (let e = 0; e < DV; e++) {
          const term = r(r(w * (g[e] ?? NaN)) * (state[at(d) + e] ?? NaN));
          sum = r(sum + term);
          size += Math.abs(term);
        }
        const value = r(sum * slope(x[d] ?? NaN, r));
        return { output: 'dq', at: atQ(b, i, d), value, slack: termShare * size };
      });
    }
    const [b, j] = [Math.floor((u - B * Nq) / Nk), (u - B * Nq) % Nk];
    const [atK, atV] = [place(dims, Nk, DK), place(dims, Nk, DV)];
    const x = row(dataOf(inputs, 'k'), atK, [b, j, DK]);
    const v = row(dataOf(inputs, 'v'), atV, [b, j, DV]);
    const fk = features(x, r);
    const [dk, dv] = [sumRows(DK), sumRows(DV)];
    let [sizeK, sizeV] = [0, 0];
    for (let i = 0; i < Nq; i++) {
      const { f, g, w, c } = askedBy(dims, inputs, [b, i], r);
      const own = g.map((e) => r(w * e));
      const asked = r(dot(own, v, r) + c);
      const weight = dot(f, fk, r);
      addRow(dk, asked, f, r);
      addRow(dv, weight, own, r);
      sizeK +=
        (Math.abs(c) + own.reduce((sum, e, n) => sum + Math.abs(e * (v[n] ?? 0)), 0)) * maxAbs(f);
      sizeV += weight * maxAbs(own);
    }
    const made = dk.map((sum, d) => r(sum * slope(x[d] ?? NaN, r)));
    return [
      ...entriesOf('dk', made, (d) => atK(b, j, d), termShare * sizeK),
      ...entriesOf('dv', dv, (d) => atV(b, j, d), termShare * sizeV),
    ];
  },
};
