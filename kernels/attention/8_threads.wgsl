// attention/8_threads — a thread owns four queries and lets every key and value pass by once; no N×N map.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//
// since 5    for CPU drivers, whose barriers are dear: no barrier, no workgroup memory. The scores of PB keys live in registers;
//            softmax runs online: m is the maximum so far, l the sum of exp(s - m), and acc is put right when m grows.
// measured   lavapipe on two cores, 256-bit vectors, B16 N256 DK8 DV64: 19 to 30 ms, 5_subgroups 19 to 21: the driver loads keys
//            and values lane by lane, although all lanes want the same, which rung 9 mends.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads Nq / (4·WG)·Nk·(DK + DV) floats a batch from the cache.
// needs      any sizes. TD dims of Q are kept in registers (DEEP: DK > TD, those past it are read again); tile.z takes
//            the next TV columns of V. ALIGNED: the contiguous axis of every tensor is a multiple of 4, and is read as
//            vec4s. MASKED: Nk is no multiple of PB.
// after      Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022.
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
const DEEP = false;
const FOLDED = false;
const WG = 4u;
const PB = 8u;
const TD = 8u;
const TV = 64u;
const PB4 = PB / 4u;
const TD4 = TD / 4u;
const TV4 = TV / 4u;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
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

fn largest(x: vec4f) -> f32 {
  return max(max(x.x, x.y), max(x.z, x.w));
}

fn total(x: vec4f) -> f32 {
  return (x.x + x.y) + (x.z + x.w);
}

// `other` for keys past the end.
fn masked(s: vec4f, j: u32, other: f32) -> vec4f {
  if (!MASKED) {
    return s;
  }
  return select(vec4f(other), s, vec4u(j, j + 1u, j + 2u, j + 3u) < vec4u(p.Nk));
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
  @builtin(local_invocation_index) lane: u32,
) {
  let tile = tile_of(group, groups, (p.DV + TV - 1u) / TV);
  let batch = tile.y;
  let i0 = 4u * (tile.x * WG + lane);
  let e0 = tile.z * TV;

  // A column is a query: its dims in qs and acc, its keys in s.
  var qs: array<mat4x4f, TD4>;
  for (var d = 0u; d < TD4; d++) {
    qs[d] = transpose(q_block(batch, i0, 4u * d));
  }
  var m = vec4f(LOWEST);
  var l = vec4f();
  var acc: array<mat4x4f, TV4>;

  for (var j = 0u; j < p.Nk; j += PB) {
    // Without the initial value Dawn 0.6.2 keeps what the round before left.
    var s = array<mat4x4f, PB4>();
    for (var c = 0u; c < PB4; c++) {
      for (var d = 0u; d < TD4; d++) {
        s[c] = plus(s[c], k_block(batch, j + 4u * c, 4u * d), qs[d]);
      }
      if (DEEP) {
        for (var d = TD; d < p.DK; d += 4u) {
          s[c] = plus(s[c], k_block(batch, j + 4u * c, d), transpose(q_block(batch, i0, d)));
        }
      }
    }
    var top = m;
    for (var c = 0u; c < PB4; c++) {
      for (var t = 0u; t < 4u; t++) {
        s[c][t] = masked(p.scale * s[c][t], j + 4u * c, LOWEST);
        top[t] = max(top[t], largest(s[c][t]));
      }
    }
    let shrink = exp(m - top);
    m = top;
    l *= shrink;
    for (var c = 0u; c < PB4; c++) {
      for (var t = 0u; t < 4u; t++) {
        s[c][t] = masked(exponential(s[c][t] - top[t]), j + 4u * c, 0.0);
        l[t] += total(s[c][t]);
      }
    }
    for (var e = 0u; e < TV4; e++) {
      for (var t = 0u; t < 4u; t++) {
        acc[e][t] *= shrink[t];
      }
      for (var c = 0u; c < PB4; c++) {
        acc[e] = plus(acc[e], transpose(v_block(batch, j + 4u * c, e0 + 4u * e)), s[c]);
      }
    }
  }

  for (var t = 0u; t < 4u; t++) {
    let i = i0 + t;
    for (var e = 0u; e < TV; e++) {
      if (i < p.Nq && e0 + e < p.DV) {
        out[place(batch, i, e0 + e, p.Nq, p.DV)] = acc[e / 4u][t][e % 4u] / l[t];
      }
    }
    if (i < p.Nq && tile.z == 0u) {
      lse[batch * p.Nq + i] = m[t] + logarithm(l[t]);
    }
  }
}
