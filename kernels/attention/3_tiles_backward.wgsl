// attention/3_tiles_backward — rung 3's tiles, once with queries as rows for dq and once with keys as rows for dk and dv.
//
//   delta [B, Nq] = Σ dOut·out = Σ P·dP comes from delta.wgsl                         (CHANNEL: [B, dims, positions])
//   queries Q, K, V, dOut, lse, delta  →  dq:       a workgroup owns 32 queries, keys pass by
//   keys    Q, K, V, dOut, lse, delta  →  dk, dv:   a workgroup owns 32 keys, queries pass by
//   P = exp(s - lse),  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// since 2    P and dS are 32 × 32 tiles in workgroup memory, divided among the threads as in the forward pass.
// gained     not yet timed on a GPU. Predicted: as in the forward pass, the other side is read once for 32 rows.
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys.
// needs      any sizes; 256 invocations, 16 KiB of workgroup memory. tile.z takes the next TV columns of the results.
// after      Dao 2023, algorithm 2, with its one loop taken apart so that no two workgroups add to one place.
struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
  DK: u32,
  DV: u32,
  scale: f32,
}

const CHANNEL = true;
const WRITE_DK = 1u;
const WRITE_DV = 1u;
const FOLDED = false;
const ROWS = 32u;
const COLS = 32u;
const DC = 16u;
const TV = 64u;
const WG = 256u;
const E = TV / 16u;
const Q = 0u;
const K = 1u;
const V = 2u;
const DOUT = 3u;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> dOut: array<f32>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> dq: array<f32>;
@group(0) @binding(6) var<storage, read_write> dk: array<f32>;
@group(0) @binding(7) var<storage, read_write> dv: array<f32>;
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
  let N = select(p.Nk, p.Nq, tensor == Q || tensor == DOUT);
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
    case V: {
      return v[i];
    }
    default: {
      return dOut[i];
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

// acc[e] + weights · wide for the thread's two rows and its columns x + 16e.
fn weighed(acc: array<vec2f, E>, thread: u32) -> array<vec2f, E> {
  var sum = acc;
  for (var c = 0u; c < COLS; c++) {
    let w = weight_of(c, thread);
    for (var e = 0u; e < E; e++) {
      sum[e] = fma(w, vec2f(wide[c * TV + thread % 16u + 16u * e]), sum[e]);
    }
  }
  return sum;
}

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: vec4f) -> vec4f {
  return select(exp(d), d, (bitcast<vec4u>(d) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

@compute @workgroup_size(WG)
fn queries(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let tile = tile_of(group, groups, (p.DK + TV - 1u) / TV);
  let batch = tile.y;
  let i0 = tile.x * ROWS;
  let d0 = tile.z * TV;
  let x = thread % 16u;
  let y = thread / 16u;
  let i = min(vec2u(i0 + y, i0 + y + 16u), vec2u(p.Nq - 1u)) + batch * p.Nq;
  let ls = vec2f(lse[i.x], lse[i.y]);
  let deltas = vec2f(delta[i.x], delta[i.y]);

  var acc: array<vec2f, E>;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    let s = p.scale * product(Q, K, batch, vec2u(i0, j0), p.DK, thread);
    let dp = product(DOUT, V, batch, vec2u(i0, j0), p.DV, thread);
    // A key past the end has s = 0, not a score: it gets no weight.
    let j = vec4u(j0 + x, j0 + x + 16u, j0 + x, j0 + x + 16u);
    let ds = p.scale * exponential(s - ls.xxyy) * (dp - deltas.xxyy);
    store_weights(select(vec4f(), ds, j < vec4u(p.Nk)), thread);
    load_wide(K, batch, j0, d0, thread);
    workgroupBarrier(); // dS and keys are complete
    acc = weighed(acc, thread);
    workgroupBarrier(); // nobody reads them any more
  }

  for (var r = 0u; r < 2u; r++) {
    let row = i0 + y + 16u * r;
    for (var e = 0u; e < E; e++) {
      let d = d0 + x + 16u * e;
      if (row < p.Nq && d < p.DK) {
        dq[place(batch, row, d, p.Nq, p.DK)] = acc[e][r];
      }
    }
  }
}

@compute @workgroup_size(WG)
fn keys(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let tile = tile_of(group, groups, (max(WRITE_DK * p.DK, WRITE_DV * p.DV) + TV - 1u) / TV);
  let batch = tile.y;
  let j0 = tile.x * ROWS;
  let d0 = tile.z * TV;
  let x = thread % 16u;
  let y = thread / 16u;

  var acc_k: array<vec2f, E>;
  var acc_v: array<vec2f, E>;
  for (var i0 = 0u; i0 < p.Nq; i0 += COLS) {
    let s = p.scale * product(K, Q, batch, vec2u(j0, i0), p.DK, thread);
    let i = min(vec2u(i0 + x, i0 + x + 16u), vec2u(p.Nq - 1u)) + batch * p.Nq;
    let ls = vec2f(lse[i.x], lse[i.y]);
    // A query past the end has s = 0, not a score: it gets no weight.
    let past = vec4u(i0 + x, i0 + x + 16u, i0 + x, i0 + x + 16u) >= vec4u(p.Nq);
    let w = select(exponential(s - ls.xyxy), vec4f(), past);
    if (WRITE_DV == 1u) {
      store_weights(w, thread);
      load_wide(DOUT, batch, i0, d0, thread);
      workgroupBarrier(); // P and dOut are complete
      acc_v = weighed(acc_v, thread);
      workgroupBarrier(); // nobody reads them any more
    }
    if (WRITE_DK == 1u) {
      let dp = product(V, DOUT, batch, vec2u(j0, i0), p.DV, thread);
      let deltas = vec2f(delta[i.x], delta[i.y]);
      store_weights(select(p.scale * w * (dp - deltas.xyxy), vec4f(), past), thread);
      load_wide(Q, batch, i0, d0, thread);
      workgroupBarrier(); // dS and queries are complete
      acc_k = weighed(acc_k, thread);
      workgroupBarrier(); // nobody reads them any more
    }
  }

  for (var r = 0u; r < 2u; r++) {
    let row = j0 + y + 16u * r;
    for (var e = 0u; e < E; e++) {
      let d = d0 + x + 16u * e;
      if (WRITE_DK == 1u && row < p.Nk && d < p.DK) {
        dk[place(batch, row, d, p.Nk, p.DK)] = acc_k[e][r];
      }
      if (WRITE_DV == 1u && row < p.Nk && d < p.DV) {
        dv[place(batch, row, d, p.Nk, p.DV)] = acc_v[e][r];
      }
    }
  }
}
