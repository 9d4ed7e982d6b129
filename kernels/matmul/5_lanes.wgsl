// matmul/5_lanes — a subgroup owns one tile; each element of A and B is loaded by one lane and passed to the others.
//
//   A [batch, M, K] · B [batch, K, N]  →  out [batch, M, N], times alpha     (A [K, M] if TRANS_A, B [N, K] if TRANS_B)
//   For convolutions that are matrix products (+ bias, activation): BIAS = 1 adds bias [M] to the rows, 2 bias [N / span] to the
//   columns.
//
// since 3    there every lane loaded the rows of A that its neighbours loaded too. A CPU driver loads lane by lane, with a
//            bounds check an element: the elements that a subgroup loads are what it pays for. Here lane l holds A's row l
//            (four k in a vec4) and four columns of B; row l reaches the other lanes as a broadcast, which is a register
//            shuffle. TM + 4·TN4·LANES loads serve TM·4·TN4·LANES multiply-adds.
// gained     2.2 to 4 times rung 3 in CPU time (64 × 2048 × 64 to 512³, every transpose; lavapipe, vectors of 256 bits).
//            Not yet timed on a GPU.
// cost       2·M·N·K flops a batch; reads M·N·K·(1/TM + 1/(4·TN4·LANES)) floats.
// needs      subgroups of exactly LANES (8 or 16), TM a multiple of LANES and of 4; no workgroup memory, no barrier. VEC_K, VEC_M,
//            VEC_N: the size and the batch strides are multiples of 4. Entry vec4 stores four at a time and needs VEC_N.
enable subgroups;

struct Params {
  M: u32,
  N: u32,
  K: u32,
  batch: u32,
  strideA: u32,
  strideB: u32,
  alpha: f32,
  span: u32, // columns that share an element of bias
  slope: f32,
}

const TRANS_A = false;
const TRANS_B = false;
const BIAS = 0u;
const FOLDED = false;
const VEC_K = false;
const VEC_M = false;
const VEC_N = false;
const LANES = 8u;
const TM = 16u;
const TN4 = 1u;
const SLOTS = TM / LANES;

// The activation of the result: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;
const ACT = NONE;

alias Tile = array<array<vec4f, TN4>, TM>;

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> out4: array<vec4f>;
var<immediate> p: Params;

// This subgroup's tile: x along N, y along M, z the batch. FOLDED: the workgroups come in one row with the tiles of M
// outermost, so that those past the last one have rows past M.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.N + 4u * TN4 * LANES - 1u) / (4u * TN4 * LANES);
  return vec3u(i % across, i / (across * p.batch), i / across % p.batch);
}

// Rows and columns past the edge repeat the last one: they are computed and never stored. Past the end of K both are 0.

fn a_at(base: u32, row: u32, k: u32) -> f32 {
  let r = min(row, p.M - 1u);
  let last = min(k, p.K - 1u);
  let i = base + select(r * p.K + last, last * p.M + r, TRANS_A);
  return select(0.0, a[i >> 2u][i & 3u], k < p.K);
}

fn b_at(base: u32, k: u32, col: u32) -> f32 {
  let c = min(col, p.N - 1u);
  let last = min(k, p.K - 1u);
  let i = base + select(last * p.N + c, c * p.K + last, TRANS_B);
  return select(0.0, b[i >> 2u][i & 3u], k < p.K);
}

// A lane's share of A for four k. As stored: four k of row `slot`. TRANS_A: four rows from 4·(slot / 4) at k + slot % 4.
fn a_slot(base: u32, row0: u32, k: u32, slot: u32) -> vec4f {
  if (TRANS_A) {
    let row = row0 + slot / 4u * 4u;
    let at = k + slot % 4u;
    if (VEC_M) {
      let i = base + min(at, p.K - 1u) * p.M + min(row, p.M - 4u);
      return select(vec4f(), a[i >> 2u], VEC_K || at < p.K);
    }
    return vec4f(
      a_at(base, row, at), a_at(base, row + 1u, at), a_at(base, row + 2u, at), a_at(base, row + 3u, at),
    );
  }
  let row = row0 + slot;
  if (VEC_K) {
    return a[(base + min(row, p.M - 1u) * p.K + k) >> 2u];
  }
  return vec4f(
    a_at(base, row, k), a_at(base, row, k + 1u), a_at(base, row, k + 2u), a_at(base, row, k + 3u),
  );
}

// Four columns of B at one k.
fn b_cols(base: u32, k: u32, col: u32) -> vec4f {
  if (VEC_N) {
    let i = base + min(k, p.K - 1u) * p.N + min(col, p.N - 4u);
    return select(vec4f(), b[i >> 2u], VEC_K || k < p.K);
  }
  return vec4f(
    b_at(base, k, col), b_at(base, k, col + 1u), b_at(base, k, col + 2u), b_at(base, k, col + 3u),
  );
}

// Four k of one column of B.
fn b_along_k(base: u32, k: u32, col: u32) -> vec4f {
  if (VEC_K) {
    return b[(base + min(col, p.N - 1u) * p.K + k) >> 2u];
  }
  return vec4f(
    b_at(base, k, col), b_at(base, k + 1u, col), b_at(base, k + 2u, col), b_at(base, k + 3u, col),
  );
}

