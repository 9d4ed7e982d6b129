// Spectral normalisation of a matrix W [rows, cols], as torch.nn.utils.spectral_norm (Miyato et al. 2018):
//   v ← Wᵀu / max(‖Wᵀu‖, eps)     u ← Wv / max(‖Wv‖, eps)     σ = uᵀ·W·v     Ŵ = W / σ
// One iteration a training forward; in evaluation u and v stay. The gradient takes u and v for constants.
// For ConvTranspose2d PyTorch takes axis 1 (out channels) for the rows: permute [Cin, Cout, R, S] by (1, 0, 2, 3) first.
import { type Data, type Round } from './naive.ts';

export interface SpectralNorm {
  readonly w: Data;
  readonly rows: number;
  readonly cols: number;
  readonly u: Data;
  readonly v: Data;
  /** Update u and v first, as a forward in training mode does. */
  readonly training: boolean;
  /** Default 1e-12. */
  readonly eps?: number;
}

export interface SpectralNormOutput {
  readonly u: Float64Array;
  readonly v: Float64Array;
  readonly sigma: number;
  readonly weight: Float64Array;
}

function normalize(x: Float64Array, eps: number, r: Round): Float64Array {
  let squares = 0;
  for (const a of x) squares = r(squares + r(a * a));
  const norm = Math.max(r(Math.sqrt(squares)), r(eps));
  return x.map((a) => r(a / norm));
}

/** W·v */
function apply(w: Data, rows: number, cols: number, v: Data, r: Round): Float64Array {
  const y = new Float64Array(rows);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) y[i] = r(y[i]! + r(w[i * cols + j]! * v[j]!));
  }
  return y;
}

/** Wᵀ·u */
function applyTransposed(w: Data, rows: number, cols: number, u: Data, r: Round): Float64Array {
  const y = new Float64Array(cols);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) y[j] = r(y[j]! + r(w[i * cols + j]! * u[i]!));
  }
  return y;
}

export function spectralNorm(o: SpectralNorm, r: Round): SpectralNormOutput {
  const { w, rows, cols, eps = 1e-12 } = o;
  let u: Float64Array = Float64Array.from(o.u);
  let v: Float64Array = Float64Array.from(o.v);
  if (o.training) {
    v = normalize(applyTransposed(w, rows, cols, u, r), eps, r);
    u = normalize(apply(w, rows, cols, v, r), eps, r);
  }
  const wv = apply(w, rows, cols, v, r);
  let sigma = 0;
  for (let i = 0; i < rows; i++) sigma = r(sigma + r(u[i]! * wv[i]!));
  return { u, v, sigma, weight: Float64Array.from(w, (a) => r(a / sigma)) };
}

/**
 * dW = dŴ/σ − (Σ dŴ·W)/σ² · u·vᵀ, with the u and v of the forward (after its update). Pass the options of the forward:
 * the update is repeated here.
 */
export function spectralNormBackward(o: SpectralNorm, dy: Data, r: Round): { dw: Float64Array } {
  const { w, rows, cols } = o;
  const { u, v, sigma } = spectralNorm(o, r);
  let dot = 0;
  for (let i = 0; i < rows * cols; i++) dot = r(dot + r(dy[i]! * w[i]!));
  const dsigma = r(dot / r(sigma * sigma));
  const dw = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      const at = i * cols + j;
      dw[at] = r(r(dy[at]! / sigma) - r(dsigma * r(u[i]! * v[j]!)));
    }
  }
  return { dw };
}
