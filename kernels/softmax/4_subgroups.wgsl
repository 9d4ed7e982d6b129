// softmax/4_subgroups — the threads of a subgroup join their maxima and sums by shuffles: one barrier a row.
//
//   forward    x [rows, cols]  →  out [rows, cols] = exp(x - max) / Σ exp(x - max)
//   backward   y, dy [rows, cols]  →  dx [rows, cols] = y · (dy - Σ y·dy)
//
// since 3    a subgroup joins its pairs (m, l) without workgroup memory; one number a subgroup goes through it, behind one
//            barrier instead of log2(WG). With WG no larger than a subgroup there is a row a subgroup, and the barrier
//            costs next to nothing. Gain on a GPU: not yet timed.
// cost       forward 8·rows·cols flops, 3 floats an element; backward 4·rows·cols, 5 floats.
// needs      subgroups of at least 4; WG invocations, a multiple of their size; 2·WG bytes of workgroup memory.
// after      Milakov & Gimelshein 2018, algorithm 3.
enable subgroups;

alias Stored = f32;

struct Params {
  rows: u32,
  cols: u32,
}

const WG = 128u;
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;

@group(0) @binding(0) var<storage, read> y: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read_write> dx: array<Stored>;

var<immediate> p: Params;

// (m, l) of each subgroup in forward, (sum, unused) in backward.
var<workgroup> partial: array<vec2f, WG / 4u>;

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: f32) -> f32 {
  return select(exp(d), d, (bitcast<u32>(d) & 0x7fffffffu) > 0x7f800000u);
}

fn joined(s: vec2f, t: vec2f) -> vec2f {
  let m = max(s.x, t.x);
  return vec2f(m, s.y * exp(s.x - m) + t.y * exp(t.x - m));
}

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  let start = row * p.cols;
  let cols = select(0u, p.cols, row < p.rows);
  var state = vec2f(LOWEST, 0.0);
  for (var j = thread; j < cols; j += WG) {
    let v = f32(x[start + j]);
    let m = max(state.x, v);
    state = vec2f(m, state.y * exp(state.x - m) + exponential(v - m));
  }
  for (var step = 1u; step < size; step *= 2u) {
    state = joined(state, subgroupShuffleXor(state, step));
  }
  if (lane == 0u) {
    partial[subgroup] = state;
  }
  workgroupBarrier(); // the subgroups' pairs are complete
  var whole = partial[0];
  for (var s = 1u; s < WG / size; s++) {
    whole = joined(whole, partial[s]);
  }
  for (var j = thread; j < cols; j += WG) {
    out[start + j] = Stored(exp(f32(x[start + j]) - whole.x) / whole.y);
  }
}

@compute @workgroup_size(WG)
fn backward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  let start = row * p.cols;
  let cols = select(0u, p.cols, row < p.rows);
  var sum = 0.0;
  for (var j = thread; j < cols; j += WG) {
    sum = fma(f32(y[start + j]), f32(dy[start + j]), sum);
  }
  for (var step = 1u; step < size; step *= 2u) {
    sum += subgroupShuffleXor(sum, step);
  }
  if (lane == 0u) {
    partial[subgroup].x = sum;
  }
  workgroupBarrier(); // the subgroups' sums are complete
  var whole = partial[0].x;
  for (var s = 1u; s < WG / size; s++) {
    whole += partial[s].x;
  }
  for (var j = thread; j < cols; j += WG) {
    dx[start + j] = Stored(f32(y[start + j]) * (f32(dy[start + j]) - whole));
  }
}
