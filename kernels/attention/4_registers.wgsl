// attention/4_registers — a thread's share of the scores is 4 × 2 and of out 4 × 4: fewer loads from workgroup memory.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//
// since 3    a workgroup owns 64 queries instead of 32, so keys and values come from memory half as often, and a thread
//            has four rows instead of two: 8 loads from workgroup memory for 16 multiply-adds of weights and values,
//            where rung 3 has 6 for 8. Keys and values take turns in one array. Gain on a GPU: not yet timed.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads Nq/64·Nk·(DK + DV) floats a batch.
// needs      any sizes; 256 invocations, 16 KiB of workgroup memory. tile.z takes the next TV columns of out, and makes
//            the scores again for them.
// after      Dao 2023, algorithm 1.
struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
  DK: u32,
  DV: u32,
  scale: f32,
}

const CHANNEL = true;
const FOLDED = false;
const ROWS = 64u;
const COLS = 32u;
const DC = 8u;
const TV = 64u;
const WG = 256u;
const E = TV / 16u;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;
const Q = 0u;
const K = 1u;
const V = 2u;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
var<immediate> p: Params;

// DC dims of the rows, then of the columns, dims first, so that neighbouring threads read neighbouring words; between
// two products COLS rows of the tensor that is weighed.
var<workgroup> stage: array<f32, COLS * TV>;
var<workgroup> weights: array<f32, ROWS * COLS>;

// This workgroup's rows, batch and slice of columns. FOLDED: the workgroups come in one row with the rows outermost, so
// that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, slices: u32) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  return vec3u(i / (slices * p.B), i / slices % p.B, i % slices);
}

// Where dim d of position n is, in a tensor of N positions and D dims.
fn place(batch: u32, n: u32, d: u32, N: u32, D: u32) -> u32 {
  return select((batch * N + n) * D + d, (batch * D + d) * N + n, CHANNEL);
}

// Element d of position n, 0 outside.
fn value(tensor: u32, batch: u32, n: u32, d: u32) -> f32 {
  let N = select(p.Nk, p.Nq, tensor == Q);
  let D = select(p.DV, p.DK, tensor == Q || tensor == K);
  if (n >= N || d >= D) {
    return 0.0;
  }
  let i = place(batch, n, d, N, D);
  switch tensor {
    case Q: {
      return q[i];
    }
    case K: {
      return k[i];
    }
    default: {
      return v[i];
    }
  }
}

// s[c][r] = Σ over D of row y + 16r times column x + 16c, of two tensors, DC dims at a time.
fn product(a: u32, b: u32, batch: u32, n: vec2u, D: u32, thread: u32) -> mat2x4f {
  let x = thread % 16u;
  let y = thread / 16u;
  let cols = DC * ROWS;
  var s = mat2x4f();
  for (var d0 = 0u; d0 < D; d0 += DC) {
    for (var i = thread; i < DC * ROWS; i += WG) {
      let r = select(i / DC, i % ROWS, CHANNEL);
      let d = select(i % DC, i / ROWS, CHANNEL);
      stage[d * ROWS + r] = value(a, batch, n.x + r, d0 + d);
    }
    for (var i = thread; i < DC * COLS; i += WG) {
      let c = select(i / DC, i % COLS, CHANNEL);
      let d = select(i % DC, i / COLS, CHANNEL);
      stage[cols + d * COLS + c] = value(b, batch, n.y + c, d0 + d);
    }
    workgroupBarrier(); // both tiles are complete
    for (var d = 0u; d < DC; d++) {
      let at = d * ROWS + y;
      let r = vec4f(stage[at], stage[at + 16u], stage[at + 32u], stage[at + 48u]);
      s[0] = fma(r, vec4f(stage[cols + d * COLS + x]), s[0]);
      s[1] = fma(r, vec4f(stage[cols + d * COLS + x + 16u]), s[1]);
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  return s;
}

// stage[c][e] = dim d0 + e of position n + c. A barrier must follow.
fn load_wide(tensor: u32, batch: u32, n: u32, d0: u32, thread: u32) {
  for (var i = thread; i < COLS * TV; i += WG) {
    let c = select(i / TV, i % COLS, CHANNEL);
    let e = select(i % TV, i / COLS, CHANNEL);
    stage[c * TV + e] = value(tensor, batch, n + c, d0 + e);
  }
}

// A barrier must follow.
fn store_weights(w: mat2x4f, thread: u32) {
  let at = (thread / 16u) * COLS + thread % 16u;
  for (var r = 0u; r < 4u; r++) {
    weights[at + 16u * COLS * r] = w[0][r];
    weights[at + 16u * COLS * r + 16u] = w[1][r];
  }
}

// The weights of this thread's four rows for column c.
fn weight_of(c: u32, thread: u32) -> vec4f {
  let at = (thread / 16u) * COLS + c;
  let step = 16u * COLS;
  return vec4f(weights[at], weights[at + step], weights[at + 2u * step], weights[at + 3u * step]);
}

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: vec4f) -> vec4f {
  return select(exp(d), d, (bitcast<vec4u>(d) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// log(l), and NaN of NaN likewise.
fn logarithm(l: f32) -> f32 {
  return select(log(l), l, (bitcast<u32>(l) & 0x7fffffffu) > 0x7f800000u);
}

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let tile = tile_of(group, groups, (p.DV + TV - 1u) / TV);
  let batch = tile.y;
  let i0 = tile.x * ROWS;
  let e0 = tile.z * TV;
  let x = thread % 16u;
  let y = thread / 16u;

  // vec4: the thread's four queries, y, y + 16, y + 32 and y + 48.
  var m = vec4f(LOWEST);
  var l = vec4f();
  var acc: array<vec4f, E>;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    var s = p.scale * product(Q, K, batch, vec2u(i0, j0), p.DK, thread);
    let inside = vec2<bool>(j0 + x < p.Nk, j0 + x + 16u < p.Nk);
    s[0] = select(vec4f(LOWEST), s[0], inside.x);
    s[1] = select(vec4f(LOWEST), s[1], inside.y);
    store_weights(s, thread);
    load_wide(V, batch, j0, e0, thread);
    workgroupBarrier(); // scores and values are complete
    var top = m;
    for (var c = 0u; c < COLS; c++) {
      top = max(top, weight_of(c, thread));
    }
    let shrink = exp(m - top);
    m = top;
    workgroupBarrier(); // nobody reads the scores any more
    s[0] = select(vec4f(), exponential(s[0] - top), inside.x);
    s[1] = select(vec4f(), exponential(s[1] - top), inside.y);
    store_weights(s, thread);
    workgroupBarrier(); // the weights are complete
    l *= shrink;
    for (var e = 0u; e < E; e++) {
      acc[e] *= shrink;
    }
    for (var c = 0u; c < COLS; c++) {
      let w = weight_of(c, thread);
      l += w;
      for (var e = 0u; e < E; e++) {
        acc[e] = fma(w, vec4f(stage[c * TV + x + 16u * e]), acc[e]);
      }
    }
    workgroupBarrier(); // nobody reads weights and values any more
  }

  for (var r = 0u; r < 4u; r++) {
    let i = i0 + y + 16u * r;
    for (var e = 0u; e < E; e++) {
      let d = e0 + x + 16u * e;
      if (i < p.Nq && d < p.DV) {
        out[place(batch, i, d, p.Nq, p.DV)] = acc[e][r] / l[r];
      }
    }
    if (i < p.Nq && x == 0u && tile.z == 0u) {
      lse[batch * p.Nq + i] = m[r] + logarithm(l[r]);
    }
  }
}
