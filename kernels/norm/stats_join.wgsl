// norm/stats_join — joins the parts of a channel, a channel a thread, in the order of the parts.
//
//   partMean, partM2 [parts, C]  →  mean, invStd, variance [C]      (variance is the biased one)
//
//   runningMean ← (1 − momentum)·runningMean + momentum·mean
//   runningVar  ← (1 − momentum)·runningVar + momentum·variance·count/(count − 1)
//
//   n = nₐ + n_b,  δ = mean_b − meanₐ:   mean = meanₐ + δ·n_b/n,   M2 = M2ₐ + M2_b + δ²·nₐ·n_b/n
//
// entries    `plain`, and `moving`, which also moves the averages that evaluation uses, in place.
// cost       8·parts·C flops.
// after      Chan, Golub, LeVeque 1979; torch.nn.BatchNorm2d: the batch is normalised by the biased variance, the
//            average takes the unbiased one.
const WG = 64u;

struct Params {
  N: u32, C: u32, L: u32, C0: u32, C1: u32, P1: u32, parts: u32, eps: f32,
  momentum: f32, unbias: f32, // unbias = count/(count − 1)
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> partMean: array<f32>;
@group(0) @binding(1) var<storage, read> partM2: array<f32>;
@group(0) @binding(2) var<storage, read_write> mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> invStd: array<f32>;
@group(0) @binding(4) var<storage, read_write> variance: array<f32>;
@group(0) @binding(5) var<storage, read_write> runningMean: array<f32>;
@group(0) @binding(6) var<storage, read_write> runningVar: array<f32>;

// Mean (x) and variance (y).
fn joined(c: u32) -> vec2f {
  var count = 0.0;
  var average = 0.0;
  var m2 = 0.0;
  for (var part = 0u; part < p.parts; part++) {
    let part0 = part / p.P1;
    let part1 = part - part0 * p.P1;
    let rows = min(p.C0, p.N - part0 * p.C0);
    let more = f32(rows * min(p.C1, p.L - part1 * p.C1));
    let share = more / (count + more);
    let d = partMean[part * p.C + c] - average;
    average += d * share;
    m2 += partM2[part * p.C + c] + d * d * count * share;
    count += more;
  }
  return vec2f(average, m2 / count);
}

fn write(c: u32, found: vec2f) {
  mean[c] = found.x;
  invStd[c] = 1.0 / sqrt(found.y + p.eps);
  variance[c] = found.y;
}

@compute @workgroup_size(WG)
fn plain(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c < p.C) { write(c, joined(c)); }
}

@compute @workgroup_size(WG)
fn moving(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c >= p.C) { return; }
  let found = joined(c);
  write(c, found);
  let keep = 1.0 - p.momentum;
  runningMean[c] = keep * runningMean[c] + p.momentum * found.x;
  runningVar[c] = keep * runningVar[c] + p.momentum * (found.y * p.unbias);
}
