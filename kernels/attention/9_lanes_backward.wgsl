// attention/9_lanes_backward — rung 9's loads for the gradients: a lane owns four queries for dq, four keys for dk and dv.
//
//   delta [B, Nq] = Σ dOut·out = Σ P·dP comes from delta.wgsl             (CHANNEL: [B, dims, positions])
//   queries Q, K, V, dOut, lse, delta  →  dq:       keys and values pass by, each loaded once a subgroup
//   keys    Q, K, V, dOut, lse, delta  →  dk, dv:   queries and their dOut pass by
//   P = exp(s - lse),  dP = dOut·Vᵀ,  dS = scale·P·(dP - delta),  dq = dS·K,  dk = dSᵀ·Q,  dv = Pᵀ·dOut
//
// since 8    a column of four positions' dims a lane, spread by subgroupBroadcast; the one load of dOut serves dP and dv.
//            Where dims do not fit in registers, dk and dv have a launch each: no slice of dv makes dP for nothing. On
//            lavapipe with 8 lanes, B 16, DK 8, DV 64: 5.6 → 15 GFLOP in a second of one CPU at N 256, → 17 at N 1024.
// cost       2·B·Nq·Nk·(2·DK + DV) flops for queries, 2·B·Nq·Nk·(2·DK + 2·DV) for keys.
// needs      subgroups of exactly LANES = 8 or 16; any sizes. TD dims and TV of V or dOut in registers (DEEP: DK > TD,
//            WIDE: DV > TV, the rest is read again); tile.z takes the next TD columns of dq and dk or TV of dv.
// after      Dao 2023, algorithm 2, with its one loop taken apart.
enable subgroups;

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
const LANES = 4u;
const TD = 8u;
const TV = 32u;
const TD4 = TD / 4u;
const TV4 = TV / 4u;
// Dims of four positions that a subgroup loads at once, and the 4×4 blocks in them.
const ROUND = LANES;
const BLOCKS = ROUND / 4u;

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

// What a lane keeps of its own positions: TD4 or TV4 blocks, the rest unused.
alias Rows = array<mat4x4f, max(TD4, TV4)>;
alias Own = ptr<function, Rows>;
alias Sum = ptr<function, mat4x4f>;
alias Tensor = ptr<storage, array<vec4f>, read>;

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

// Column i of the 4×4 block at position n and dim d: CHANNEL dim d + i of four positions, otherwise position n + i of
// four dims. 0 outside.
fn column(x: Tensor, batch: u32, n: u32, d: u32, i: u32, N: u32, D: u32) -> vec4f {
  let at = select(vec2u(n + i, d), vec2u(n, d + i), CHANNEL);
  var values = vec4f();
  if (ALIGNED) {
    if (at.x < N && at.y < D) {
      values = x[place(batch, at.x, at.y, N, D) >> 2u];
    }
    return values;
  }
  for (var c = 0u; c < 4u; c++) {
    let to = at + select(vec2u(0u, c), vec2u(c, 0u), CHANNEL);
    if (to.x < N && to.y < D) {
      let word = place(batch, to.x, to.y, N, D);
      values[c] = x[word >> 2u][word & 3u];
    }
  }
  return values;
}

// A block of this lane's own, a column a dim.
fn own_block(x: Tensor, batch: u32, n: u32, d: u32, N: u32, D: u32) -> mat4x4f {
  let m = mat4x4f(
    column(x, batch, n, d, 0u, N, D),
    column(x, batch, n, d, 1u, N, D),
    column(x, batch, n, d, 2u, N, D),
    column(x, batch, n, d, 3u, N, D),
  );
  if (CHANNEL) {
    return m;
  }
  return transpose(m);
}

// What this lane loads of the ROUND dims from d on of four positions: one column of one block.
fn part(x: Tensor, batch: u32, n: u32, d: u32, lane: u32, N: u32, D: u32) -> vec4f {
  return column(x, batch, n, d + lane / 4u * 4u, lane % 4u, N, D);
}

