// matmul/3_registers — a thread owns TM × TN outputs and keeps them in registers; no workgroup memory, no barrier.
//
//   A [batch, M, K] · B [batch, K, N]  →  out [batch, M, N], times alpha     (A [K, M] if TRANS_A, B [N, K] if TRANS_B)
//
// since 1    a loaded element of A serves TN products and one of B serves TM. What rung 2 does between threads happens
//            inside one, which is what a CPU driver wants: there a barrier costs more than a cache hit.
// gained     4 to 6 times rung 1 in CPU time (256 × 256 × 64, 64 × 2048 × 64; lavapipe, vectors of 256 bits). Not yet timed on
//            a GPU.
// cost       2·M·N·K flops a batch; reads M·N·K·(1/TM + 1/TN) floats, nearly all of them from the cache.
// needs      nothing. The wrapper says what may be read four at a time: KQ = 4 if K, VEC_M if M, VEC_N if N is a
//            multiple of 4 (and the batch strides too). Entry vec4 stores so as well and needs VEC_N.
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
const VEC_M = false;
const VEC_N = false;
const KQ = 1u;
const TM = 8u;
const TN = 8u;
const WX = 2u;
const WY = 2u;
const TM4 = TM / 4u;
const TN4 = TN / 4u;

alias Tile = array<array<vec4f, TN4>, TM>;

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> out4: array<vec4f>;
var<immediate> p: Params;

// This workgroup's tile: x along N, y along M, z the batch. FOLDED: the workgroups come in one row with the tiles of M
// outermost, so that those past the last one have rows past M.
fn tile_of(group: vec3u, groups: vec3u) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (p.N + WX * TN - 1u) / (WX * TN);
  return vec3u(i % across, i / (across * p.batch), i / across % p.batch);
}

// Rows and columns past the edge repeat the last one: they are computed and never stored.

fn a_at(base: u32, row: u32, k: u32) -> f32 {
  let r = min(row, p.M - 1u);
  let i = base + select(r * p.K + k, k * p.M + r, TRANS_A);
  return a[i >> 2u][i & 3u];
}

fn b_at(base: u32, k: u32, col: u32) -> f32 {
  let c = min(col, p.N - 1u);
  let i = base + select(k * p.N + c, c * p.K + k, TRANS_B);
  return b[i >> 2u][i & 3u];
}

// Four rows of A at one k.
fn a_rows(base: u32, row: u32, k: u32) -> vec4f {
  if (VEC_M && TRANS_A) {
    return a[(base + k * p.M + min(row, p.M - 4u)) >> 2u];
  }
  return vec4f(
    a_at(base, row, k), a_at(base, row + 1u, k), a_at(base, row + 2u, k), a_at(base, row + 3u, k),
  );
}

// Four columns of B at one k.
fn b_cols(base: u32, k: u32, col: u32) -> vec4f {
  if (VEC_N && !TRANS_B) {
    return b[(base + k * p.N + min(col, p.N - 4u)) >> 2u];
  }
  return vec4f(
    b_at(base, k, col), b_at(base, k, col + 1u), b_at(base, k, col + 2u), b_at(base, k, col + 3u),
  );
}

fn product(batch: u32, row: u32, col: u32) -> Tile {
  let base_a = batch * p.strideA;
  let base_b = batch * p.strideB;
  var acc: Tile;
  for (var k = 0u; k < p.K; k += KQ) {
    // ak[i][q] = A(row + i, k + q);  bk[q][j] = B(k + q, four columns from col + 4j)
    var ak: array<vec4f, TM>;
    if (TRANS_A) {
      for (var q = 0u; q < KQ; q++) {
        for (var i = 0u; i < TM4; i++) {
          let v = a_rows(base_a, row + 4u * i, k + q);
          ak[4u * i][q] = v.x;
          ak[4u * i + 1u][q] = v.y;
          ak[4u * i + 2u][q] = v.z;
          ak[4u * i + 3u][q] = v.w;
        }
      }
    } else if (KQ == 4u) {
      for (var i = 0u; i < TM; i++) {
        ak[i] = a[(base_a + min(row + i, p.M - 1u) * p.K + k) >> 2u];
      }
    } else {
      for (var i = 0u; i < TM; i++) {
        ak[i].x = a_at(base_a, row + i, k);
      }
    }
    var bk: array<array<vec4f, TN4>, KQ>;
    if (TRANS_B && KQ == 4u) {
      for (var j = 0u; j < TN; j++) {
        let v = b[(base_b + min(col + j, p.N - 1u) * p.K + k) >> 2u];
        for (var q = 0u; q < KQ; q++) {
          bk[q][j / 4u][j % 4u] = v[q];
        }
      }
    } else {
      for (var q = 0u; q < KQ; q++) {
        for (var j = 0u; j < TN4; j++) {
          bk[q][j] = b_cols(base_b, k + q, col + 4u * j);
        }
      }
    }
    for (var q = 0u; q < KQ; q++) {
      for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN4; j++) {
          acc[i][j] = fma(vec4f(ak[i][q]), bk[q][j], acc[i][j]);
        }
      }
    }
  }
  return acc;
}

@compute @workgroup_size(WX, WY)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let place = tile_of(group, groups);
  let row = (place.y * WY + local.y) * TM;
  let col = (place.x * WX + local.x) * TN;
  let tile = product(place.z, row, col);
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      if (row + i < p.M && col + j < p.N) {
        out[(place.z * p.M + row + i) * p.N + col + j] = p.alpha * tile[i][j / 4u][j % 4u];
      }
    }
  }
}

@compute @workgroup_size(WX, WY)
fn vec4(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let place = tile_of(group, groups);
  let row = (place.y * WY + local.y) * TM;
  let col = (place.x * WX + local.x) * TN;
  let tile = product(place.z, row, col);
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN4; j++) {
      if (row + i < p.M && col + 4u * j < p.N) {
        out4[(((place.z * p.M + row + i) * p.N + col) >> 2u) + j] = p.alpha * tile[i][j];
      }
    }
  }
}
