// attention/9_lanes — every key and value is loaded once a subgroup, and lane after lane hands on what it loaded.
//
//   Q [B, Nq, DK] · K [B, Nk, DK] · V [B, Nk, DV]  →  out [B, Nq, DV], lse [B, Nq]     (CHANNEL: [B, dims, positions])
//   s = scale·QKᵀ,  out = softmax(s)·V,  lse = log Σ exp(s), kept for the backward pass
//   joined = gamma·out + shortcut, of a block with a residual
//
// since 8    a CPU driver loads lane by lane, whatever the address: in rung 8 all lanes load the same key. Here each
//            lane loads another vec4 of a block, and subgroupBroadcast spreads it. A lane still owns four queries and
//            their online softmax, nothing crosses lanes: one maximum and one rescaling in eight keys. On lavapipe with 8
//            lanes, B 16, DK 8, DV 64: 5 → 18 GFLOP in a second of one CPU at N 256, 5 → 21 at N 1024.
// cost       2·B·Nq·Nk·(DK + DV) flops; reads Nq / (4·LANES)·Nk·(DK + DV) floats a batch from the cache.
// needs      subgroups of exactly LANES = 8 or 16; any sizes. TD dims of Q are kept in registers (DEEP: DK > TD,
//            those past it are read again); tile.z takes the next TV columns of V and makes the scores again for them.
//            TD and TV are 1 to 8 rounds. ALIGNED, MASKED: as in rung 8. Entry vec4 stores four at a time, needs ALIGNED, and
//            alone can join a residual.
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
const MASKED = true;
const DEEP = false;
const FOLDED = false;
// What is stored: out (0), joined (1), or both (2), where a backward pass will read out.
const STORE = 0u;
const LANES = 4u;
const TD = 8u;
const TV = 32u;
const TD4 = TD / 4u;
const TV4 = TV / 4u;
// Dims of four positions that a subgroup loads at once, and the 4×4 blocks in them.
const ROUND = LANES;
const BLOCKS = ROUND / 4u;
// The lowest f32: start of a maximum.
const LOWEST = -3.4028234e38f;

@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> out4: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> gamma: array<f32>;
@group(0) @binding(6) var<storage, read> shortcut: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> joined: array<vec4f>;
var<immediate> p: Params;

