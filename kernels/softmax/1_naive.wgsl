// softmax/1_naive — one thread goes over its row three times: maximum, exponentials and their sum, division.
//
//   forward    x [rows, cols]  →  out [rows, cols] = exp(x - max) / Σ exp(x - max)
//   backward   y, dy [rows, cols]  →  dx [rows, cols] = y · (dy - Σ y·dy)
//
// cost       forward 5·rows·cols flops, backward 4·rows·cols; forward moves 6 floats an element, backward 5.
// needs      nothing. The maximum is taken off first, so that logits of any size give exponents of at most 0.
alias Stored = f32;
// True where a tensor rounds what is put into it: then nothing is kept there that is still to be computed with.
const ROUNDED = f32(Stored(0.1)) != 0.1f;

struct Params {
  rows: u32,
  cols: u32,
}

const WG = 16u;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;

@group(0) @binding(0) var<storage, read> y: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read_write> dx: array<Stored>;

var<immediate> p: Params;

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: f32) -> f32 {
  return select(exp(d), d, (bitcast<u32>(d) & 0x7fffffffu) > 0x7f800000u);
}

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
  var m = LOWEST;
  for (var j = 0u; j < p.cols; j++) {
    m = max(m, f32(x[start + j]));
  }
  var l = 0.0;
  for (var j = 0u; j < p.cols; j++) {
    let e = exponential(f32(x[start + j]) - m);
    if (!ROUNDED) { out[start + j] = Stored(e); }
    l += e;
  }
  for (var j = 0u; j < p.cols; j++) {
    if (ROUNDED) {
      out[start + j] = Stored(exponential(f32(x[start + j]) - m) / l);
    } else {
      out[start + j] /= Stored(l);
    }
  }
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
  var sum = 0.0;
  for (var j = 0u; j < p.cols; j++) {
    sum = fma(f32(y[start + j]), f32(dy[start + j]), sum);
  }
  for (var j = 0u; j < p.cols; j++) {
    dx[start + j] = Stored(f32(y[start + j]) * (f32(dy[start + j]) - sum));
  }
}
