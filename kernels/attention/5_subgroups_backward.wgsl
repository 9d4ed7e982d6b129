// attention/5_subgroups_backward — rung 5's vec4s, once with queries as rows for dq and once with keys as rows.
//
//   delta [B, Nq] = Σ dOut·out = Σ P·dP comes from delta.wgsl                         (CHANNEL: [B, dims, positions])
//   queries Q, K, V, dOut, lse, delta  →  dq:       a workgroup owns 64 queries, keys pass by
//   keys    Q, K, V, dOut, lse, delta  →  dk, dv:   a workgroup owns 64 keys, queries pass by
//   P = exp(s - lse),  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// since 4    2 loads from workgroup memory for 16 multiply-adds, as in the forward pass. No row is reduced here, so no
//            shuffle is needed: lse and delta were saved. Gain on a GPU: not yet timed.
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys.
// needs      any sizes; 16·X invocations, 16 KiB of workgroup memory. tile.z takes the next TV columns of the results.
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
const FOLDED = false;
const WRITE_DK = 1u;
const WRITE_DV = 1u;
// Threads of a row.
const X = 4u;
const ROWS = 64u;
const COLS = 32u;
const DC = 8u;
const TV = 64u;
const WG = 16u * X;
const TN = COLS / X;
const E4 = TV / 4u / X;

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

alias Tensor = ptr<storage, array<f32>, read>;

// DC dims of the rows, then of the columns, dims first, a vec4 four positions; between two products COLS rows of the
// tensor that is weighed. Beside it the weights, a vec4 four of a column's rows. A thread owns rows 4y … 4y + 3.
var<workgroup> stage: array<vec4f, COLS * TV / 4u>;
var<workgroup> weights: array<vec4f, COLS * ROWS / 4u>;

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
fn value(t: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32) -> f32 {
  if (n >= N || d >= D) {
    return 0.0;
  }
  return t[place(batch, n, d, N, D)];
}

// Dim d of positions n … n + 3.
fn four(t: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32) -> vec4f {
  return vec4f(
    value(t, batch, n, d, N, D),
    value(t, batch, n + 1u, d, N, D),
    value(t, batch, n + 2u, d, N, D),
    value(t, batch, n + 3u, d, N, D),
  );
}