alias Narrow = array<mat4x4f, TD4>;
alias Wide = array<mat4x4f, TV4>;
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
        subgroupBroadcast(x, 0u),
        subgroupBroadcast(x, 1u),
        subgroupBroadcast(x, 2u),
        subgroupBroadcast(x, 3u),
      );
    }
    case 1u: {
      return mat4x4f(
        subgroupBroadcast(x, 4u),
        subgroupBroadcast(x, 5u),
        subgroupBroadcast(x, 6u),
        subgroupBroadcast(x, 7u),
      );
    }
    case 2u: {
      return mat4x4f(
        subgroupBroadcast(x, 8u),
        subgroupBroadcast(x, 9u),
        subgroupBroadcast(x, 10u),
        subgroupBroadcast(x, 11u),
      );
    }
    default: {
      return mat4x4f(
        subgroupBroadcast(x, 12u),
        subgroupBroadcast(x, 13u),
        subgroupBroadcast(x, 14u),
        subgroupBroadcast(x, 15u),
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

// log(l), and NaN of NaN likewise.
fn logarithm(l: vec4f) -> vec4f {
  return select(log(l), l, (bitcast<vec4u>(l) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
}

// Scores of four keys from j on, a column a key: the share of one round of dims. Rounds are written out, for the compiler
// unrolls no loop as long as these.
fn add_scores(s: ptr<function, mat4x4f>, qs: ptr<function, Narrow>, round: u32, at: vec3u) {
  if (round * ROUND >= TD) {
    return;
  }
  let x = part(&k, at.x, at.y, round * ROUND, at.z, p.Nk, p.DK);
  for (var b = 0u; b < BLOCKS; b++) {
    *s = plus(*s, qs[round * BLOCKS + b], positions_of(x, b));
  }
}

// scale·QKᵀ of this lane's queries (rows) and four keys from j on (columns). at: batch, j, lane.
fn scores(qs: ptr<function, Narrow>, i0: u32, at: vec3u) -> mat4x4f {
  var s = mat4x4f();
  add_scores(&s, qs, 0u, at);
  add_scores(&s, qs, 1u, at);
  add_scores(&s, qs, 2u, at);
  add_scores(&s, qs, 3u, at);
  add_scores(&s, qs, 4u, at);
  add_scores(&s, qs, 5u, at);
  add_scores(&s, qs, 6u, at);
  add_scores(&s, qs, 7u, at);
  if (DEEP) {
    for (var d = TD; d < p.DK; d += ROUND) {
      let x = part(&k, at.x, at.y, d, at.z, p.Nk, p.DK);
      for (var b = 0u; b < BLOCKS; b++) {
        s = plus(s, own_block(&q, at.x, i0, d + 4u * b, p.Nq, p.DK), positions_of(x, b));
      }
    }
  }
  return p.scale * s;
}

// Largest score of each query, keys past the end left out.
fn largest(s: mat4x4f, j: u32, m: vec4f) -> vec4f {
  var top = m;
  for (var t = 0u; t < 4u; t++) {
    top = select(top, max(top, s[t]), !MASKED || j + t < p.Nk);
  }
  return top;
}

// exp(s - top), 0 for keys past the end.
fn weights(s: mat4x4f, j: u32, top: vec4f) -> mat4x4f {
  var w = mat4x4f();
  for (var t = 0u; t < 4u; t++) {
    w[t] = select(vec4f(), exponential(s[t] - top), !MASKED || j + t < p.Nk);
  }
  return w;
}

// acc · shrink + eight weighted keys, in one round of columns.
fn weigh(acc: ptr<function, Wide>, round: u32, shrink: vec4f, w: array<mat4x4f, 2>, e0: u32, at: vec3u) {
  if (round * ROUND >= TV) {
    return;
  }
  let x = part(&v, at.x, at.y, e0 + round * ROUND, at.z, p.Nk, p.DV);
  let y = part(&v, at.x, at.y + 4u, e0 + round * ROUND, at.z, p.Nk, p.DV);
  for (var b = 0u; b < BLOCKS; b++) {
    var sum = acc[round * BLOCKS + b];
    for (var t = 0u; t < 4u; t++) {
      sum[t] *= shrink;
    }
    acc[round * BLOCKS + b] = plus(plus(sum, w[0], dims_of(x, b)), w[1], dims_of(y, b));
  }
}

// acc = weighted sums of values for this lane's four queries, a column a dim; returns what they are divided by. Stores lse.
// tile: rows, batch, slice of columns.
fn attend(acc: ptr<function, Wide>, tile: vec3u, lane: u32) -> vec4f {
  let batch = tile.y;
  let i0 = 4u * (tile.x * LANES + lane);
  let e0 = tile.z * TV;

  // A row is a query: its dims are columns in qs and acc.
  var qs: Narrow;
  // This bound is no constant, or the loop would be unrolled and its loads be most of what there is to compile.
  for (var d = 0u; d < min(TD4, (p.DK + 3u) / 4u); d++) {
    qs[d] = own_block(&q, batch, i0, 4u * d, p.Nq, p.DK);
  }
  var m = vec4f(LOWEST);
  var l = vec4f();

  for (var j = 0u; j < p.Nk; j += 8u) {
    let at = vec3u(batch, j, lane);
    let s = scores(&qs, i0, at);
    let t = scores(&qs, i0, at + vec3u(0u, 4u, 0u));
    let top = largest(t, j + 4u, largest(s, j, m));
    let shrink = exp(m - top);
    m = top;
    let w = array(weights(s, j, top), weights(t, j + 4u, top));
    l = l * shrink + (w[0] + w[1]) * vec4f(1.0);
    weigh(acc, 0u, shrink, w, e0, at);
    weigh(acc, 1u, shrink, w, e0, at);
    weigh(acc, 2u, shrink, w, e0, at);
    weigh(acc, 3u, shrink, w, e0, at);
    weigh(acc, 4u, shrink, w, e0, at);
    weigh(acc, 5u, shrink, w, e0, at);
    weigh(acc, 6u, shrink, w, e0, at);
    weigh(acc, 7u, shrink, w, e0, at);
  }

  let sums = m + logarithm(l);
  for (var t = 0u; t < 4u; t++) {
    if (i0 + t < p.Nq && tile.z == 0u) {
      lse[batch * p.Nq + i0 + t] = sums[t];
    }
  }
  return l;
}

@compute @workgroup_size(LANES)
fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let tile = tile_of(group, groups, (p.DV + TV - 1u) / TV);
  let i0 = 4u * (tile.x * LANES + lane);
  var acc: Wide;
  let l = attend(&acc, tile, lane);
  for (var e = 0u; e < TV4; e++) {
    for (var c = 0u; c < 4u; c++) {
      let d = tile.z * TV + 4u * e + c;
      for (var t = 0u; t < 4u; t++) {
        if (i0 + t < p.Nq && d < p.DV) {
          out[place(tile.y, i0 + t, d, p.Nq, p.DV)] = acc[e][c][t] / l[t];
        }
      }
    }
  }
}

@compute @workgroup_size(LANES)
fn vec4(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let tile = tile_of(group, groups, (p.DV + TV - 1u) / TV);
  let i0 = 4u * (tile.x * LANES + lane);
  var acc: Wide;
  let l = attend(&acc, tile, lane);
  for (var e = 0u; e < TV4; e++) {
    var block = mat4x4f(acc[e][0] / l, acc[e][1] / l, acc[e][2] / l, acc[e][3] / l);
    if (!CHANNEL) {
      block = transpose(block);
    }
    for (var c = 0u; c < 4u; c++) {
      let d = tile.z * TV + 4u * e;
      let at = select(vec2u(i0 + c, d), vec2u(i0, d + c), CHANNEL);
      if (at.x < p.Nq && at.y < p.DV) {
        let i = place(tile.y, at.x, at.y, p.Nq, p.DV) >> 2u;
        if (STORE != 1u) {
          out4[i] = block[c];
        }
        if (STORE != 0u) {
          joined[i] = gamma[0] * block[c] + shortcut[i];
        }
      }
    }
  }
}
