// attention/2_registers_backward — the map is made again from lse, a block at a time; nothing is added by two threads.
//
//   delta [B, Nq] = Σ dOut·out = Σ P·dP comes from delta.wgsl                                  (CHANNEL: [B, dims, positions])
//   queries Q, K, V, dOut, lse, delta  →  dq:   a thread owns TR queries, keys pass by
//   keys    Q, K, V, dOut, lse, delta  →  dk, dv:   a thread owns TR keys, queries pass by
//   P = exp(s - lse),  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys. Each makes P and dP for itself:
//            a second pass costs less than adding to dq from many threads, which would need atomics.
// needs      any sizes. TD and TV dims are kept in registers and the rest read again; group.z takes the next TD columns
//            of dq and dk and the next TV of dv. ALIGNED as in the forward pass; MASKED: Nq or Nk is no multiple of 4.
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
const MASKED = true;
// WIDE: DV > TV, so that the columns of dv that a thread owns need not be the first.
const WIDE = false;
const WRITE_DK = true;
const WRITE_DV = true;
const WG = 4u;
const TR = 4u;
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

// Where dim d of position n is, in a tensor of N positions and D dims.
fn place(batch: u32, n: u32, d: u32, N: u32, D: u32) -> u32 {
  return select((batch * N + n) * D + d, (batch * D + d) * N + n, CHANNEL);
}

// Four dims of one position, 0 where there is no such dim.
fn q_four(batch: u32, n: u32, d: u32) -> vec4f {
  var x = vec4f();
  for (var c = 0u; c < 4u; c++) {
    let i = place(batch, min(n, p.Nq - 1u), min(d + c, p.DK - 1u), p.Nq, p.DK);
    x[c] = select(0.0, q[i >> 2u][i & 3u], d + c < p.DK);
  }
  return x;
}

fn k_four(batch: u32, n: u32, d: u32) -> vec4f {
  var x = vec4f();
  for (var c = 0u; c < 4u; c++) {
    let i = place(batch, min(n, p.Nk - 1u), min(d + c, p.DK - 1u), p.Nk, p.DK);
    x[c] = select(0.0, k[i >> 2u][i & 3u], d + c < p.DK);
  }
  return x;
}

fn v_four(batch: u32, n: u32, d: u32) -> vec4f {
  var x = vec4f();
  for (var c = 0u; c < 4u; c++) {
    let i = place(batch, min(n, p.Nk - 1u), min(d + c, p.DV - 1u), p.Nk, p.DV);
    x[c] = select(0.0, v[i >> 2u][i & 3u], d + c < p.DV);
  }
  return x;
}

fn dOut_four(batch: u32, n: u32, d: u32) -> vec4f {
  var x = vec4f();
  for (var c = 0u; c < 4u; c++) {
    let i = place(batch, min(n, p.Nq - 1u), min(d + c, p.DV - 1u), p.Nq, p.DV);
    x[c] = select(0.0, dOut[i >> 2u][i & 3u], d + c < p.DV);
  }
  return x;
}

// Column c: four positions from n, at dim d + c; 0 where there is no such dim. Positions past the end repeat the last.
fn q_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  if (ALIGNED) {
    let i = place(batch, min(n, p.Nq - 4u), min(d, p.DK - 4u), p.Nq, p.DK) >> 2u;
    let step = select(p.DK, p.Nq, CHANNEL) >> 2u;
    let m = mat4x4f(q[i], q[i + step], q[i + 2u * step], q[i + 3u * step]);
    if (CHANNEL) {
      return m;
    }
    return transpose(m);
  }
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    for (var r = 0u; r < 4u; r++) {
      let i = place(batch, min(n + r, p.Nq - 1u), min(d + c, p.DK - 1u), p.Nq, p.DK);
      m[c][r] = select(0.0, q[i >> 2u][i & 3u], d + c < p.DK);
    }
  }
  return m;
}

fn k_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  if (ALIGNED) {
    let i = place(batch, min(n, p.Nk - 4u), min(d, p.DK - 4u), p.Nk, p.DK) >> 2u;
    let step = select(p.DK, p.Nk, CHANNEL) >> 2u;
    let m = mat4x4f(k[i], k[i + step], k[i + 2u * step], k[i + 3u * step]);
    if (CHANNEL) {
      return m;
    }
    return transpose(m);
  }
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    for (var r = 0u; r < 4u; r++) {
      let i = place(batch, min(n + r, p.Nk - 1u), min(d + c, p.DK - 1u), p.Nk, p.DK);
      m[c][r] = select(0.0, k[i >> 2u][i & 3u], d + c < p.DK);
    }
  }
  return m;
}