// s[c] = Σ over D of rows 4y … 4y + 3 times column x + X·c, of two tensors, DC dims at a time.
fn product(a: Tensor, b: Tensor, batch: u32, n: vec2u, N: vec2u, D: u32, thread: u32) -> array<vec4f, TN> {
  let x = thread % X;
  let y = thread / X;
  let cols = DC * 16u;
  var s: array<vec4f, TN>;
  for (var d0 = 0u; d0 < D; d0 += DC) {
    for (var i = thread; i < DC * 16u; i += WG) {
      let r = select(i / DC, i % 16u, CHANNEL);
      let d = select(i % DC, i / 16u, CHANNEL);
      stage[d * 16u + r] = four(a, batch, n.x + 4u * r, d0 + d, N.x, D);
    }
    for (var i = thread; i < DC * 8u; i += WG) {
      let c = select(i / DC, i % 8u, CHANNEL);
      let d = select(i % DC, i / 8u, CHANNEL);
      stage[cols + d * 8u + c] = four(b, batch, n.y + 4u * c, d0 + d, N.y, D);
    }
    workgroupBarrier(); // both tiles are complete
    for (var d = 0u; d < DC; d++) {
      let r = stage[d * 16u + y];
      for (var c = 0u; c < TN; c++) {
        let at = x + X * c;
        s[c] = fma(r, vec4f(stage[cols + d * 8u + at / 4u][at % 4u]), s[c]);
      }
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  return s;
}

// stage[c][e] = dim d0 + e of position n + c, four dims a vec4. A barrier must follow.
fn load_wide(t: Tensor, batch: u32, n: u32, d0: u32, N: u32, D: u32, thread: u32) {
  for (var i = thread; i < COLS * TV / 4u; i += WG) {
    let c = select(i / (TV / 4u), i % COLS, CHANNEL);
    let e = select(i % (TV / 4u), i / COLS, CHANNEL);
    let d = d0 + 4u * e;
    stage[c * (TV / 4u) + e] = vec4f(
      value(t, batch, n + c, d, N, D),
      value(t, batch, n + c, d + 1u, N, D),
      value(t, batch, n + c, d + 2u, N, D),
      value(t, batch, n + c, d + 3u, N, D),
    );
  }
}

// A barrier must follow.
fn store_weights(w: array<vec4f, TN>, thread: u32) {
  for (var c = 0u; c < TN; c++) {
    weights[(thread % X + X * c) * 16u + thread / X] = w[c];
  }
}

// acc + weights · stage: of the thread's four rows (a column each) and its dims 4(x + X·e) … + 3.
fn weighed(acc: array<mat4x4f, E4>, thread: u32) -> array<mat4x4f, E4> {
  var sum = acc;
  for (var c = 0u; c < COLS; c++) {
    let w = weights[c * 16u + thread / X];
    for (var e = 0u; e < E4; e++) {
      let x = stage[c * (TV / 4u) + thread % X + X * e];
      for (var r = 0u; r < 4u; r++) {
        sum[e][r] = fma(vec4f(w[r]), x, sum[e][r]);
      }
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
  let r0 = tile.x * ROWS;
  let d0 = tile.z * TV;
  let x = thread % X;
  let y = thread / X;
  var ls = vec4f();
  var deltas = vec4f();
  for (var r = 0u; r < 4u; r++) {
    let i = batch * p.Nq + min(r0 + 4u * y + r, p.Nq - 1u);
    ls[r] = lse[i];
    deltas[r] = delta[i];
  }

  var acc: array<mat4x4f, E4>;
  for (var j0 = 0u; j0 < p.Nk; j0 += COLS) {
    var s = product(&q, &k, batch, vec2u(r0, j0), vec2u(p.Nq, p.Nk), p.DK, thread);
    let dp = product(&dOut, &v, batch, vec2u(r0, j0), vec2u(p.Nq, p.Nk), p.DV, thread);
    for (var c = 0u; c < TN; c++) {
      // A key past the end has s = 0, not a score: it gets no weight.
      let ds = p.scale * exponential(p.scale * s[c] - ls) * (dp[c] - deltas);
      s[c] = select(vec4f(), ds, j0 + x + X * c < p.Nk);
    }
    store_weights(s, thread);
    load_wide(&k, batch, j0, d0, p.Nk, p.DK, thread);
    workgroupBarrier(); // dS and keys are complete
    acc = weighed(acc, thread);
    workgroupBarrier(); // nobody reads them any more
  }

  for (var r = 0u; r < 4u; r++) {
    let row = r0 + 4u * y + r;
    for (var e = 0u; e < E4; e++) {
      for (var c = 0u; c < 4u; c++) {
        let d = d0 + 4u * (x + X * e) + c;
        if (row < p.Nq && d < p.DK) {
          dq[place(batch, row, d, p.Nq, p.DK)] = acc[e][r][c];
        }
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
  let r0 = tile.x * ROWS;
  let d0 = tile.z * TV;
  let x = thread % X;
  let y = thread / X;

  var acc_k: array<mat4x4f, E4>;
  var acc_v: array<mat4x4f, E4>;
  for (var i0 = 0u; i0 < p.Nq; i0 += COLS) {
    var s = product(&k, &q, batch, vec2u(r0, i0), vec2u(p.Nk, p.Nq), p.DK, thread);
    for (var c = 0u; c < TN; c++) {
      // A query past the end has s = 0, not a score: it gets no weight.
      let i = i0 + x + X * c;
      let w = exponential(p.scale * s[c] - lse[batch * p.Nq + min(i, p.Nq - 1u)]);
      s[c] = select(vec4f(), w, i < p.Nq);
    }
    if (WRITE_DV == 1u) {
      store_weights(s, thread);
      load_wide(&dOut, batch, i0, d0, p.Nq, p.DV, thread);
      workgroupBarrier(); // P and dOut are complete
      acc_v = weighed(acc_v, thread);
      workgroupBarrier(); // nobody reads them any more
    }
    if (WRITE_DK == 1u) {
      let dp = product(&v, &dOut, batch, vec2u(r0, i0), vec2u(p.Nk, p.Nq), p.DV, thread);
      for (var c = 0u; c < TN; c++) {
        let i = i0 + x + X * c;
        let ds = p.scale * s[c] * (dp[c] - delta[batch * p.Nq + min(i, p.Nq - 1u)]);
        s[c] = select(vec4f(), ds, i < p.Nq);
      }
      store_weights(s, thread);
      load_wide(&q, batch, i0, d0, p.Nq, p.DK, thread);
      workgroupBarrier(); // dS and queries are complete
      acc_k = weighed(acc_k, thread);
      workgroupBarrier(); // nobody reads them any more
    }
  }

  for (var r = 0u; r < 4u; r++) {
    let row = r0 + 4u * y + r;
    for (var e = 0u; e < E4; e++) {
      for (var c = 0u; c < 4u; c++) {
        let d = d0 + 4u * (x + X * e) + c;
        if (WRITE_DK == 1u && row < p.Nk && d < p.DK) {
          dk[place(batch, row, d, p.Nk, p.DK)] = acc_k[e][r][c];
        }
      }
    }
  }
  for (var r = 0u; r < 4u; r++) {
    let row = r0 + 4u * y + r;
    for (var e = 0u; e < E4; e++) {
      for (var c = 0u; c < 4u; c++) {
        let d = d0 + 4u * (x + X * e) + c;
        if (WRITE_DV == 1u && row < p.Nk && d < p.DV) {
          dv[place(batch, row, d, p.Nk, p.DV)] = acc_v[e][r][c];
        }
      }
    }
  }
}
