// cross-entropy/1_naive — one thread goes over its row of logits twice: maximum, then the sums.
//
//   logits [rows, classes] · labels [rows]  →  lse [rows] = ln Σ exp(logits),
//   loss [rows] = lse - (1 - smoothing)·logits[label] - smoothing·Σ logits/classes;  0 where the row is left out
//
// left out   rows whose label is `ignore`, or no class. mean.wgsl makes one number of the rows, grad.wgsl the gradient.
// cost       6·rows·classes flops;  reads the logits twice.
// needs      nothing. The maximum is taken off first, so that logits of any size give exponents of at most 0.
// after      Szegedy et al. 2016, §7 (label smoothing), as torch.nn.functional.cross_entropy has it.
struct Params {
  rows: u32,
  classes: u32,
  ignore: u32,
  smoothing: f32,
}

const WG = 16u;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;

var<immediate> p: Params;

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: f32) -> f32 {
  return select(exp(d), d, (bitcast<u32>(d) & 0x7fffffffu) > 0x7f800000u);
}

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = (group.y * groups.x + group.x) * WG + thread;
  if (row >= p.rows) {
    return;
  }
  let start = row * p.classes;
  var m = LOWEST;
  for (var j = 0u; j < p.classes; j++) {
    m = max(m, logits[start + j]);
  }
  // Of logits less their maximum: the sum of exponentials, and the plain sum.
  var l = 0.0;
  var sum = 0.0;
  for (var j = 0u; j < p.classes; j++) {
    let d = logits[start + j] - m;
    l += exponential(d);
    sum += d;
  }
  let label = labels[row];
  let counts = label < p.classes && label != p.ignore;
  let right = logits[start + min(label, p.classes - 1u)] - m;
  let value = log(l) - (1.0 - p.smoothing) * right - p.smoothing * (sum / f32(p.classes));
  lse[row] = m + log(l);
  loss[row] = select(0.0, value, counts);
}