// Block i of what the lanes loaded, in every lane. The compiler knows i: it keeps one case.
fn block(x: vec4f, i: u32) -> mat4x4f {
  switch i {
    case 0u: {
      return mat4x4f(
        subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u),
        subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
      );
    }
    case 1u: {
      return mat4x4f(
        subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u),
        subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u),
      );
    }
    case 2u: {
      return mat4x4f(
        subgroupBroadcast(x, 8u), subgroupBroadcast(x, 9u),
        subgroupBroadcast(x, 10u), subgroupBroadcast(x, 11u),
      );
    }
    default: {
      return mat4x4f(
        subgroupBroadcast(x, 12u), subgroupBroadcast(x, 13u),
        subgroupBroadcast(x, 14u), subgroupBroadcast(x, 15u),
      );
    }
  }
}

// Block i, a column a dim.
fn dims_of(x: vec4f, i: u32) -> mat4x4f {
  let m = block(x, i);
  if (CHANNEL) {
    return m;
  }
  return transpose(m);
}

// Block i, a column a position.
fn positions_of(x: vec4f, i: u32) -> mat4x4f {
  let m = block(x, i);
  if (CHANNEL) {
    return transpose(m);
  }
  return m;
}

// acc + m·x, each column four multiply-adds.
fn plus(acc: mat4x4f, m: mat4x4f, x: mat4x4f) -> mat4x4f {
  var sum = acc;
  for (var t = 0u; t < 4u; t++) {
    for (var c = 0u; c < 4u; c++) {
      sum[t] = fma(m[c], vec4f(x[t][c]), sum[t]);
    }
  }
  return sum;
}

