// layer-norm/3_tree — a workgroup shares a row; its threads' sums meet in a tree.
//
//   forward    x [rows, cols] · gamma, beta [cols]  →  mean, invStd [rows],  out = (x - mean)·invStd·gamma + beta
//   backward   x, dy [rows, cols] · gamma [cols] · mean, invStd [rows]  →  dx = invStd·(g - Σg/cols - x̂·Σ(g·x̂)/cols)
//
// since 2    neighbouring threads read neighbouring columns, which is what a GPU's memory wants. A forward pass has two
//            trees, for deviations are taken from a mean that is known; a backward pass has one, of both sums at once.
// cost       forward 7·rows·cols flops, backward 10·rows·cols. Not yet timed on a GPU.
// needs      WG invocations (a power of two), 8·WG bytes of workgroup memory.
// after      Ba, Kiros & Hinton 2016.
struct Params {
  rows: u32,
  cols: u32,
  eps: f32,
}

const WG = 64u;

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

var<workgroup> sums: array<vec2f, WG>;

fn sum_of_all(thread: u32, value: vec2f) -> vec2f {
  sums[thread] = value;
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    workgroupBarrier(); // the sums of the level before are complete
    if (thread < half) {
      sums[thread] += sums[thread + half];
    }
  }
  workgroupBarrier(); // the total is in sums[0]
  let total = sums[0];
  workgroupBarrier(); // everyone has read it; `sums` is free
  return total;
}

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.y * groups.x + group.x;
  let start = row * p.cols;
  // A workgroup past the last row has no columns and only keeps the barriers company.
  let cols = select(0u, p.cols, row < p.rows);
  var sum = 0.0;
  for (var j = thread; j < cols; j += WG) {
    sum += x[start + j];
  }
  let m = sum_of_all(thread, vec2f(sum, 0.0)).x / f32(p.cols);
  var squares = 0.0;
  for (var j = thread; j < cols; j += WG) {
    let d = x[start + j] - m;
    squares += d * d;
  }
  let s = 1.0 / sqrt(sum_of_all(thread, vec2f(squares, 0.0)).x / f32(p.cols) + p.eps);
  for (var j = thread; j < cols; j += WG) {
    out[start + j] = (x[start + j] - m) * s * gamma[j] + beta[j];
  }
  if (thread == 0u && row < p.rows) {
    mean[row] = m;
    invStd[row] = s;
  }
}

@compute @workgroup_size(WG)
fn backward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.y * groups.x + group.x;
  let start = row * p.cols;
  let cols = select(0u, p.cols, row < p.rows);
  let m = average[min(row, p.rows - 1u)];
  let s = slope[min(row, p.rows - 1u)];
  var sum = vec2f(0.0);
  for (var j = thread; j < cols; j += WG) {
    let g = scale[j] * dy[start + j];
    sum += vec2f(g, g * ((x[start + j] - m) * s));
  }
  let share = sum_of_all(thread, sum) / f32(p.cols);
  for (var j = thread; j < cols; j += WG) {
    let g = scale[j] * dy[start + j];
    dx[start + j] = s * (g - share.x - (x[start + j] - m) * s * share.y);
  }
}
