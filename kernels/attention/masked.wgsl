// attention/masked — softmax attention in which some keys are hidden from some queries; no N×N map but the caller's own mask.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV] · mask  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ + mask,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//   `full`: mask  →  bias, shown [B, Nq, Nk], the mask in full for second derivatives, which do store the map
//
// A mask is read where it is needed, by four strides of which any may be 0: [items or 1, heads or 1, Nq or 1, Nk or 1], with
// B = items·heads. A query from which every key is hidden gets zeros. A thread owns four queries and lets key after key pass
// by, and softmax runs online, as in 8_threads; CAUSAL stops at the last key that one of them may see.
// cost       2·B·Nq·Nk·(DK + DV) flops, half of them where CAUSAL; reads Nq / (4·WG)·Nk·(DK + DV) numbers a batch.
// needs      TD ≤ DK, TV ≤ DV. TD dims of Q are kept in registers (DEEP: DK > TD, those past it are read again); WIDE: DV > TV,
//            another thread takes the next TV columns of V.
// after      Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022.
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
const WG = 8u;
const TD = 1u;
const TV = 1u;
// The lowest f32: start of a maximum, and the score of what is hidden.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read> v: array<Stored>;
@group(0) @binding(3) var<storage, read> mask: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<Stored>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

@group(0) @binding(0) var<storage, read> given: array<u32>;
@group(0) @binding(1) var<storage, read_write> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> shown: array<f32>;
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

// Dim d of a slice that begins at d0; one past the end of all D repeats the last.
fn past(d: u32, d0: u32, D: u32) -> u32 {
  return select(d, min(d, D - 1u - d0), WIDE);
}

// Dim d of four queries.
fn four_queries(batch: u32, i: vec4u, d: u32) -> vec4f {
  let first = place(batch, 0u, d, p.Nq, p.DK);
  let at = vec4u(first) + i * select(p.DK, 1u, CHANNEL);
  return vec4f(f32(q[at.x]), f32(q[at.y]), f32(q[at.z]), f32(q[at.w]));
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

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: vec4f) -> vec4f {
  return select(exp(d), d, (bitcast<vec4u>(d) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// log(l), and NaN of NaN likewise.
fn logarithm(l: vec4f) -> vec4f {
  return select(log(l), l, (bitcast<vec4u>(l) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

@compute @workgroup_size(WG)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  var own: vec3u;
  if (!task(group, groups, lane, p.Nq, (p.DV + TV - 1u) / TV, &own)) {
    return;
  }
  let batch = own.x;
  let e0 = select(0u, own.y * TV, WIDE);
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
  var m = vec4f(LOWEST);
  var l = vec4f();
  var acc: array<vec4f, TV>;

  let end = select(p.Nk, min(p.Nk, i0 + 4u), CAUSAL);
  for (var j = 0u; j < end; j++) {
    let key = place(batch, j, 0u, p.Nk, p.DK);
    var s = vec4f();
    for (var d = 0u; d < TD; d++) {
      s = fma(qs[d], vec4f(f32(k[key + d * step(p.Nk)])), s);
    }
    if (DEEP) {
      for (var d = TD; d < p.DK; d++) {
        s = fma(four_queries(batch, row, d), vec4f(f32(k[key + d * step(p.Nk)])), s);
      }
    }
    var words = vec4u();
    if (MASK != NONE) {
      let at = word + vec4u(j * p.keyStride);
      words = vec4u(mask[at.x], mask[at.y], mask[at.z], mask[at.w]);
    }
    let a = added(words, row, vec4u(j));
    let hidden = a == vec4f(LOWEST);
    s = select(p.scale * s + a, vec4f(LOWEST), hidden);
    let top = max(m, s);
    let shrink = exp(m - top);
    let weight = select(exponential(s - top), vec4f(), hidden);
    m = top;
    l = fma(l, shrink, weight);
    let value = place(batch, j, e0, p.Nk, p.DV);
    for (var e = 0u; e < TV; e++) {
      let x = f32(v[value + past(e, e0, p.DV) * step(p.Nk)]);
      acc[e] = fma(weight, vec4f(x), shrink * acc[e]);
    }
  }

  // Where every key was hidden, l is 0 and so is acc; lse is the lowest number, and no gradient flows.
  let empty = l == vec4f();
  let mass = select(l, vec4f(1.0), empty);
  let sums = select(m + logarithm(l), vec4f(LOWEST), empty);
  for (var t = 0u; t < min(4u, p.Nq - i0); t++) {
    for (var e = 0u; e < min(TV, p.DV - e0); e++) {
      out[place(batch, i0 + t, e0 + e, p.Nq, p.DV)] = Stored(acc[e][t] / mass[t]);
    }
    if (e0 == 0u) {
      lse[batch * p.Nq + i0 + t] = sums[t];
    }
  }
}

@compute @workgroup_size(WG)
fn full(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = (group.y * groups.x + group.x) * WG + lane;
  if (row >= p.B * p.Nq) {
    return;
  }
  let i = row % p.Nq;
  let start = mask_start(row / p.Nq) + i * p.queryStride;
  for (var j = 0u; j < p.Nk; j++) {
    var word = 0u;
    if (MASK != NONE) {
      word = given[start + j * p.keyStride];
    }
    let a = added(vec4u(word), vec4u(i), vec4u(j)).x;
    let hidden = a == LOWEST;
    // Low enough to leave no weight, and to be added to any score.
    bias[row * p.Nk + j] = select(a, -1e38, hidden);
    shown[row * p.Nk + j] = select(1.0, 0.0, hidden);
  }
}
