// cross-entropy/2_tree — a workgroup shares a row of logits; maximum and sums meet in trees.
//
//   logits [rows, classes] · labels [rows]  →  lse [rows] = ln Σ exp(logits),
//   loss [rows] = lse - (1 - smoothing)·logits[label] - smoothing·Σ logits/classes;  0 where the row is left out
//
// since 1    neighbouring threads read neighbouring classes, which is what a GPU's memory wants; a vocabulary is wide.
// cost       6·rows·classes flops;  reads the logits twice. Not yet timed on a GPU.
// needs      WG invocations (a power of two), 8·WG bytes of workgroup memory.
// after      Szegedy et al. 2016, §7 (label smoothing), as torch.nn.functional.cross_entropy has it.
struct Params {
  rows: u32,
  classes: u32,
  ignore: u32,
  smoothing: f32,
}

const WG = 64u;
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;

var<immediate> p: Params;

// Maxima, and then (Σ exp, Σ) of what is left of the logits without it.
var<workgroup> partial: array<vec2f, WG>;

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
  let row = group.y * groups.x + group.x;
  let start = row * p.classes;
  // A workgroup past the last row has no classes and only keeps the barriers company.
  let classes = select(0u, p.classes, row < p.rows);
  var highest = LOWEST;
  for (var j = thread; j < classes; j += WG) {
    highest = max(highest, logits[start + j]);
  }
  partial[thread].x = highest;
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    workgroupBarrier(); // the maxima of the level before are complete
    if (thread < half) {
      partial[thread].x = max(partial[thread].x, partial[thread + half].x);
    }
  }
  workgroupBarrier(); // the row's maximum is complete
  let m = partial[0].x;
  workgroupBarrier(); // everyone has read it
  var sums = vec2f(0.0);
  for (var j = thread; j < classes; j += WG) {
    let d = logits[start + j] - m;
    sums += vec2f(exponential(d), d);
  }
  partial[thread] = sums;
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    workgroupBarrier(); // the sums of the level before are complete
    if (thread < half) {
      partial[thread] += partial[thread + half];
    }
  }
  if (thread == 0u && row < p.rows) {
    let whole = partial[0];
    let label = labels[row];
    let counts = label < p.classes && label != p.ignore;
    let right = logits[start + min(label, p.classes - 1u)] - m;
    let value = log(whole.x) - (1.0 - p.smoothing) * right - p.smoothing * (whole.y / f32(p.classes));
    lse[row] = m + log(whole.x);
    loss[row] = select(0.0, value, counts);
  }
}
