// attention/masked_backward — the visible part of the map is made again from lse; nothing is added by two threads.
//
//   statistics  out, dOut, lse  →  stats [B, Nq] = (lse, Σ dOut·out): one tensor, for want of bindings
//   queries     Q, K, V, dOut, stats, mask  →  dq:       a thread owns four queries, keys pass by
//   keys        Q, K, V, dOut, stats, mask  →  dk, dv:   a thread owns four keys, queries pass by
//   P = exp(s - lse), 0 where hidden,  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys, half of them where CAUSAL: queries
//            stop at the last key that they see, and keys begin with the first query that sees them.
// needs      TD ≤ DK, TV ≤ DV. TD dims of the thread's own rows and TV of its V or dOut are kept in registers (DEEP: DK > TD, WIDE:
//            DV > TV, the rest is read again); another thread takes the next TD columns of dq and dk and the next TV of dv.
// after      Dao 2023, algorithm 2, with its one loop taken apart.
alias Stored = f32;

struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
  DK: u32,
  DV: u32,
  scale: f32,
  heads: u32,
  itemStride: u32,
  headStride: u32,
  queryStride: u32,
  keyStride: u32,
}

// Kinds of mask: none; words of which 0 hides; floats that are added, of which −∞ and the lowest hide.
const NONE = 0u;
const BOOLEAN = 1u;
const ADDITIVE = 2u;

const CHANNEL = true;
const MASK = 0u;
const CAUSAL = true;
const DEEP = false;
const WIDE = false;
// The workgroups come in a row, however it is cut over x, y and z.
const FOLDED = false;
const WRITE_DK = 1u;
const WRITE_DV = 1u;
const WG = 8u;
const TD = 1u;
const TV = 1u;
// The lowest f32: the score of what is hidden.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read> v: array<Stored>;
@group(0) @binding(3) var<storage, read> dOut: array<Stored>;
@group(0) @binding(4) var<storage, read> stats: array<vec2f>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> dq: array<Stored>;
@group(0) @binding(6) var<storage, read_write> dk: array<Stored>;
@group(0) @binding(7) var<storage, read_write> dv: array<Stored>;

@group(0) @binding(0) var<storage, read> out: array<Stored>;
@group(0) @binding(1) var<storage, read> gradient: array<Stored>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> made: array<vec2f>;
var<immediate> p: Params;

// Batch, slice and first position of a thread, which owns four of N, neighbours at neighbouring positions; false past the last.
fn task(group: vec3u, groups: vec3u, lane: u32, N: u32, slices: u32, own: ptr<function, vec3u>) -> bool {
  let thread = ((group.z * groups.y + group.y) * groups.x + group.x) * WG + lane;
  let fours = (N + 3u) / 4u;
  *own = vec3u(thread / fours / slices, thread / fours % slices, 4u * (thread % fours));
  return thread < p.B * slices * fours;
}

// Where dim d of position n is, in a tensor of N positions and D dims.
fn place(batch: u32, n: u32, d: u32, N: u32, D: u32) -> u32 {
  return select((batch * N + n) * D + d, (batch * D + d) * N + n, CHANNEL);
}

// From one dim of a position to the next, in a tensor of N positions.
fn step(N: u32) -> u32 {
  return select(1u, N, CHANNEL);
}

// Where the mask of a batch begins.
fn mask_start(batch: u32) -> u32 {
  return batch / p.heads * p.itemStride + batch % p.heads * p.headStride;
}

// What words of the mask add to the scores of queries i and key j: LOWEST for a pair that is hidden.
fn added(words: vec4u, i: vec4u, j: vec4u) -> vec4f {
  var a = vec4f();
  if (MASK == BOOLEAN) {
    a = select(a, vec4f(LOWEST), words == vec4u());
  }
  if (MASK == ADDITIVE) {
    a = select(bitcast<vec4f>(words), vec4f(LOWEST), words == vec4u(0xff800000u));
  }
  if (CAUSAL) {
    a = select(a, vec4f(LOWEST), j > i);
  }
  return a;
}

// Dim d of four positions.
fn four_queries(batch: u32, i: vec4u, d: u32) -> vec4f {
  let at = vec4u(place(batch, 0u, d, p.Nq, p.DK)) + i * select(p.DK, 1u, CHANNEL);
  return vec4f(f32(q[at.x]), f32(q[at.y]), f32(q[at.z]), f32(q[at.w]));
}

