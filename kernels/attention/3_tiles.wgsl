// attention/3_tiles — a workgroup owns 32 queries; keys and values come through workgroup memory, 32 at a time.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//
// since 2    threads divide a 32 × 32 tile of scores and a 32 × TV tile of out, 2 × 2 and 2 × 4 each, and hand the
//            weights over in workgroup memory; a GPU has too few registers for rung 2's rows, and cheap barriers.
// gained     not yet timed on a GPU. Predicted: keys and values are read once for 32 queries and not for each.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads Nq/32·Nk·(DK + DV) floats a batch.
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
const ROWS = 32u;
const COLS = 32u;
const DC = 16u;
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

// Tiles lie dims first, so that neighbouring threads read neighbouring words.
var<workgroup> rows: array<f32, DC * ROWS>;
var<workgroup> cols: array<f32, DC * COLS>;
var<workgroup> weights: array<f32, ROWS * COLS>;
var<workgroup> wide: array<f32, COLS * TV>;

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

// s[2r + c] = Σ over D of row y + 16r times column x + 16c, of two tensors, DC dims at a time.
fn product(a: u32, b: u32, batch: u32, n: vec2u, D: u32, thread: u32) -> vec4f {
  let x = thread % 16u;
  let y = thread / 16u;
  var s = vec4f();
  for (var d0 = 0u; d0 < D; d0 += DC) {
    for (var i = thread; i < DC * ROWS; i += WG) {
      let r = select(i / DC, i % ROWS, CHANNEL);
      let d = select(i % DC, i / ROWS, CHANNEL);
      rows[d * ROWS + r] = value(a, batch, n.x + r, d0 + d);
    }
    for (var i = thread; i < DC * COLS; i += WG) {
      let c = select(i / DC, i % COLS, CHANNEL);
      let d = select(i % DC, i / COLS, CHANNEL);
      cols[d * COLS + c] = value(b, batch, n.y + c, d0 + d);
    }
    workgroupBarrier(); // both tiles are complete
    for (var d = 0u; d < DC; d++) {
      let r = vec2f(rows[d * ROWS + y], rows[d * ROWS + y + 16u]);
      let c = vec2f(cols[d * COLS + x], cols[d * COLS + x + 16u]);
      s = fma(r.xxyy, c.xyxy, s);
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  return s;
}

// wide[c][e] = dim d0 + e of position n + c. A barrier must follow.
fn load_wide(tensor: u32, batch: u32, n: u32, d0: u32, thread: u32) {
  for (var i = thread; i < COLS * TV; i += WG) {
    let c = select(i / TV, i % COLS, CHANNEL);
    let e = select(i % TV, i / COLS, CHANNEL);
    wide[c * TV + e] = value(tensor, batch, n + c, d0 + e);
  }
}

// A barrier must follow.
fn store_weights(w: vec4f, thread: u32) {
  let at = (thread / 16u) * COLS + thread % 16u;
  weights[at] = w.x;
  weights[at + 16u] = w.y;
  weights[at + 16u * COLS] = w.z;
  weights[at + 16u * COLS + 16u] = w.w;
}

// The weights of this thread's two rows for column c.
fn weight_of(c: u32, thread: u32) -> vec2f {
  let at = (thread / 16u) * COLS + c;
  return vec2f(weights[at], weights[at + 16u * COLS]);
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

  // vec2: the thread's two queries, y and y + 16.
  var m = vec2f(LOWEST);
  var l = vec2f();
  var acc: array<vec2f, E>;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    var s = p.scale * product(Q, K, batch, vec2u(i0, j0), p.DK, thread);
    let j = j0 + x;
    s = select(vec4f(LOWEST), s, vec4u(j, j + 16u, j, j + 16u) < vec4u(p.Nk));
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
    let inside = vec4u(j, j + 16u, j, j + 16u) < vec4u(p.Nk);
    store_weights(select(vec4f(), exponential(s - top.xxyy), inside), thread);
    workgroupBarrier(); // the weights are complete
    l *= shrink;
    for (var e = 0u; e < E; e++) {
      acc[e] *= shrink;
    }
    for (var c = 0u; c < COLS; c++) {
      let w = weight_of(c, thread);
      l += w;
      for (var e = 0u; e < E; e++) {
        acc[e] = fma(w, vec2f(wide[c * TV + x + 16u * e]), acc[e]);
      }
    }
    workgroupBarrier(); // nobody reads weights and values any more
  }

  for (var r = 0u; r < 2u; r++) {
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