// exp(d), and NaN of NaN: a driver that bounds the argument of exp would make a number of it.
fn exponential(d: vec4f) -> vec4f {
  return select(exp(d), d, (bitcast<vec4u>(d) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// Products of this lane's positions (rows) and four of x (columns): the share of one round of the kept dims. at: batch,
// first of the four, lane. Rounds are written out, for the compiler unrolls no loop as long as these.
fn add_dots(sum: Sum, own: Own, kept: u32, round: u32, x: Tensor, N: u32, D: u32, at: vec3u) {
  if (round * ROUND >= kept) {
    return;
  }
  let loaded = part(x, at.x, at.y, round * ROUND, at.z, N, D);
  for (var b = 0u; b < BLOCKS; b++) {
    *sum = plus(*sum, own[round * BLOCKS + b], positions_of(loaded, b));
  }
}

fn dots(own: Own, kept: u32, x: Tensor, N: u32, D: u32, at: vec3u) -> mat4x4f {
  var sum = mat4x4f();
  add_dots(&sum, own, kept, 0u, x, N, D, at);
  add_dots(&sum, own, kept, 1u, x, N, D, at);
  add_dots(&sum, own, kept, 2u, x, N, D, at);
  add_dots(&sum, own, kept, 3u, x, N, D, at);
  add_dots(&sum, own, kept, 4u, x, N, D, at);
  add_dots(&sum, own, kept, 5u, x, N, D, at);
  add_dots(&sum, own, kept, 6u, x, N, D, at);
  add_dots(&sum, own, kept, 7u, x, N, D, at);
  return sum;
}

// The share of the dims that are not kept: of this lane's positions from n on, too, read from y.
fn more_dots(kept: u32, n: u32, y: Tensor, NY: u32, x: Tensor, N: u32, D: u32, at: vec3u) -> mat4x4f {
  var sum = mat4x4f();
  for (var d = kept; d < D; d += ROUND) {
    let loaded = part(x, at.x, at.y, d, at.z, N, D);
    for (var b = 0u; b < BLOCKS; b++) {
      sum = plus(sum, own_block(y, at.x, n, d + 4u * b, NY, D), positions_of(loaded, b));
    }
  }
  return sum;
}

// acc + weighted positions of x, in one round of the dims from d0 on.
fn weigh(acc: Own, round: u32, w: mat4x4f, d0: u32, x: Tensor, N: u32, at: vec3u) {
  if (round * ROUND >= TD) {
    return;
  }
  let loaded = part(x, at.x, at.y, d0 + round * ROUND, at.z, N, p.DK);
  for (var b = 0u; b < BLOCKS; b++) {
    acc[round * BLOCKS + b] = plus(acc[round * BLOCKS + b], w, dims_of(loaded, b));
  }
}

// dP of this lane's keys and four queries, and the queries' share of dv, in one round of dOut from e0 on.
fn add_dp_dv(dp: Sum, vs: Own, acc: Own, round: u32, w: mat4x4f, e0: u32, at: vec3u) {
  if (round * ROUND >= TV) {
    return;
  }
  let loaded = part(&dOut, at.x, at.y, e0 + round * ROUND, at.z, p.Nq, p.DV);
  for (var b = 0u; b < BLOCKS; b++) {
    let i = round * BLOCKS + b;
    if (WRITE_DK == 1u) {
      *dp = plus(*dp, vs[i], positions_of(loaded, b));
    }
    if (WRITE_DV == 1u) {
      acc[i] = plus(acc[i], w, dims_of(loaded, b));
    }
  }
}

@compute @workgroup_size(LANES)
fn queries(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let tile = tile_of(group, groups, (p.DK + TD - 1u) / TD);
  let batch = tile.y;
  let i0 = 4u * (tile.x * LANES + lane);
  let d0 = tile.z * TD;

  // A row is a query: its dims are columns in qs, dos and acc, its keys in s, dp and ds.
  var qs: Rows;
  for (var d = 0u; d < min(TD4, (p.DK + 3u) / 4u); d++) {
    qs[d] = own_block(&q, batch, i0, 4u * d, p.Nq, p.DK);
  }
  // This bound is no constant, or the loop would be unrolled and its loads be most of what there is to compile.
  var dos: Rows;
  for (var e = 0u; e < min(TV4, (p.DV + 3u) / 4u); e++) {
    dos[e] = own_block(&dOut, batch, i0, 4u * e, p.Nq, p.DV);
  }
  var ls = vec4f();
  var deltas = vec4f();
  for (var t = 0u; t < 4u; t++) {
    if (i0 + t < p.Nq) {
      ls[t] = lse[batch * p.Nq + i0 + t];
      deltas[t] = delta[batch * p.Nq + i0 + t];
    }
  }
  var acc: Rows;

  for (var j = 0u; j < p.Nk; j += 4u) {
    let at = vec3u(batch, j, lane);
    var s = dots(&qs, TD, &k, p.Nk, p.DK, at);
    var dp = dots(&dos, TV, &v, p.Nk, p.DV, at);
    if (DEEP) {
      s += more_dots(TD, i0, &q, p.Nq, &k, p.Nk, p.DK, at);
    }
    if (WIDE) {
      dp += more_dots(TV, i0, &dOut, p.Nq, &v, p.Nk, p.DV, at);
    }
    var ds = mat4x4f();
    for (var t = 0u; t < 4u; t++) {
      let w = p.scale * exponential(p.scale * s[t] - ls);
      ds[t] = select(vec4f(), w * (dp[t] - deltas), j + t < p.Nk);
    }
    weigh(&acc, 0u, ds, d0, &k, p.Nk, at);
    weigh(&acc, 1u, ds, d0, &k, p.Nk, at);
    weigh(&acc, 2u, ds, d0, &k, p.Nk, at);
    weigh(&acc, 3u, ds, d0, &k, p.Nk, at);
    weigh(&acc, 4u, ds, d0, &k, p.Nk, at);
    weigh(&acc, 5u, ds, d0, &k, p.Nk, at);
    weigh(&acc, 6u, ds, d0, &k, p.Nk, at);
    weigh(&acc, 7u, ds, d0, &k, p.Nk, at);
  }

  for (var d = 0u; d < TD; d++) {
    for (var t = 0u; t < 4u; t++) {
      if (i0 + t < p.Nq && d0 + d < p.DK) {
        dq[place(batch, i0 + t, d0 + d, p.Nq, p.DK)] = acc[d / 4u][d % 4u][t];
      }
    }
  }
}

@compute @workgroup_size(LANES)
fn keys(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  // Where both are written there is one slice.
  let slices = max(WRITE_DK * ((p.DK + TD - 1u) / TD), WRITE_DV * ((p.DV + TV - 1u) / TV));
  let tile = tile_of(group, groups, slices);
  let batch = tile.y;
  let j0 = 4u * (tile.x * LANES + lane);
  let d0 = tile.z * TD;
  let e0 = select(tile.z * TV, 0u, WRITE_DK == 1u);

  // A row is a key: its dims are columns in ks, vs and the sums, its queries in s, dp and ds.
  var ks: Rows;
  for (var d = 0u; d < min(TD4, (p.DK + 3u) / 4u); d++) {
    ks[d] = own_block(&k, batch, j0, 4u * d, p.Nk, p.DK);
  }
  var vs: Rows;
  if (WRITE_DK == 1u) {
    for (var e = 0u; e < min(TV4, (p.DV + 3u) / 4u); e++) {
      vs[e] = own_block(&v, batch, j0, 4u * e, p.Nk, p.DV);
    }
  }
  var acc_k: Rows;
  var acc_v: Rows;

  for (var i = 0u; i < p.Nq; i += 4u) {
    let at = vec3u(batch, i, lane);
    // lse and delta of four queries, from the first four lanes.
    var own = vec2f();
    if (lane < 4u && i + lane < p.Nq) {
      own = vec2f(lse[batch * p.Nq + i + lane], delta[batch * p.Nq + i + lane]);
    }
    let stats = mat4x2f(
      subgroupBroadcast(own, 0u),
      subgroupBroadcast(own, 1u),
      subgroupBroadcast(own, 2u),
      subgroupBroadcast(own, 3u),
    );
    var s = dots(&ks, TD, &q, p.Nq, p.DK, at);
    if (DEEP) {
      s += more_dots(TD, j0, &k, p.Nk, &q, p.Nq, p.DK, at);
    }
    var w = mat4x4f();
    for (var t = 0u; t < 4u; t++) {
      w[t] = select(vec4f(), exponential(p.scale * s[t] - stats[t].x), i + t < p.Nq);
    }
    var dp = mat4x4f();
    add_dp_dv(&dp, &vs, &acc_v, 0u, w, e0, at);
    add_dp_dv(&dp, &vs, &acc_v, 1u, w, e0, at);
    add_dp_dv(&dp, &vs, &acc_v, 2u, w, e0, at);
    add_dp_dv(&dp, &vs, &acc_v, 3u, w, e0, at);
    add_dp_dv(&dp, &vs, &acc_v, 4u, w, e0, at);
    add_dp_dv(&dp, &vs, &acc_v, 5u, w, e0, at);
    add_dp_dv(&dp, &vs, &acc_v, 6u, w, e0, at);
    add_dp_dv(&dp, &vs, &acc_v, 7u, w, e0, at);
    if (WRITE_DK == 0u) {
      continue;
    }
    if (WIDE) {
      dp += more_dots(TV, j0, &v, p.Nk, &dOut, p.Nq, p.DV, at);
    }
    var ds = mat4x4f();
    for (var t = 0u; t < 4u; t++) {
      ds[t] = select(vec4f(), p.scale * w[t] * (dp[t] - stats[t].y), i + t < p.Nq);
    }
    weigh(&acc_k, 0u, ds, d0, &q, p.Nq, at);
    weigh(&acc_k, 1u, ds, d0, &q, p.Nq, at);
    weigh(&acc_k, 2u, ds, d0, &q, p.Nq, at);
    weigh(&acc_k, 3u, ds, d0, &q, p.Nq, at);
    weigh(&acc_k, 4u, ds, d0, &q, p.Nq, at);
    weigh(&acc_k, 5u, ds, d0, &q, p.Nq, at);
    weigh(&acc_k, 6u, ds, d0, &q, p.Nq, at);
    weigh(&acc_k, 7u, ds, d0, &q, p.Nq, at);
  }

  for (var t = 0u; t < 4u; t++) {
    for (var d = 0u; d < TD; d++) {
      if (WRITE_DK == 1u && j0 + t < p.Nk && d0 + d < p.DK) {
        dk[place(batch, j0 + t, d0 + d, p.Nk, p.DK)] = acc_k[d / 4u][d % 4u][t];
      }
    }
    for (var e = 0u; e < TV; e++) {
      if (WRITE_DV == 1u && j0 + t < p.Nk && e0 + e < p.DV) {
        dv[place(batch, j0 + t, e0 + e, p.Nk, p.DV)] = acc_v[e / 4u][e % 4u][t];
      }
    }
  }
}