fn four_keys(batch: u32, j: vec4u, d: u32) -> vec4f {
  let at = vec4u(place(batch, 0u, d, p.Nk, p.DK)) + j * select(p.DK, 1u, CHANNEL);
  return vec4f(f32(k[at.x]), f32(k[at.y]), f32(k[at.z]), f32(k[at.w]));
}

fn four_values(batch: u32, j: vec4u, e: u32) -> vec4f {
  let at = vec4u(place(batch, 0u, e, p.Nk, p.DV)) + j * select(p.DV, 1u, CHANNEL);
  return vec4f(f32(v[at.x]), f32(v[at.y]), f32(v[at.z]), f32(v[at.w]));
}

fn four_upstream(batch: u32, i: vec4u, e: u32) -> vec4f {
  let at = vec4u(place(batch, 0u, e, p.Nq, p.DV)) + i * select(p.DV, 1u, CHANNEL);
  return vec4f(f32(dOut[at.x]), f32(dOut[at.y]), f32(dOut[at.z]), f32(dOut[at.w]));
}

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: vec4f) -> vec4f {
  return select(exp(d), d, (bitcast<vec4u>(d) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

@compute @workgroup_size(WG)
fn statistics(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = (group.y * groups.x + group.x) * WG + lane;
  if (row >= p.B * p.Nq) {
    return;
  }
  var sum = 0.0;
  for (var e = 0u; e < p.DV; e++) {
    let at = place(row / p.Nq, row % p.Nq, e, p.Nq, p.DV);
    sum = fma(f32(out[at]), f32(gradient[at]), sum);
  }
  made[row] = vec2f(lse[row], sum);
}

@compute @workgroup_size(WG)
fn queries(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  var own: vec3u;
  if (!task(group, groups, lane, p.Nq, (p.DK + TD - 1u) / TD, &own)) {
    return;
  }
  let batch = own.x;
  let d0 = select(0u, own.y * TD, DEEP);
  let i0 = own.z;

  // A component is a query; those past the end repeat the last.
  let row = min(vec4u(i0, i0 + 1u, i0 + 2u, i0 + 3u), vec4u(p.Nq - 1u));
  let word = mask_start(batch) + row * p.queryStride;
  // The bounds of these loops, and of those at the end, are no constants: unrolled, they would be most of what there is to
  // compile.
  var qs: array<vec4f, TD>;
  for (var d = 0u; d < min(TD, p.DK); d++) {
    qs[d] = four_queries(batch, row, d);
  }
  var gs: array<vec4f, TV>;
  for (var e = 0u; e < min(TV, p.DV); e++) {
    gs[e] = four_upstream(batch, row, e);
  }
  let at = batch * p.Nq + row;
  let pairs = mat4x2f(stats[at.x], stats[at.y], stats[at.z], stats[at.w]);
  let ls = vec4f(pairs[0].x, pairs[1].x, pairs[2].x, pairs[3].x);
  let deltas = vec4f(pairs[0].y, pairs[1].y, pairs[2].y, pairs[3].y);
  var acc: array<vec4f, TD>;

  let end = select(p.Nk, min(p.Nk, i0 + 4u), CAUSAL);
  for (var j = 0u; j < end; j++) {
    let key = place(batch, j, 0u, p.Nk, p.DK);
    let value = place(batch, j, 0u, p.Nk, p.DV);
    var s = vec4f();
    for (var d = 0u; d < TD; d++) {
      s = fma(qs[d], vec4f(f32(k[key + d * step(p.Nk)])), s);
    }
    if (DEEP) {
      for (var d = TD; d < p.DK; d++) {
        s = fma(four_queries(batch, row, d), vec4f(f32(k[key + d * step(p.Nk)])), s);
      }
    }
    var dp = vec4f();
    for (var e = 0u; e < TV; e++) {
      dp = fma(gs[e], vec4f(f32(v[value + e * step(p.Nk)])), dp);
    }
    if (WIDE) {
      for (var e = TV; e < p.DV; e++) {
        dp = fma(four_upstream(batch, row, e), vec4f(f32(v[value + e * step(p.Nk)])), dp);
      }
    }
    var words = vec4u();
    if (MASK != NONE) {
      let at = word + vec4u(j * p.keyStride);
      words = vec4u(mask[at.x], mask[at.y], mask[at.z], mask[at.w]);
    }
    let a = added(words, row, vec4u(j));
    let weight = select(exponential(p.scale * s + a - ls), vec4f(), a == vec4f(LOWEST));
    let ds = p.scale * weight * (dp - deltas);
    for (var d = 0u; d < TD; d++) {
      let to = select(d, min(d0 + d, p.DK - 1u), DEEP);
      acc[d] = fma(ds, vec4f(f32(k[key + to * step(p.Nk)])), acc[d]);
    }
  }

  for (var t = 0u; t < min(4u, p.Nq - i0); t++) {
    for (var d = 0u; d < min(TD, p.DK - d0); d++) {
      dq[place(batch, i0 + t, d0 + d, p.Nq, p.DK)] = Stored(acc[d][t]);
    }
  }
}

@compute @workgroup_size(WG)
fn keys(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let slices = max(WRITE_DK * ((p.DK + TD - 1u) / TD), WRITE_DV * ((p.DV + TV - 1u) / TV));
  var own: vec3u;
  if (!task(group, groups, lane, p.Nk, slices, &own)) {
    return;
  }
  let batch = own.x;
  let d0 = select(0u, own.y * TD, DEEP);
  let e0 = select(0u, own.y * TV, WIDE);
  let j0 = own.z;

  // A component is a key; those past the end repeat the last.
  let column = min(vec4u(j0, j0 + 1u, j0 + 2u, j0 + 3u), vec4u(p.Nk - 1u));
  let word = mask_start(batch) + column * p.keyStride;
  var ks: array<vec4f, TD>;
  for (var d = 0u; d < min(TD, p.DK); d++) {
    ks[d] = four_keys(batch, column, d);
  }
  var vs: array<vec4f, TV>;
  for (var e = 0u; e < min(TV, p.DV); e++) {
    vs[e] = four_values(batch, column, e);
  }
  var acc_k: array<vec4f, TD>;
  var acc_v: array<vec4f, TV>;

  for (var i = select(0u, j0, CAUSAL); i < p.Nq; i++) {
    let query = place(batch, i, 0u, p.Nq, p.DK);
    let upstream = place(batch, i, 0u, p.Nq, p.DV);
    var s = vec4f();
    for (var d = 0u; d < TD; d++) {
      s = fma(ks[d], vec4f(f32(q[query + d * step(p.Nq)])), s);
    }
    if (DEEP) {
      for (var d = TD; d < p.DK; d++) {
        s = fma(four_keys(batch, column, d), vec4f(f32(q[query + d * step(p.Nq)])), s);
      }
    }
    var dp = vec4f();
    for (var e = 0u; e < TV; e++) {
      dp = fma(vs[e], vec4f(f32(dOut[upstream + e * step(p.Nq)])), dp);
    }
    if (WIDE) {
      for (var e = TV; e < p.DV; e++) {
        dp = fma(four_values(batch, column, e), vec4f(f32(dOut[upstream + e * step(p.Nq)])), dp);
      }
    }
    var words = vec4u();
    if (MASK != NONE) {
      let at = word + vec4u(i * p.queryStride);
      words = vec4u(mask[at.x], mask[at.y], mask[at.z], mask[at.w]);
    }
    let a = added(words, vec4u(i), column);
    let pair = stats[batch * p.Nq + i];
    let weight = select(exponential(p.scale * s + a - pair.x), vec4f(), a == vec4f(LOWEST));
    let ds = p.scale * weight * (dp - pair.y);
    for (var e = 0u; e < TV; e++) {
      let to = select(e, min(e0 + e, p.DV - 1u), WIDE);
      acc_v[e] = fma(weight, vec4f(f32(dOut[upstream + to * step(p.Nq)])), acc_v[e]);
    }
    for (var d = 0u; d < TD; d++) {
      let to = select(d, min(d0 + d, p.DK - 1u), DEEP);
      acc_k[d] = fma(ds, vec4f(f32(q[query + to * step(p.Nq)])), acc_k[d]);
    }
  }

  for (var t = 0u; t < min(4u, p.Nk - j0); t++) {
    if (WRITE_DK == 1u) {
      for (var d = 0u; d < min(TD, p.DK - min(d0, p.DK)); d++) {
        dk[place(batch, j0 + t, d0 + d, p.Nk, p.DK)] = Stored(acc_k[d][t]);
      }
    }
    if (WRITE_DV == 1u) {
      for (var e = 0u; e < min(TV, p.DV - min(e0, p.DV)); e++) {
        dv[place(batch, j0 + t, e0 + e, p.Nk, p.DV)] = Stored(acc_v[e][t]);
      }
    }
  }
}
