// Batch norm of x [N, C, H, W] per channel, as torch.nn.BatchNorm2d:
//   y = (x − μ) / √(σ² + eps) · gamma + beta
// Training: μ, σ² (biased) of this batch; running ← (1 − momentum)·running + momentum·(μ, unbiased σ²).
// Evaluation: μ, σ² are the running ones and do not change.
import { type Data, type Round } from './naive.ts';

export interface BatchNorm {
  readonly x: Data;
  readonly N: number;
  readonly C: number;
  readonly H: number;
  readonly W: number;
  readonly gamma?: Data;
  readonly beta?: Data;
  readonly training: boolean;
  /** Default 1e-5. */
  readonly eps?: number;
  /** Default 0.1. */
  readonly momentum?: number;
  readonly runningMean?: Data;
  readonly runningVar?: Data;
}

export interface BatchNormOutput {
  readonly y: Float64Array;
  readonly mean: Float64Array;
  /** σ² */
  readonly variance: Float64Array;
  /** 1 / √(σ² + eps) */
  readonly invStd: Float64Array;
  /** After the update; copies of the inputs in evaluation; absent where none were given. */
  readonly runningMean?: Float64Array;
  readonly runningVar?: Float64Array;
}

/** Flat offsets of channel c, image by image. */
function channel({ N, C, H, W }: BatchNorm, c: number): number[] {
  const at: number[] = [];
  for (let n = 0; n < N; n++) {
    for (let i = 0; i < H * W; i++) at.push((n * C + c) * H * W + i);
  }
  return at;
}

export function batchNorm(o: BatchNorm, r: Round): BatchNormOutput {
  const { x, N, C, H, W, training, eps = 1e-5, momentum = 0.1 } = o;
  const n = N * H * W;
  if (training && n < 2) throw new Error('batchNorm: one value a channel has no variance');
  if (!training && !(o.runningMean && o.runningVar)) {
    throw new Error('batchNorm: evaluation needs running statistics');
  }
  const y = new Float64Array(x.length);
  const mean = new Float64Array(C);
  const variances = new Float64Array(C);
  const invStd = new Float64Array(C);
  const runningMean = o.runningMean && Float64Array.from(o.runningMean);
  const runningVar = o.runningVar && Float64Array.from(o.runningVar);
  for (let c = 0; c < C; c++) {
    const at = channel(o, c);
    let mu = 0;
    let variance = 0;
    if (training) {
      for (const i of at) mu = r(mu + x[i]!);
      mu = r(mu / n);
      let squares = 0;
      for (const i of at) {
        const d = r(x[i]! - mu);
        squares = r(squares + r(d * d));
      }
      variance = r(squares / n);
      const unbiased = r(squares / (n - 1));
      if (runningMean) {
        runningMean[c] = r(r(r(1 - momentum) * runningMean[c]!) + r(r(momentum) * mu));
      }
      if (runningVar) {
        runningVar[c] = r(r(r(1 - momentum) * runningVar[c]!) + r(r(momentum) * unbiased));
      }
    } else {
      mu = runningMean![c]!;
      variance = runningVar![c]!;
    }
    const inv = r(1 / r(Math.sqrt(r(variance + r(eps)))));
    for (const i of at) {
      const hat = r(r(x[i]! - mu) * inv);
      const scaled = o.gamma ? r(hat * o.gamma[c]!) : hat;
      y[i] = o.beta ? r(scaled + o.beta[c]!) : scaled;
    }
    mean[c] = mu;
    variances[c] = variance;
    invStd[c] = inv;
  }
  return {
    y,
    mean,
    variance: variances,
    invStd,
    ...(runningMean && { runningMean }),
    ...(runningVar && { runningVar }),
  };
}

/** Training: dx = γ·invStd·(dy − mean(dy) − x̂·mean(dy·x̂)). Evaluation: dx = γ·invStd·dy. */
export function batchNormBackward(
  o: BatchNorm,
  dy: Data,
  r: Round,
): { dx: Float64Array; dgamma: Float64Array; dbeta: Float64Array } {
  const { x, N, C, H, W, training } = o;
  const n = N * H * W;
  const { mean, invStd } = batchNorm(o, r);
  const dx = new Float64Array(x.length);
  const dgamma = new Float64Array(C);
  const dbeta = new Float64Array(C);
  for (let c = 0; c < C; c++) {
    const at = channel(o, c);
    const hat = (i: number) => r(r(x[i]! - mean[c]!) * invStd[c]!);
    for (const i of at) {
      dbeta[c] = r(dbeta[c]! + dy[i]!);
      dgamma[c] = r(dgamma[c]! + r(dy[i]! * hat(i)));
    }
    const factor = o.gamma ? r(o.gamma[c]! * invStd[c]!) : invStd[c]!;
    const meanDy = r(dbeta[c]! / n);
    const meanDyHat = r(dgamma[c]! / n);
    for (const i of at) {
      const centred = training ? r(r(dy[i]! - meanDy) - r(hat(i) * meanDyHat)) : dy[i]!;
      dx[i] = r(factor * centred);
    }
  }
  return { dx, dgamma, dbeta };
}
