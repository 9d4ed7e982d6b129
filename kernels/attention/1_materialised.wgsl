// attention/1_materialised — scores, softmax and the weighted sum, each through memory. The matrix products are the
// matmul ladder's; this file holds what lies between them.
//
//   normalise   map [B·Nq, Nk] = scores  →  map = softmax of every row, in place;  lse [B·Nq] = log Σ exp(scores)
//   weights     map = scores, lse  →  map = exp(scores - lse), in place: the same softmax, from what forward kept
//   backward    map = P, delta [B·Nq], dMap = dP  →  dMap = dS = scale·P·(dP - delta), in place
//
// cost       per element of the map: normalise 5 flops, 5 floats; weights 2 flops, 2 floats; backward 3 flops, 3 floats.
// needs      B·Nq·Nk floats for the map, twice that in the backward pass: what the rungs above do without.
struct Params {
  rows: u32,
  cols: u32,
  scale: f32,
}

const WG = 16u;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read_write> map: array<f32>;
@group(0) @binding(1) var<storage, read_write> lse: array<f32>;

@group(0) @binding(0) var<storage, read> keptLse: array<f32>;
@group(0) @binding(1) var<storage, read_write> scores: array<f32>;

@group(0) @binding(0) var<storage, read> probabilities: array<f32>;
@group(0) @binding(1) var<storage, read> delta: array<f32>;
@group(0) @binding(2) var<storage, read_write> dMap: array<f32>;

var<immediate> p: Params;

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: f32) -> f32 {
  return select(exp(d), d, (bitcast<u32>(d) & 0x7fffffffu) > 0x7f800000u);
}

// log(l), and NaN of NaN likewise.
fn logarithm(l: f32) -> f32 {
  return select(log(l), l, (bitcast<u32>(l) & 0x7fffffffu) > 0x7f800000u);
}

@compute @workgroup_size(WG)
fn normalise(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = (group.y * groups.x + group.x) * WG + thread;
  if (row >= p.rows) {
    return;
  }
  let start = row * p.cols;
  var m = LOWEST;
  for (var j = 0u; j < p.cols; j++) {
    m = max(m, map[start + j]);
  }
  var l = 0.0;
  for (var j = 0u; j < p.cols; j++) {
    let e = exponential(map[start + j] - m);
    map[start + j] = e;
    l += e;
  }
  for (var j = 0u; j < p.cols; j++) {
    map[start + j] /= l;
  }
  lse[row] = m + logarithm(l);
}

// A workgroup a row; its threads are neighbours in memory.
@compute @workgroup_size(WG)
fn weights(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) {
    return;
  }
  for (var j = thread; j < p.cols; j += WG) {
    scores[row * p.cols + j] = exponential(scores[row * p.cols + j] - keptLse[row]);
  }
}

@compute @workgroup_size(WG)
fn backward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) {
    return;
  }
  for (var j = thread; j < p.cols; j += WG) {
    let i = row * p.cols + j;
    dMap[i] = p.scale * probabilities[i] * (dMap[i] - delta[row]);
  }
}
