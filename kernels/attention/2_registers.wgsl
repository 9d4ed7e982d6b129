// attention/2_registers — a thread owns TR queries and lets every key and value pass by once; no N×N map.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//
// since 1    the scores of PB keys live in registers: softmax runs online, m is the maximum so far, l the sum of
//            exp(s - m), and acc is put right when m grows. Keys and values have the same address for every thread of a
//            workgroup, so a CPU driver loads them once for all lanes. No barrier, no workgroup memory.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads (Nq / (WG·TR))·Nk·(DK + DV) floats a batch from the cache.
// needs      any sizes. TD dims of Q are kept in registers, those past it are read again; TV columns of V in a pass, and
//            group.z takes the next TV. ALIGNED: Nq, Nk, DK, DV are multiples of 4; MASKED: Nk is no multiple of PB.
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
const WG = 4u;
const TR = 4u;
const PB = 8u;
const TD = 8u;
const TV = 64u;
const PB4 = PB / 4u;
const TD4 = TD / 4u;
const TV4 = TV / 4u;
// Lowest start of a maximum; its product with log2(e) is still finite.
const LOWEST = -1e38;

@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
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

// Column c: four positions from n, at dim d + c; 0 where there is no such dim. Positions past the end repeat the last.
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

// acc + m·x: four fused multiply-adds of columns.
fn plus(acc: vec4f, m: mat4x4f, x: vec4f) -> vec4f {
  let low = fma(m[1], vec4f(x.y), fma(m[0], vec4f(x.x), acc));
  return fma(m[3], vec4f(x.w), fma(m[2], vec4f(x.z), low));
}

fn total(x: vec4f) -> f32 {
  return (x.x + x.y) + (x.z + x.w);
}

fn largest(x: vec4f) -> f32 {
  return max(max(x.x, x.y), max(x.z, x.w));
}

// Keys past the end get no weight.
fn masked(s: vec4f, j: u32) -> vec4f {
  if (!MASKED) {
    return s;
  }
  return select(vec4f(LOWEST), s, vec4u(j, j + 1u, j + 2u, j + 3u) < vec4u(p.Nk));
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let batch = group.y;
  let i0 = group.x * WG * TR + lane;
  let e0 = group.z * TV;

  var qs: array<array<vec4f, TD4>, TR>;
  var m: array<f32, TR>;
  var l: array<f32, TR>;
  var acc: array<array<vec4f, TV4>, TR>;
  for (var t = 0u; t < TR; t++) {
    m[t] = LOWEST;
    for (var d = 0u; d < TD4; d++) {
      qs[t][d] = q_four(batch, i0 + t * WG, 4u * d);
    }
  }

  for (var j = 0u; j < p.Nk; j += PB) {
    var s = array<array<vec4f, PB4>, TR>();
    for (var c = 0u; c < PB4; c++) {
      for (var d = 0u; d < TD4; d++) {
        let ks = k_block(batch, j + 4u * c, 4u * d);
        for (var t = 0u; t < TR; t++) {
          s[t][c] = plus(s[t][c], ks, qs[t][d]);
        }
      }
      for (var d = TD; d < p.DK; d += 4u) {
        let ks = k_block(batch, j + 4u * c, d);
        for (var t = 0u; t < TR; t++) {
          s[t][c] = plus(s[t][c], ks, q_four(batch, i0 + t * WG, d));
        }
      }
    }
    for (var t = 0u; t < TR; t++) {
      var top = m[t];
      for (var c = 0u; c < PB4; c++) {
        s[t][c] = masked(p.scale * s[t][c], j + 4u * c);
        top = max(top, largest(s[t][c]));
      }
      let shrink = exp(m[t] - top);
      m[t] = top;
      l[t] *= shrink;
      for (var c = 0u; c < PB4; c++) {
        s[t][c] = exp(s[t][c] - top);
        l[t] += total(s[t][c]);
      }
      for (var e = 0u; e < TV4; e++) {
        acc[t][e] *= shrink;
      }
    }
    for (var e = 0u; e < TV4; e++) {
      for (var c = 0u; c < PB4; c++) {
        let vs = transpose(v_block(batch, j + 4u * c, e0 + 4u * e));
        for (var t = 0u; t < TR; t++) {
          acc[t][e] = plus(acc[t][e], vs, s[t][c]);
        }
      }
    }
  }

  for (var t = 0u; t < TR; t++) {
    let i = i0 + t * WG;
    for (var e = 0u; e < TV; e++) {
      if (i < p.Nq && e0 + e < p.DV) {
        out[place(batch, i, e0 + e, p.Nq, p.DV)] = acc[t][e / 4u][e % 4u] / l[t];
      }
    }
    if (i < p.Nq && group.z == 0u) {
      lse[batch * p.Nq + i] = m[t] + log(l[t]);
    }
  }
}