fn v_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  if (ALIGNED) {
    let i = place(batch, min(n, p.Nk - 4u), min(d, p.DV - 4u), p.Nk, p.DV) >> 2u;
    let step = select(p.DV, p.Nk, CHANNEL) >> 2u;
    let m = mat4x4f(v[i], v[i + step], v[i + 2u * step], v[i + 3u * step]);
    if (CHANNEL) {
      return m;
    }
    return transpose(m);
  }
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    for (var r = 0u; r < 4u; r++) {
      let i = place(batch, min(n + r, p.Nk - 1u), min(d + c, p.DV - 1u), p.Nk, p.DV);
      m[c][r] = select(0.0, v[i >> 2u][i & 3u], d + c < p.DV);
    }
  }
  return m;
}

fn dOut_block(batch: u32, n: u32, d: u32) -> mat4x4f {
  if (ALIGNED) {
    let i = place(batch, min(n, p.Nq - 4u), min(d, p.DV - 4u), p.Nq, p.DV) >> 2u;
    let step = select(p.DV, p.Nq, CHANNEL) >> 2u;
    let m = mat4x4f(dOut[i], dOut[i + step], dOut[i + 2u * step], dOut[i + 3u * step]);
    if (CHANNEL) {
      return m;
    }
    return transpose(m);
  }
  var m = mat4x4f();
  for (var c = 0u; c < 4u; c++) {
    for (var r = 0u; r < 4u; r++) {
      let i = place(batch, min(n + r, p.Nq - 1u), min(d + c, p.DV - 1u), p.Nq, p.DV);
      m[c][r] = select(0.0, dOut[i >> 2u][i & 3u], d + c < p.DV);
    }
  }
  return m;
}

// acc + m·x: four fused multiply-adds of columns.
fn plus(acc: vec4f, m: mat4x4f, x: vec4f) -> vec4f {
  let low = fma(m[1], vec4f(x.y), fma(m[0], vec4f(x.x), acc));
  return fma(m[3], vec4f(x.w), fma(m[2], vec4f(x.z), low));
}

