// matmul/6_f16 — rung 4 with operands of two bytes: half the traffic, and a tile of the same bytes goes twice as deep.
//
//   A [batch, M, K] · B [batch, K, N]  →  out [batch, M, N], times alpha     (A [K, M] if TRANS_A, B [N, K] if TRANS_B)
//
// since 4    tiles are kept as vec4<f16> and widened on their way into the multiply-add: sums are f32, as a sum of f16 would
//            lose all beyond its third digit. `Stored` may be f32 as well: operands are then rounded while a tile is made.
// gained     not yet timed on a GPU. Predicted: up to twice rung 4 where memory or workgroup memory bounds it; its
//            multiply-adds are as many.
// cost       2·M·N·K flops a batch; reads M·N·K·(1/BM + 1/BN) elements.
// needs      f16; (BM/TM)·(BN/TN) invocations, BK·(BM + BN)·2 bytes of workgroup memory plus padding. VEC_K, VEC_N: K, N
//            and the batch strides are multiples of 4. Entry quads stores four at a time and needs VEC_N.
enable f16;

alias Stored = f32;

struct Params {
  M: u32,
  N: u32,
  K: u32,
  batch: u32,
  strideA: u32,
  strideB: u32,
  alpha: f32,
}

const TRANS_A = false;
const TRANS_B = false;
const FOLDED = false;
const VEC_K = false;
const VEC_N = false;
const BM = 64u;
const BN = 64u;
const BK = 32u;
const TM = 4u;
const TN = 4u;
const WX = BN / TN;
const WY = BM / TM;
const THREADS = WX * WY;
const TN4 = TN / 4u;
const BK4 = BK / 4u;
const BN4 = BN / 4u;
// One vec4 more than a row of A, so that the rows of two threads do not meet in one bank.
const PITCH = BK4 + 1u;

alias Tile = array<array<vec4f, TN4>, TM>;

@group(0) @binding(0) var<storage, read> a: array<vec4<Stored>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<Stored>>;
@group(0) @binding(2) var<storage, read_write> out: array<Stored>;
@group(0) @binding(2) var<storage, read_write> out4: array<vec4<Stored>>;
var<immediate> p: Params;

// as_[m][k/4] = four k of one row;  bs[k][n/4] = four columns at one k
var<workgroup> as_: array<vec4h, BM * PITCH>;
var<workgroup> bs: array<vec4h, BK * BN4>;

fn a_at(base: u32, row: u32, k: u32) -> f16 {
  let i = base + select(row * p.K + k, k * p.M + row, TRANS_A);
  return f16(select(Stored(), a[i >> 2u][i & 3u], row < p.M && k < p.K));
}

fn b_at(base: u32, k: u32, col: u32) -> f16 {
  let i = base + select(k * p.N + col, col * p.K + k, TRANS_B);
  return f16(select(Stored(), b[i >> 2u][i & 3u], k < p.K && col < p.N));
}

// Four k of one row, 0 outside.
fn a_along_k(base: u32, row: u32, k: u32) -> vec4h {
  if (VEC_K && !TRANS_A) {
    return select(vec4h(), vec4h(a[(base + row * p.K + k) >> 2u]), row < p.M && k < p.K);
  }
  return vec4h(
    a_at(base, row, k), a_at(base, row, k + 1u), a_at(base, row, k + 2u), a_at(base, row, k + 3u),
  );
}

// Four columns at one k, 0 outside.
fn b_along_n(base: u32, k: u32, col: u32) -> vec4h {
  if (VEC_N && !TRANS_B) {
    return select(vec4h(), vec4h(b[(base + k * p.N + col) >> 2u]), k < p.K && col < p.N);
  }
  return vec4h(
    b_at(base, k, col), b_at(base, k, col + 1u), b_at(base, k, col + 2u), b_at(base, k, col + 3u),
  );
}

// This workgroup's tile: x along N, y along M, z the batch. FOLDED: the workgroups come in one row with the tiles of M
// outermost, so that those past the last one have rows past M.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.N + BN - 1u) / BN;
  return vec3u(i % across, i / (across * p.batch), i / across % p.batch);
}

fn product(place: vec3u, thread: u32) -> Tile {
  let row0 = place.y * BM;
  let col0 = place.x * BN;
  let base_a = place.z * p.strideA;
  let base_b = place.z * p.strideB;
  let x = thread % WX;
  let y = thread / WX;
  var acc: Tile;
  for (var k0 = 0u; k0 < p.K; k0 += BK) {
    // Neighbouring threads take neighbouring addresses of whatever is stored.
    for (var s = thread; s < BM * BK4; s += THREADS) {
      let m = select(s / BK4, s % BM, TRANS_A);
      let k4 = select(s % BK4, s / BM, TRANS_A);
      as_[m * PITCH + k4] = a_along_k(base_a, row0 + m, k0 + 4u * k4);
    }
    for (var s = thread; s < BK * BN4; s += THREADS) {
      let k = select(s / BN4, s % BK, TRANS_B);
      let n4 = select(s % BN4, s / BK, TRANS_B);
      bs[k * BN4 + n4] = b_along_n(base_b, k0 + k, col0 + 4u * n4);
    }
    workgroupBarrier(); // both tiles are complete
    for (var k4 = 0u; k4 < BK4; k4++) {
      var ak: array<vec4f, TM>;
      for (var i = 0u; i < TM; i++) {
        ak[i] = vec4f(as_[(y * TM + i) * PITCH + k4]);
      }
      for (var q = 0u; q < 4u; q++) {
        for (var j = 0u; j < TN4; j++) {
          let bk = vec4f(bs[(4u * k4 + q) * BN4 + j * WX + x]);
          for (var i = 0u; i < TM; i++) {
            acc[i][j] = fma(vec4f(ak[i][q]), bk, acc[i][j]);
          }
        }
      }
    }
    workgroupBarrier(); // nobody reads the tiles any more
  }
  return acc;
}

// A thread's columns are TN4 groups of four, WX groups apart: its neighbours' loads and stores then touch.
fn column(place: vec3u, thread: u32, j: u32) -> u32 {
  return place.x * BN + 4u * (j * WX + thread % WX);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let place = tile_of(group, groups);
  let tile = product(place, thread);
  let row = place.y * BM + (thread / WX) * TM;
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      let col = column(place, thread, j / 4u) + j % 4u;
      if (row + i < p.M && col < p.N) {
        out[(place.z * p.M + row + i) * p.N + col] = Stored(p.alpha * tile[i][j / 4u][j % 4u]);
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn quads(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let place = tile_of(group, groups);
  let tile = product(place, thread);
  let row = place.y * BM + (thread / WX) * TM;
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN4; j++) {
      let col = column(place, thread, j);
      if (row + i < p.M && col < p.N) {
        out4[((place.z * p.M + row + i) * p.N + col) >> 2u] = vec4<Stored>(p.alpha * tile[i][j]);
      }
    }
  }
}
