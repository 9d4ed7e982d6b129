// topk-attention/choose_tile — choose, with the keys in workgroup memory: WG queries look at one tile of them together.
//
//   Q [B, Nq, DK] · K [B, Nk, DK]  →  index, weight [B, TOP, Nq]              (CHANNEL: Q and K are [B, DK, positions])
//   s = scale·QKᵀ;  index: keys of the TOP largest s of a query, largest first;  weight = softmax of those s alone
//
// since choose   for GPUs: a workgroup loads BK keys once, DC dims at a time, neighbours side by side, and not once a query.
//            A thread keeps the list of its own query in registers, by the same sums in the same order: the same bits.
// gained     not yet timed on a GPU. Predicted: keys cross memory once for WG queries.
// cost       2·B·Nq·Nk·DK flops and a comparison a score; reads Nq/WG·Nk·DK numbers of K a batch.
// needs      TOP ≤ Nk, finite scores: a NaN among them makes the query's weights NaN. 4·BK·DC bytes of workgroup memory.
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
const WG = 64u;
const BK = 8u;
const DC = 32u;
// The lowest f32: what every score beats.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> weight: array<f32>;
var<immediate> p: Params;

// Dims of the tile's keys, a line a dim.
var<workgroup> tile: array<f32, BK * DC>;

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
  let tiles = (p.Nq + WG - 1u) / WG;
  let workgroup = group.y * groups.x + group.x;
  let batch = min(workgroup / tiles, p.B - 1u);
  let own = workgroup % tiles * WG + local;
  let i = min(own, p.Nq - 1u);

  var best: array<f32, TOP>;
  var key: array<u32, TOP>;
  for (var t = 0u; t < TOP; t++) {
    best[t] = LOWEST;
    key[t] = t;
  }
  var broken = 0.0;
  for (var j0 = 0u; j0 < p.Nk; j0 += BK) {
    var dot = array<f32, BK>();
    for (var d0 = 0u; d0 < p.DK; d0 += DC) {
      for (var t = local; t < BK * DC; t += WG) {
        let c = select(t / DC, t % BK, CHANNEL);
        let d = select(t % DC, t / BK, CHANNEL);
        let at = place(batch, min(j0 + c, p.Nk - 1u), min(d0 + d, p.DK - 1u), p.Nk, p.DK);
        tile[d * BK + c] = f32(k[at]);
      }
      workgroupBarrier(); // the tile is complete
      for (var d = 0u; d < min(DC, p.DK - d0); d++) {
        let x = f32(q[place(batch, i, d0 + d, p.Nq, p.DK)]);
        for (var c = 0u; c < BK; c++) {
          dot[c] = fma(x, tile[d * BK + c], dot[c]);
        }
      }
      workgroupBarrier(); // nobody reads the tile any more
    }
    for (var c = 0u; c < BK; c++) {
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

  if (workgroup >= p.B * tiles || own >= p.Nq) {
    return;
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