// 1 for positions before the end, 0 past it.
fn inside(n: u32, N: u32) -> vec4f {
  return select(vec4f(), vec4f(1.0), vec4u(n, n + 1u, n + 2u, n + 3u) < vec4u(N));
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

@compute @workgroup_size(WG)
fn queries(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let batch = group.y;
  let i0 = group.x * WG * TR + lane;
  let d0 = group.z * TD;

  var qs: array<array<vec4f, TD4>, TR>;
  var dos: array<array<vec4f, TV4>, TR>;
  var ls: array<f32, TR>;
  var deltas: array<f32, TR>;
  var acc: array<array<vec4f, TD4>, TR>;
  for (var t = 0u; t < TR; t++) {
    let i = min(i0 + t * WG, p.Nq - 1u);
    ls[t] = lse[batch * p.Nq + i];
    deltas[t] = delta[batch * p.Nq + i];
    for (var d = 0u; d < TD4; d++) {
      qs[t][d] = q_four(batch, i, 4u * d);
    }
    for (var e = 0u; e < TV4; e++) {
      dos[t][e] = dOut_four(batch, i, 4u * e);
    }
  }

  for (var j = 0u; j < p.Nk; j += 4u) {
    // Keys along the vec4: scores, then dS.
    var s = array<vec4f, TR>();
    for (var d = 0u; d < TD4; d++) {
      let ks = k_block(batch, j, 4u * d);
      for (var t = 0u; t < TR; t++) {
        s[t] = plus(s[t], ks, qs[t][d]);
      }
    }
    for (var d = TD; d < p.DK; d += 4u) {
      let ks = k_block(batch, j, d);
      for (var t = 0u; t < TR; t++) {
        s[t] = plus(s[t], ks, q_four(batch, i0 + t * WG, d));
      }
    }
    var dp = array<vec4f, TR>();
    for (var e = 0u; e < TV4; e++) {
      let vs = v_block(batch, j, 4u * e);
      for (var t = 0u; t < TR; t++) {
        dp[t] = plus(dp[t], vs, dos[t][e]);
      }
    }
    for (var e = TV; e < p.DV; e += 4u) {
      let vs = v_block(batch, j, e);
      for (var t = 0u; t < TR; t++) {
        dp[t] = plus(dp[t], vs, dOut_four(batch, i0 + t * WG, e));
      }
    }
    for (var t = 0u; t < TR; t++) {
      let weight = exp(p.scale * s[t] - ls[t]);
      s[t] = p.scale * weight * (dp[t] - deltas[t]);
      if (MASKED) {
        s[t] *= inside(j, p.Nk);
      }
    }
    for (var d = 0u; d < TD4; d++) {
      let ks = transpose(k_block(batch, j, d0 + 4u * d));
      for (var t = 0u; t < TR; t++) {
        acc[t][d] = plus(acc[t][d], ks, s[t]);
      }
    }
  }

  for (var t = 0u; t < TR; t++) {
    let i = i0 + t * WG;
    for (var d = 0u; d < TD; d++) {
      if (i < p.Nq && d0 + d < p.DK) {
        dq[place(batch, i, d0 + d, p.Nq, p.DK)] = acc[t][d / 4u][d % 4u];
      }
    }
  }
}

@compute @workgroup_size(WG)
fn keys(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let batch = group.y;
  let j0 = group.x * WG * TR + lane;
  let d0 = group.z * TD;
  let e0 = group.z * TV;

  var ks: array<array<vec4f, TD4>, TR>;
  var vs: array<array<vec4f, TV4>, TR>;
  var acc_k: array<array<vec4f, TD4>, TR>;
  var acc_v: array<array<vec4f, TV4>, TR>;
  for (var t = 0u; t < TR; t++) {
    for (var d = 0u; d < TD4; d++) {
      ks[t][d] = k_four(batch, j0 + t * WG, 4u * d);
    }
    for (var e = 0u; e < TV4; e++) {
      vs[t][e] = v_four(batch, j0 + t * WG, 4u * e);
    }
  }

  for (var i = 0u; i < p.Nq; i += 4u) {
    // Queries along the vec4: scores, P, then dS.
    var s = array<vec4f, TR>();
    for (var d = 0u; d < TD4; d++) {
      let qs = q_block(batch, i, 4u * d);
      for (var t = 0u; t < TR; t++) {
        s[t] = plus(s[t], qs, ks[t][d]);
      }
    }
    for (var d = TD; d < p.DK; d += 4u) {
      let qs = q_block(batch, i, d);
      for (var t = 0u; t < TR; t++) {
        s[t] = plus(s[t], qs, k_four(batch, j0 + t * WG, d));
      }
    }
    let ls = four_of_lse(batch, i);
    for (var t = 0u; t < TR; t++) {
      s[t] = exp(p.scale * s[t] - ls);
      if (MASKED) {
        s[t] *= inside(i, p.Nq);
      }
    }
    var dp = array<vec4f, TR>();
    for (var e = 0u; e < TV4; e++) {
      let dos = dOut_block(batch, i, 4u * e);
      for (var t = 0u; t < TR; t++) {
        dp[t] = plus(dp[t], dos, vs[t][e]);
      }
      if (!WIDE) {
        for (var t = 0u; t < TR; t++) {
          acc_v[t][e] = plus(acc_v[t][e], transpose(dos), s[t]);
        }
      }
    }
    for (var e = TV; e < p.DV; e += 4u) {
      let dos = dOut_block(batch, i, e);
      for (var t = 0u; t < TR; t++) {
        dp[t] = plus(dp[t], dos, v_four(batch, j0 + t * WG, e));
      }
    }
    if (WIDE) {
      for (var e = 0u; e < TV4; e++) {
        let dos = transpose(dOut_block(batch, i, e0 + 4u * e));
        for (var t = 0u; t < TR; t++) {
          acc_v[t][e] = plus(acc_v[t][e], dos, s[t]);
        }
      }
    }
    let deltas = four_of_delta(batch, i);
    for (var t = 0u; t < TR; t++) {
      s[t] = p.scale * s[t] * (dp[t] - deltas);
    }
    for (var d = 0u; d < TD4; d++) {
      let qs = transpose(q_block(batch, i, d0 + 4u * d));
      for (var t = 0u; t < TR; t++) {
        acc_k[t][d] = plus(acc_k[t][d], qs, s[t]);
      }
    }
  }

  for (var t = 0u; t < TR; t++) {
    let j = j0 + t * WG;
    for (var d = 0u; d < TD; d++) {
      if (WRITE_DK && j < p.Nk && d0 + d < p.DK) {
        dk[place(batch, j, d0 + d, p.Nk, p.DK)] = acc_k[t][d / 4u][d % 4u];
      }
    }
    for (var e = 0u; e < TV; e++) {
      if (WRITE_DV && j < p.Nk && e0 + e < p.DV) {
        dv[place(batch, j, e0 + e, p.Nk, p.DV)] = acc_v[t][e / 4u][e % 4u];
      }
    }
  }
}
