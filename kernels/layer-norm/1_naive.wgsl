// layer-norm/1_naive — one thread goes over its row three times: mean, squared deviations, result.
//
//   forward    x [rows, cols] · gamma, beta [cols]  →  mean, invStd [rows],  out = (x - mean)·invStd·gamma + beta
//   backward   x, dy [rows, cols] · gamma [cols] · mean, invStd [rows]  →  dx = invStd·(g - Σg/cols - x̂·Σ(g·x̂)/cols)
//
//   x̂ = (x - mean)·invStd,  invStd = 1/√(Σ(x - mean)²/cols + eps),  g = gamma·dy
//
// cost       forward 7·rows·cols flops, backward 10·rows·cols; forward reads a row three times, backward two rows twice.
// needs      nothing. Deviations are taken from the row's own mean: a row far from 0 keeps its digits.
// after      Ba, Kiros & Hinton 2016.
struct Params {
  rows: u32,
  cols: u32,
  eps: f32,
}

const WG = 16u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> mean: array<f32>;
@group(0) @binding(4) var<storage, read_write> invStd: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> average: array<f32>;
@group(0) @binding(4) var<storage, read> slope: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

var<immediate> p: Params;

fn row_of(group: vec3u, groups: vec3u, thread: u32) -> u32 {
  return (group.y * groups.x + group.x) * WG + thread;
}

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = row_of(group, groups, thread);
  if (row >= p.rows) {
    return;
  }
  let start = row * p.cols;
  var sum = 0.0;
  for (var j = 0u; j < p.cols; j++) {
    sum += x[start + j];
  }
  let m = sum / f32(p.cols);
  var squares = 0.0;
  for (var j = 0u; j < p.cols; j++) {
    let d = x[start + j] - m;
    squares += d * d;
  }
  let s = 1.0 / sqrt(squares / f32(p.cols) + p.eps);
  for (var j = 0u; j < p.cols; j++) {
    out[start + j] = (x[start + j] - m) * s * gamma[j] + beta[j];
  }
  mean[row] = m;
  invStd[row] = s;
}

@compute @workgroup_size(WG)
fn backward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = row_of(group, groups, thread);
  if (row >= p.rows) {
    return;
  }
  let start = row * p.cols;
  let m = average[row];
  let s = slope[row];
  var sum = vec2f(0.0);
  for (var j = 0u; j < p.cols; j++) {
    let g = scale[j] * dy[start + j];
    sum += vec2f(g, g * ((x[start + j] - m) * s));
  }
  let share = sum / f32(p.cols);
  for (var j = 0u; j < p.cols; j++) {
    let g = scale[j] * dy[start + j];
    dx[start + j] = s * (g - share.x - (x[start + j] - m) * s * share.y);
  }
}
