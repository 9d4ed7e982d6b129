// Attention with weights φ(q)·φ(k) / Σ φ(q)·φ(k), φ(x) = elu(x) + 1, written as the map that the engine never forms.
// Shapes and layouts as in attention.ts; no scale.
import { type Attention } from './attention.ts';
import { type Data, type Round } from './naive.ts';

export type LinearAttention = Omit<Attention, 'scale'>;

const features = (x: Data, r: Round) =>
  Float64Array.from(x, (a) => (a > 0 ? r(a + 1) : r(Math.exp(a))));
const slopes = (x: Data, r: Round) => Float64Array.from(x, (a) => (a > 0 ? 1 : r(Math.exp(a))));

const offset =
  (channelMajor: boolean, N: number, D: number) => (b: number, n: number, d: number) =>
    channelMajor ? (b * D + d) * N + n : (b * N + n) * D + d;

function layouts({ channelMajor, Nq, Nk, DK, DV }: LinearAttention) {
  return {
    atQ: offset(channelMajor, Nq, DK),
    atK: offset(channelMajor, Nk, DK),
    atV: offset(channelMajor, Nk, DV),
    atO: offset(channelMajor, Nq, DV),
  };
}

/** Products of features of one query with every key, and their sum. */
function products(
  o: LinearAttention,
  { fq, fk }: { fq: Data; fk: Data },
  b: number,
  i: number,
  r: Round,
) {
  const { atQ, atK } = layouts(o);
  const a = new Float64Array(o.Nk);
  let mass = 0;
  for (let j = 0; j < o.Nk; j++) {
    for (let d = 0; d < o.DK; d++) a[j] = r(a[j]! + r(fq[atQ(b, i, d)]! * fk[atK(b, j, d)]!));
    mass = r(mass + a[j]!);
  }
  return { a, mass };
}

export function linearAttention(o: LinearAttention, r: Round): Float64Array {
  const { atV, atO } = layouts(o);
  const f = { fq: features(o.q, r), fk: features(o.k, r) };
  const out = new Float64Array(o.B * o.Nq * o.DV);
  for (let b = 0; b < o.B; b++) {
    for (let i = 0; i < o.Nq; i++) {
      const { a, mass } = products(o, f, b, i, r);
      for (let e = 0; e < o.DV; e++) {
        let sum = 0;
        for (let j = 0; j < o.Nk; j++) sum = r(sum + r(a[j]! * o.v[atV(b, j, e)]!));
        out[atO(b, i, e)] = r(sum / mass);
      }
    }
  }
  return out;
}

/** With w = a / mass: dv = w·dO, dw = dO·v, da = (dw − Σ w·dw) / mass, and da through both features. */
export function linearAttentionBackward(
  o: LinearAttention,
  dy: Data,
  r: Round,
): { dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const { atQ, atK, atV, atO } = layouts(o);
  const f = { fq: features(o.q, r), fk: features(o.k, r) };
  const [dq, dk, dv] = [o.q, o.k, o.v].map((x) => new Float64Array(x.length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let b = 0; b < o.B; b++) {
    for (let i = 0; i < o.Nq; i++) {
      const { a, mass } = products(o, f, b, i, r);
      const dw = new Float64Array(o.Nk);
      let mean = 0;
      for (let j = 0; j < o.Nk; j++) {
        const w = r(a[j]! / mass);
        for (let e = 0; e < o.DV; e++) {
          const g = dy[atO(b, i, e)]!;
          dw[j] = r(dw[j]! + r(g * o.v[atV(b, j, e)]!));
          dv[atV(b, j, e)] = r(dv[atV(b, j, e)]! + r(w * g));
        }
        mean = r(mean + r(w * dw[j]!));
      }
      for (let j = 0; j < o.Nk; j++) {
        const da = r(r(dw[j]! - mean) / mass);
        for (let d = 0; d < o.DK; d++) {
          const [x, y] = [atQ(b, i, d), atK(b, j, d)];
          dq[x] = r(dq[x]! + r(da * f.fk[y]!));
          dk[y] = r(dk[y]! + r(da * f.fq[x]!));
        }
      }
    }
  }
  const [sq, sk] = [slopes(o.q, r), slopes(o.k, r)];
  return { dq: dq.map((g, i) => r(g * sq[i]!)), dk: dk.map((g, i) => r(g * sk[i]!)), dv };
}