// Adds the products of one slot of A: four k of row `slot`, or, TRANS_A, four rows at one k.
fn add(acc: ptr<function, Tile>, slot: u32, v: vec4f, bk: array<mat4x4f, TN4>) {
  for (var q = 0u; q < 4u; q++) {
    let row = select(slot, slot / 4u * 4u + q, TRANS_A);
    let k = select(q, slot % 4u, TRANS_A);
    if (row < TM) {
      for (var j = 0u; j < TN4; j++) {
        (*acc)[row][j] = fma(vec4f(v[q]), bk[j][k], (*acc)[row][j]);
      }
    }
  }
}

// Slots first … first + LANES - 1, one from each lane. A broadcast wants its lane as a constant, so the lanes are written
// out; and so are the calls, for a loop over them is too long to be unrolled and its sums would leave the registers.
fn spread(acc: ptr<function, Tile>, first: u32, v: vec4f, bk: array<mat4x4f, TN4>) {
  add(acc, first + 0u, subgroupBroadcast(v, 0u), bk);
  add(acc, first + 1u, subgroupBroadcast(v, 1u), bk);
  add(acc, first + 2u, subgroupBroadcast(v, 2u), bk);
  add(acc, first + 3u, subgroupBroadcast(v, 3u), bk);
  if (LANES > 4u) {
    add(acc, first + 4u, subgroupBroadcast(v, 4u), bk);
    add(acc, first + 5u, subgroupBroadcast(v, 5u), bk);
    add(acc, first + 6u, subgroupBroadcast(v, 6u), bk);
    add(acc, first + 7u, subgroupBroadcast(v, 7u), bk);
  }
  if (LANES > 8u) {
    add(acc, first + 8u, subgroupBroadcast(v, 8u), bk);
    add(acc, first + 9u, subgroupBroadcast(v, 9u), bk);
    add(acc, first + 10u, subgroupBroadcast(v, 10u), bk);
    add(acc, first + 11u, subgroupBroadcast(v, 11u), bk);
    add(acc, first + 12u, subgroupBroadcast(v, 12u), bk);
    add(acc, first + 13u, subgroupBroadcast(v, 13u), bk);
    add(acc, first + 14u, subgroupBroadcast(v, 14u), bk);
    add(acc, first + 15u, subgroupBroadcast(v, 15u), bk);
  }
}

fn product(batch: u32, row: u32, col: u32, lane: u32) -> Tile {
  let base_a = batch * p.strideA;
  let base_b = batch * p.strideB;
  var acc: Tile;
  for (var k = 0u; k < p.K; k += 4u) {
    var ak: array<vec4f, 6>;
    for (var s = 0u; s < SLOTS; s++) {
      ak[s] = a_slot(base_a, row, k, s * LANES + lane);
    }
    // bk[j][q] = four columns from col + 4j at k + q
    var bk: array<mat4x4f, TN4>;
    for (var j = 0u; j < TN4; j++) {
      for (var q = 0u; q < 4u; q++) {
        if (TRANS_B) {
          bk[j][q] = b_along_k(base_b, k, col + 4u * j + q);
        } else {
          bk[j][q] = b_cols(base_b, k + q, col + 4u * j);
        }
      }
      if (TRANS_B) {
        bk[j] = transpose(bk[j]);
      }
    }
    spread(&acc, 0u, ak[0], bk);
    if (SLOTS > 1u) {
      spread(&acc, LANES, ak[1], bk);
    }
    if (SLOTS > 2u) {
      spread(&acc, 2u * LANES, ak[2], bk);
    }
    if (SLOTS > 3u) {
      spread(&acc, 3u * LANES, ak[3], bk);
      spread(&acc, 4u * LANES, ak[4], bk);
      spread(&acc, 5u * LANES, ak[5], bk);
    }
  }
  return acc;
}

// max drops NaN, which is told by the bits, since a compiler may take for granted that no float is NaN.
fn activated(y: vec4f) -> vec4f {
  if (ACT == RELU) {
    let isNaN = (bitcast<vec4u>(y) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u);
    return select(max(y, vec4f(0.0)), y, isNaN);
  }
  if (ACT == LEAKY_RELU) { return select(p.slope * y, y, y > vec4f(0.0)); }
  return y;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let place = tile_of(group, groups);
  let row = place.y * TM;
  let col = 4u * TN4 * (place.x * LANES + lane);
  let tile = product(place.z, row, col, lane);
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < 4u * TN4; j++) {
      if (row + i < p.M && col + j < p.N) {
        var sum = p.alpha * tile[i][j / 4u][j % 4u];
        if (BIAS > 0u) {
          sum += bias[select(row + i, (col + j) / p.span, BIAS == 2u)];
        }
        out[(place.z * p.M + row + i) * p.N + col + j] = activated(vec4f(sum)).x;
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
  let place = tile_of(group, groups);
  let row = place.y * TM;
  let col = 4u * TN4 * (place.x * LANES + lane);
  let tile = product(place.z, row, col, lane);
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN4; j++) {
      if (row + i < p.M && col + 4u * j < p.N) {
        var four = p.alpha * tile[i][j];
        if (BIAS == 1u) {
          four += bias[row + i];
        } else if (BIAS == 2u) {
          let c = col + 4u * j;
          four += vec4f(bias[c / p.span], bias[(c + 1u) / p.span], bias[(c + 2u) / p.span], bias[(c + 3u) / p.span]);
        }
        out4[(((place.z * p.M + row + i) * p.N + col) >> 2u) + j] = activated(four);
      }
    }
  }
}
