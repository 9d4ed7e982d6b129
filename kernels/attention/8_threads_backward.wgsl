// attention/8_threads_backward — the map is made again from lse, a block at a time; nothing is added by two threads.
//
//   delta [B, Nq] = Σ dOut·out = Σ P·dP comes from delta.wgsl             (CHANNEL: [B, dims, positions])
//   queries Q, K, V, dOut, lse, delta  →  dq:   a thread owns four queries, keys pass by
//   keys    Q, K, V, dOut, lse, delta  →  dk, dv:   a thread owns four keys, queries pass by
//   P = exp(s - lse),  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// measured   lavapipe on two cores, 256-bit vectors, B16 N256 DK8 DV64: 48 ms, 5_subgroups 125.
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys. Each makes P and dP for itself:
//            a second pass costs less than adding to dq from many threads, which would need atomics.
// needs      any sizes. TD dims of the thread's own rows and TV of its V are kept in registers (DEEP: DK > TD, WIDE: DV > TV,
//            the rest is read again); tile.z takes the next TD columns of dq and dk and the next TV of dv. ALIGNED as
//            in the forward pass.
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
const ALIGNED = false;
const DEEP = false;
const WIDE = false;
const FOLDED = false;
const WRITE_DK = 1u;
const WRITE_DV = 1u;
const WG = 4u;
const TD = 8u;
const TV = 64u;
const TD4 = TD / 4u;
const TV4 = TV / 4u;

@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> dOut: array<vec4f>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> dq: array<f32>;
@group(0) @binding(6) var<storage, read_write> dk: array<f32>;
@group(0) @binding(7) var<storage, read_write> dv: array<f32>;
var<immediate> p: Params;

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

// Four positions by four dims, a column a dim; 0 where there is no such dim. Positions past the end repeat the last.
fn q_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    if (ALIGNED && CHANNEL) {
      let i = place(batch, min(n, p.Nq - 4u), min(d + c, p.DK - 1u), p.Nq, p.DK);
      m[c] = select(vec4f(), q[i >> 2u], d + c < p.DK);
    } else if (ALIGNED) {
      m[c] = q[place(batch, min(n + c, p.Nq - 1u), min(d, p.DK - 4u), p.Nq, p.DK) >> 2u];
    } else {
      for (var r = 0u; r < 4u; r++) {
        let i = place(batch, min(n + r, p.Nq - 1u), min(d + c, p.DK - 1u), p.Nq, p.DK);
        m[c][r] = select(0.0, q[i >> 2u][i & 3u], d + c < p.DK);
      }
    }
  }
  if (ALIGNED && !CHANNEL) {
    return transpose(m);
  }
  return m;
}

fn k_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    if (ALIGNED && CHANNEL) {
      let i = place(batch, min(n, p.Nk - 4u), min(d + c, p.DK - 1u), p.Nk, p.DK);
      m[c] = select(vec4f(), k[i >> 2u], d + c < p.DK);
    } else if (ALIGNED) {
      m[c] = k[place(batch, min(n + c, p.Nk - 1u), min(d, p.DK - 4u), p.Nk, p.DK) >> 2u];
    } else {
      for (var r = 0u; r < 4u; r++) {
        let i = place(batch, min(n + r, p.Nk - 1u), min(d + c, p.DK - 1u), p.Nk, p.DK);
        m[c][r] = select(0.0, k[i >> 2u][i & 3u], d + c < p.DK);
      }
    }
  }
  if (ALIGNED && !CHANNEL) {
    return transpose(m);
  }
  return m;
}

fn v_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    if (ALIGNED && CHANNEL) {
      let i = place(batch, min(n, p.Nk - 4u), min(d + c, p.DV - 1u), p.Nk, p.DV);
      m[c] = select(vec4f(), v[i >> 2u], d + c < p.DV);
    } else if (ALIGNED) {
      m[c] = v[place(batch, min(n + c, p.Nk - 1u), min(d, p.DV - 4u), p.Nk, p.DV) >> 2u];
    } else {
      for (var r = 0u; r < 4u; r++) {
        let i = place(batch, min(n + r, p.Nk - 1u), min(d + c, p.DV - 1u), p.Nk, p.DV);
        m[c][r] = select(0.0, v[i >> 2u][i & 3u], d + c < p.DV);
      }
    }
  }
  if (ALIGNED && !CHANNEL) {
    return transpose(m);
  }
  return m;
}

