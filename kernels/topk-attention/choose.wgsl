// topk-attention/choose — a thread goes over every key with one query and keeps the TOP best of them; no N×N map.
//
//   Q [B, Nq, DK] · K [B, Nk, DK]  →  index, weight [B, TOP, Nq]              (CHANNEL: Q and K are [B, DK, positions])
//   s = scale·QKᵀ;  index: keys of the TOP largest s of a query, largest first;  weight = softmax of those s alone
//
// The best so far are a sorted list in registers: a score that beats the last goes in where it belongs and pushes the rest
// down. Keys come in order and an equal score beats nobody, so of equal scores the lowest keys are chosen.
// cost       2·B·Nq·Nk·DK flops and a comparison a score; about TOP·log(Nk/TOP) insertions of TOP steps a query.
// needs      TOP ≤ Nk, finite scores: a NaN among them makes the query's weights NaN.
alias Stored = f32;

struct Params {
  B: u32,
  Nq: u32,
  Nk: u32,
  DK: u32,
  scale: f32,
}

const CHANNEL = true;
const TOP = 16u;
const WG = 16u;
// Keys whose scores a thread makes at once.
const PB = 8u;
// The lowest f32: what every score beats.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> weight: array<f32>;
var<immediate> p: Params;

// Where dim d of position n is, in a tensor of N positions and D dims.
fn place(batch: u32, n: u32, d: u32, N: u32, D: u32) -> u32 {
  return select((batch * N + n) * D + d, (batch * D + d) * N + n, CHANNEL);
}

// By the bits, since a compiler may take for granted that no float is NaN.
fn is_nan(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

@compute @workgroup_size(WG)
fn choose(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let query = (group.y * groups.x + group.x) * WG + local;
  if (query >= p.B * p.Nq) { return; }
  let batch = query / p.Nq;
  let i = query % p.Nq;

  var best: array<f32, TOP>;
  var key: array<u32, TOP>;
  for (var t = 0u; t < TOP; t++) {
    best[t] = LOWEST;
    key[t] = t;
  }
  var broken = 0.0;
  for (var j0 = 0u; j0 < p.Nk; j0 += PB) {
    var dot = array<f32, PB>();
    for (var d = 0u; d < p.DK; d++) {
      let x = f32(q[place(batch, i, d, p.Nq, p.DK)]);
      for (var c = 0u; c < PB; c++) {
        dot[c] = fma(x, f32(k[place(batch, min(j0 + c, p.Nk - 1u), d, p.Nk, p.DK)]), dot[c]);
      }
    }
    for (var c = 0u; c < PB; c++) {
      var s = p.scale * dot[c];
      broken = select(broken, s, is_nan(s));
      if (j0 + c < p.Nk && s > best[TOP - 1u]) {
        var j = j0 + c;
        var placed = false;
        for (var t = 0u; t < TOP; t++) {
          placed = placed || s > best[t];
          let pushed = best[t];
          let pushed_key = key[t];
          best[t] = select(pushed, s, placed);
          key[t] = select(pushed_key, j, placed);
          s = select(s, pushed, placed);
          j = select(j, pushed_key, placed);
        }
      }
    }
  }

  let m = best[0];
  var l = 0.0;
  for (var t = 0u; t < TOP; t++) {
    best[t] = exp(best[t] - m);
    l += best[t];
  }
  for (var t = 0u; t < TOP; t++) {
    let at = (batch * TOP + t) * p.Nq + i;
    index[at] = key[t];
    weight[at] = select(best[t] / l, broken, is_nan(broken));
  }
}
