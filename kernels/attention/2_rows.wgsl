// attention/2_rows — a workgroup owns one query, and its row of the map is never stored.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//
// since 1    softmax runs online over blocks of WG keys, a thread a key: m is the maximum so far, l the sum of exp(s - m),
//            and acc is put right when m grows. Then a thread is a column of out and takes the block's weights from
//            workgroup memory. Memory is linear in Nq and Nk; every key and value is read once a query.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads Nq·Nk·(DK + DV) floats a batch. Gain on a GPU: not yet timed.
// needs      any sizes; 4·WG bytes of workgroup memory. tile.z takes the next TV = WG columns of out.
// after      Milakov & Gimelshein 2018 (online softmax).
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
const WG = 64u;
const TV = WG;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
var<immediate> p: Params;

// Scores, then weights, of a block of keys.
var<workgroup> weights: array<f32, WG>;

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
  let i = min(tile.x, p.Nq - 1u);
  let e = tile.z * TV + thread;

  var m = LOWEST;
  var l = 0.0;
  var acc = 0.0;
  for (var j0 = 0u; j0 < p.Nk; j0 += WG) {
    let j = j0 + thread;
    var s = LOWEST;
    if (j < p.Nk) {
      var dot = 0.0;
      for (var d = 0u; d < p.DK; d++) {
        dot = fma(q[place(batch, i, d, p.Nq, p.DK)], k[place(batch, j, d, p.Nk, p.DK)], dot);
      }
      s = p.scale * dot;
    }
    weights[thread] = s;
    workgroupBarrier(); // the scores are complete
    var top = m;
    for (var c = 0u; c < WG; c++) {
      top = max(top, weights[c]);
    }
    workgroupBarrier(); // nobody reads them any more
    weights[thread] = select(0.0, exponential(s - top), j < p.Nk);
    workgroupBarrier(); // the weights are complete
    let shrink = exp(m - top);
    m = top;
    l *= shrink;
    acc *= shrink;
    for (var c = 0u; c < min(WG, p.Nk - j0); c++) {
      l += weights[c];
      if (e < p.DV) {
        acc = fma(weights[c], v[place(batch, j0 + c, e, p.Nk, p.DV)], acc);
      }
    }
    workgroupBarrier(); // nobody reads the weights any more
  }

  if (tile.x < p.Nq && e < p.DV) {
    out[place(batch, i, e, p.Nq, p.DV)] = acc / l;
  }
  if (tile.x < p.Nq && e == 0u) {
    lse[batch * p.Nq + i] = m + logarithm(l);
  }
}