fn dOut_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    if (ALIGNED && CHANNEL) {
      let i = place(batch, min(n, p.Nq - 4u), min(d + c, p.DV - 1u), p.Nq, p.DV);
      m[c] = select(vec4f(), dOut[i >> 2u], d + c < p.DV);
    } else if (ALIGNED) {
      m[c] = dOut[place(batch, min(n + c, p.Nq - 1u), min(d, p.DV - 4u), p.Nq, p.DV) >> 2u];
    } else {
      for (var r = 0u; r < 4u; r++) {
        let i = place(batch, min(n + r, p.Nq - 1u), min(d + c, p.DV - 1u), p.Nq, p.DV);
        m[c][r] = select(0.0, dOut[i >> 2u][i & 3u], d + c < p.DV);
      }
    }
  }
  if (ALIGNED && !CHANNEL) {
    return transpose(m);
  }
  return m;
}

// acc + m·x, each column four fused multiply-adds.
fn plus(acc: mat4x4f, m: mat4x4f, x: mat4x4f) -> mat4x4f {
  var sum = acc;
  for (var t = 0u; t < 4u; t++) {
    for (var c = 0u; c < 4u; c++) {
      sum[t] = fma(m[c], vec4f(x[t][c]), sum[t]);
    }
  }
  return sum;
}

// x for positions before the end, 0 past it.
fn inside(x: vec4f, n: u32, N: u32) -> vec4f {
  if (ALIGNED && CHANNEL) {
    return x;
  }
  return select(vec4f(), x, vec4u(n, n + 1u, n + 2u, n + 3u) < vec4u(N));
}

// lse or delta of four queries from i.
fn four_of_lse(batch: u32, i: u32) -> vec4f {
  let last = p.Nq - 1u;
  let at = batch * p.Nq;
  return vec4f(
    lse[at + min(i, last)],
    lse[at + min(i + 1u, last)],
    lse[at + min(i + 2u, last)],
    lse[at + min(i + 3u, last)],
  );
}

