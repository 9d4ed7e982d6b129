// attention/2_rows_backward — a workgroup owns one query for dq, or one key for dk and dv, and makes its row of P again.
//
//   delta [B, Nq] = Σ dOut·out = Σ P·dP comes from delta.wgsl             (CHANNEL: [B, dims, positions])
//   queries Q, K, V, dOut, lse, delta  →  dq:       keys pass by
//   keys    Q, K, V, dOut, lse, delta  →  dk, dv:   queries pass by
//   P = exp(s - lse),  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// since 1    P comes out of the saved log-sum-exp, WG of its elements at a time, a thread an element; then a thread is a
//            column of the result. Nobody adds to another's result: two loops with P made twice need no atomics.
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys; both read every row of the
//            other side once a row of their own. Gain on a GPU: not yet timed.
// needs      any sizes; 8·WG bytes of workgroup memory. tile.z takes the next TV = WG columns of the results.
// after      Dao 2023, algorithm 2, with its one loop taken apart.
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
const WG = 64u;
const TV = WG;

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

// P and dS of a block.
var<workgroup> weights: array<vec2f, WG>;

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

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: f32) -> f32 {
  return select(exp(d), d, (bitcast<u32>(d) & 0x7fffffffu) > 0x7f800000u);
}

// (P, dS) of query i and key j.
fn weight_of(batch: u32, i: u32, j: u32) -> vec2f {
  var s = 0.0;
  for (var d = 0u; d < p.DK; d++) {
    s = fma(q[place(batch, i, d, p.Nq, p.DK)], k[place(batch, j, d, p.Nk, p.DK)], s);
  }
  var dp = 0.0;
  for (var e = 0u; e < p.DV; e++) {
    dp = fma(dOut[place(batch, i, e, p.Nq, p.DV)], v[place(batch, j, e, p.Nk, p.DV)], dp);
  }
  let w = exponential(p.scale * s - lse[batch * p.Nq + i]);
  return vec2f(w, p.scale * w * (dp - delta[batch * p.Nq + i]));
}

@compute @workgroup_size(WG)
fn queries(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let tile = tile_of(group, groups, (p.DK + TV - 1u) / TV);
  let batch = tile.y;
  let i = min(tile.x, p.Nq - 1u);
  let d = tile.z * TV + thread;

  var acc = 0.0;
  for (var j0 = 0u; j0 < p.Nk; j0 += WG) {
    if (j0 + thread < p.Nk) {
      weights[thread] = weight_of(batch, i, j0 + thread);
    }
    workgroupBarrier(); // the weights are complete
    if (d < p.DK) {
      for (var c = 0u; c < min(WG, p.Nk - j0); c++) {
        acc = fma(weights[c].y, k[place(batch, j0 + c, d, p.Nk, p.DK)], acc);
      }
    }
    workgroupBarrier(); // nobody reads them any more
  }

  if (tile.x < p.Nq && d < p.DK) {
    dq[place(batch, i, d, p.Nq, p.DK)] = acc;
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
  let j = min(tile.x, p.Nk - 1u);
  let d = tile.z * TV + thread;

  var acc_k = 0.0;
  var acc_v = 0.0;
  for (var i0 = 0u; i0 < p.Nq; i0 += WG) {
    if (i0 + thread < p.Nq) {
      weights[thread] = weight_of(batch, i0 + thread, j);
    }
    workgroupBarrier(); // the weights are complete
    for (var c = 0u; c < min(WG, p.Nq - i0); c++) {
      if (WRITE_DV == 1u && d < p.DV) {
        acc_v = fma(weights[c].x, dOut[place(batch, i0 + c, d, p.Nq, p.DV)], acc_v);
      }
      if (WRITE_DK == 1u && d < p.DK) {
        acc_k = fma(weights[c].y, q[place(batch, i0 + c, d, p.Nq, p.DK)], acc_k);
      }
    }
    workgroupBarrier(); // nobody reads them any more
  }

  if (WRITE_DK == 1u && tile.x < p.Nk && d < p.DK) {
    dk[place(batch, j, d, p.Nk, p.DK)] = acc_k;
  }
  if (WRITE_DV == 1u && tile.x < p.Nk && d < p.DV) {
    dv[place(batch, j, d, p.Nk, p.DV)] = acc_v;
  }
}
