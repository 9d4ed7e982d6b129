// norm/running — the moving averages that evaluation uses, and their inverse deviation; a channel a thread.
//
//   running:  mean, variance [C]  →  runningMean, runningVar [C], in place
//             runningMean ← (1 − momentum)·runningMean + momentum·mean
//             runningVar  ← (1 − momentum)·runningVar + momentum·variance·count/(count − 1)
//   invert:   spread [C], a variance  →  invStd [C] = 1/√(spread + eps)
//
// cost       3–6·C flops.
// after      torch.nn.BatchNorm2d: the batch is normalised by the biased variance, the average takes the unbiased one.
const WG = 64u;

struct Params { C: u32, momentum: f32, unbias: f32, eps: f32 } // unbias = count/(count − 1)
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> mean: array<f32>;
@group(0) @binding(1) var<storage, read> variance: array<f32>;
@group(0) @binding(2) var<storage, read_write> runningMean: array<f32>;
@group(0) @binding(3) var<storage, read_write> runningVar: array<f32>;

@group(0) @binding(0) var<storage, read> spread: array<f32>;
@group(0) @binding(1) var<storage, read_write> invStd: array<f32>;

@compute @workgroup_size(WG)
fn running(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c < p.C) {
    let keep = 1.0 - p.momentum;
    runningMean[c] = keep * runningMean[c] + p.momentum * mean[c];
    runningVar[c] = keep * runningVar[c] + p.momentum * (variance[c] * p.unbias);
  }
}

@compute @workgroup_size(WG)
fn invert(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c < p.C) { invStd[c] = 1.0 / sqrt(spread[c] + p.eps); }
}