fn four_of_delta(batch: u32, i: u32) -> vec4f {
  let last = p.Nq - 1u;
  let at = batch * p.Nq;
  return vec4f(
    delta[at + min(i, last)],
    delta[at + min(i + 1u, last)],
    delta[at + min(i + 2u, last)],
    delta[at + min(i + 3u, last)],
  );
}

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: vec4f) -> vec4f {
  return select(exp(d), d, (bitcast<vec4u>(d) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

@compute @workgroup_size(WG)
fn queries(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tile = tile_of(group, groups, (p.DK + TD - 1u) / TD);
  let batch = tile.y;
  let i0 = 4u * (tile.x * WG + lane);
  let d0 = tile.z * TD;

  // A column is a query: its dims in qs and acc, its keys in s, dp and ds.
  var qs: array<mat4x4f, TD4>;
  for (var d = 0u; d < TD4; d++) {
    qs[d] = transpose(q_block(batch, i0, 4u * d));
  }
  let ls = four_of_lse(batch, i0);
  let deltas = four_of_delta(batch, i0);
  var acc: array<mat4x4f, TD4>;

  for (var j = 0u; j < p.Nk; j += 4u) {
    var s = mat4x4f();
    for (var d = 0u; d < TD4; d++) {
      s = plus(s, k_block(batch, j, 4u * d), qs[d]);
    }
    if (DEEP) {
      for (var d = TD; d < p.DK; d += 4u) {
        s = plus(s, k_block(batch, j, d), transpose(q_block(batch, i0, d)));
      }
    }
    var dp = mat4x4f();
    for (var e = 0u; e < p.DV; e += 4u) {
      dp = plus(dp, v_block(batch, j, e), transpose(dOut_block(batch, i0, e)));
    }
    var ds = mat4x4f();
    for (var t = 0u; t < 4u; t++) {
      let weight = exponential(p.scale * s[t] - ls[t]);
      ds[t] = inside(p.scale * weight * (dp[t] - deltas[t]), j, p.Nk);
    }
    for (var d = 0u; d < TD4; d++) {
      acc[d] = plus(acc[d], transpose(k_block(batch, j, d0 + 4u * d)), ds);
    }
  }

  for (var t = 0u; t < 4u; t++) {
    for (var d = 0u; d < TD; d++) {
      if (i0 + t < p.Nq && d0 + d < p.DK) {
        dq[place(batch, i0 + t, d0 + d, p.Nq, p.DK)] = acc[d / 4u][t][d % 4u];
      }
    }
  }
}

@compute @workgroup_size(WG)
fn keys(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tile = tile_of(group, groups, max(WRITE_DK * ((p.DK + TD - 1u) / TD), WRITE_DV * ((p.DV + TV - 1u) / TV)));
  let batch = tile.y;
  let j0 = 4u * (tile.x * WG + lane);
  let d0 = tile.z * TD;
  let e0 = tile.z * TV;

  // A column is a key: its dims in ks, vs and the sums, its queries in s, dp and ds.
  var ks: array<mat4x4f, TD4>;
  for (var d = 0u; d < TD4; d++) {
    ks[d] = transpose(k_block(batch, j0, 4u * d));
  }
  var vs: array<mat4x4f, TV4>;
  for (var e = 0u; e < TV4; e++) {
    vs[e] = transpose(v_block(batch, j0, 4u * e));
  }
  var acc_k: array<mat4x4f, TD4>;
  var acc_v: array<mat4x4f, TV4>;

  for (var i = 0u; i < p.Nq; i += 4u) {
    var s = mat4x4f();
    for (var d = 0u; d < TD4; d++) {
      s = plus(s, q_block(batch, i, 4u * d), ks[d]);
    }
    if (DEEP) {
      for (var d = TD; d < p.DK; d += 4u) {
        s = plus(s, q_block(batch, i, d), transpose(k_block(batch, j0, d)));
      }
    }
    let ls = four_of_lse(batch, i);
    var weight = mat4x4f();
    for (var t = 0u; t < 4u; t++) {
      weight[t] = inside(exponential(p.scale * s[t] - ls), i, p.Nq);
    }
    var dp = mat4x4f();
    for (var e = 0u; e < TV4; e++) {
      let dos = dOut_block(batch, i, 4u * e);
      dp = plus(dp, dos, vs[e]);
      if (!WIDE) {
        acc_v[e] = plus(acc_v[e], transpose(dos), weight);
      }
    }
    if (WIDE) {
      for (var e = TV; e < p.DV; e += 4u) {
        dp = plus(dp, dOut_block(batch, i, e), transpose(v_block(batch, j0, e)));
      }
      for (var e = 0u; e < TV4; e++) {
        acc_v[e] = plus(acc_v[e], transpose(dOut_block(batch, i, e0 + 4u * e)), weight);
      }
    }
    let deltas = four_of_delta(batch, i);
    var ds = mat4x4f();
    for (var t = 0u; t < 4u; t++) {
      ds[t] = inside(p.scale * weight[t] * (dp[t] - deltas), i, p.Nq);
    }
    for (var d = 0u; d < TD4; d++) {
      acc_k[d] = plus(acc_k[d], transpose(q_block(batch, i, d0 + 4u * d)), ds);
    }
  }

  for (var t = 0u; t < 4u; t++) {
    for (var d = 0u; d < TD; d++) {
      if (WRITE_DK == 1u && j0 + t < p.Nk && d0 + d < p.DK) {
        dk[place(batch, j0 + t, d0 + d, p.Nk, p.DK)] = acc_k[d / 4u][t][d % 4u];
      }
    }
    for (var e = 0u; e < TV; e++) {
      if (WRITE_DV == 1u && j0 + t < p.Nk && e0 + e < p.DV) {
        dv[place(batch, j0 + t, e0 + e, p.Nk, p.DV)] = acc_v[e / 4u][t][e % 4u];
      }
    }
  }
}
