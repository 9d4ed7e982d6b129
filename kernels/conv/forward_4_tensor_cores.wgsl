// conv/forward_4_tensor_cores — rung 3's implicit GEMM in f16, multiplied by subgroups a whole matrix at a time.
//
//   x [N, C, H, W] · w [K, C, R, S] (+ bias [K], activation)  →  y [N, K, OH, OW]
//   as W [K, T] · im2col(x) [T, P]: a step takes BK channels of one tap (r, s), so that a step costs a thread no division.
//
// since 3    a subgroup holds TM × TN matrices of f32 sums and adds to each the product of two matrices of f16; the tiles of
//            the next step travel from memory into registers meanwhile. Operands in f32 are rounded on that way.
// gained     not yet timed on a GPU. Predicted: over rung 3 what matmul/7_tensor_cores is over matmul/4_vec4.
// cost       2·K·P·C·R·S flops; reads (P/BN)·K·T + (K/BM)·P·T elements. C is rounded up to whole BK.
// needs      subgroup matrices of f16 with f32 sums in these sizes, subgroups of LANES; workgroup memory for two tiles of f16
//            and a matrix of f32 a subgroup; any shape.
// after      Chetlur et al. 2014, §3; matmul/7_tensor_cores.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Stored = f32;

const FOLDED = false;
const BIAS = false;

// The activation of the result: none, max(y, 0), or y > 0 ? y : slope·y.
const NONE = 0u;
const RELU = 1u;
const LEAKY_RELU = 2u;
const ACT = NONE;

// One matrix product, SM × SN subgroups of a workgroup, TM × TN matrices of a subgroup.
const MM = 16u;
const MN = 16u;
const MK = 16u;
const LANES = 32u;
const SM = 2u;
const SN = 2u;
const TM = 2u;
const TN = 2u;
const BM = SM * TM * MM;
const BN = SN * TN * MN;
const BK = 32u;
const THREADS = SM * SN * LANES;
// 16 bytes more than a line spread the banks.
const A_PITCH = BK + 8u;
const B_PITCH = BN + 8u;
const A_LOADS = BM * BK / THREADS;
const B_LOADS = BN * BK / THREADS;
const_assert A_LOADS * THREADS == BM * BK && B_LOADS * THREADS == BN * BK && THREADS % BN == 0u;
const PATCH = MM * MN;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sums = subgroup_matrix_result<f32, MN, MM>;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> w: array<Stored>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Stored>;

struct Params {
  N: u32,
  C: u32,
  H: u32,
  W: u32,
  K: u32,
  R: u32,
  S: u32,
  OH: u32,
  OW: u32,
  strideH: u32,
  strideW: u32,
  padH: u32,
  padW: u32,
  slope: f32,
}
var<immediate> p: Params;

var<workgroup> as_: array<f16, BM * A_PITCH>; // [m][t]
var<workgroup> bs: array<f16, BK * B_PITCH>; // [t][column]
var<workgroup> patches: array<f32, SM * SN * PATCH>;

// What a thread brings of the next two tiles.
struct Share {
  a: array<f16, A_LOADS>,
  b: array<f16, B_LOADS>,
}

// This workgroup's tile: x of columns, y of rows. FOLDED: the workgroups come in one row with the tiles of rows
// outermost, so that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, columns: u32) -> vec2u {
  if (!FOLDED) {
    return group.xy;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (columns + BN - 1u) / BN;
  return vec2u(i % across, i / across);
}

// Where the window of a column begins: element 0 of its image, row and column. Outside any image, the row is past them all.
fn window_of(column: u32) -> vec3u {
  let area = p.OH * p.OW;
  let n = column / area;
  let h = column % area / p.OW * p.strideH - p.padH; // wraps above the image, and then is not < H
  let v = column % p.OW * p.strideW - p.padW;
  return vec3u(n * p.C * p.H * p.W, select(p.H, h, n < p.N), v);
}

// A thread's share of the tiles of a step. Its elements of B are of one column, whose window is given.
fn fetch(step: u32, m0: u32, window: vec3u, thread: u32) -> Share {
  let chunks = (p.C + BK - 1u) / BK;
  let tap = step / chunks;
  let c0 = step % chunks * BK;
  var share: Share;
  for (var i = 0u; i < A_LOADS; i++) {
    let m = m0 + (thread + i * THREADS) / BK;
    let c = c0 + (thread + i * THREADS) % BK;
    let inside = m < p.K && c < p.C && tap < p.R * p.S;
    let at = select(0u, (m * p.C + c) * p.R * p.S + tap, inside);
    share.a[i] = f16(select(Stored(), w[at], inside));
  }
  // A pixel left of the first column, or above the first row, has wrapped round and is not < W or < H.
  let h = window.y + tap / p.S;
  let v = window.z + tap % p.S;
  let seen = h < p.H && v < p.W;
  for (var i = 0u; i < B_LOADS; i++) {
    let c = c0 + (thread + i * THREADS) / BN;
    let inside = seen && c < p.C;
    let at = select(0u, window.x + (c * p.H + h) * p.W + v, inside);
    share.b[i] = f16(select(Stored(), x[at], inside));
  }
  return share;
}

// max drops NaN, which is told by the bits, since a compiler may take for granted that no float is NaN.
fn activated(y: f32) -> f32 {
  if (ACT == RELU) {
    let isNaN = (bitcast<u32>(y) & 0x7fffffffu) > 0x7f800000u;
    return select(max(y, 0.0), y, isNaN);
  }
  if (ACT == LEAKY_RELU) { return select(p.slope * y, y, y > 0.0); }
  return y;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let area = p.OH * p.OW;
  let P = p.N * area;
  let tile = tile_of(group, groups, P);
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;
  let window = window_of(column0 + thread % BN);
  let steps = p.R * p.S * ((p.C + BK - 1u) / BK);
  let m_first = subgroup / SN * TM * MM;
  let n_first = subgroup % SN * TN * MN;
  var sums: array<array<Sums, TN>, TM>;
  var share = fetch(0u, m0, window, thread);
  for (var step = 0u; step < steps; step += 1u) {
    for (var i = 0u; i < A_LOADS; i++) {
      let e = thread + i * THREADS;
      as_[e / BK * A_PITCH + e % BK] = share.a[i];
    }
    for (var i = 0u; i < B_LOADS; i++) {
      let e = thread + i * THREADS;
      bs[e / BN * B_PITCH + e % BN] = share.b[i];
    }
    workgroupBarrier(); // both tiles are whole
    share = fetch(step + 1u, m0, window, thread);
    for (var k = 0u; k < BK; k += MK) {
      var lefts: array<Left, TM>;
      for (var i = 0u; i < TM; i++) {
        lefts[i] = subgroupMatrixLoad<Left, row_major>(&as_, (m_first + i * MM) * A_PITCH + k, A_PITCH);
      }
      for (var j = 0u; j < TN; j++) {
        let r = subgroupMatrixLoad<Right, row_major>(&bs, k * B_PITCH + n_first + j * MN, B_PITCH);
        for (var i = 0u; i < TM; i++) {
          sums[i][j] = subgroupMatrixMultiplyAccumulate(lefts[i], r, sums[i][j]);
        }
      }
    }
    workgroupBarrier(); // everyone has read them
  }

  // A matrix gives its elements away only through memory. Whose threads take which patch does not matter by then.
  let owner = thread / LANES;
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      subgroupMatrixStore<row_major>(&patches, subgroup * PATCH, sums[i][j], MN);
      workgroupBarrier(); // the patches are whole
      for (var e = thread % LANES; e < PATCH; e += LANES) {
        let m = m0 + (owner / SN * TM + i) * MM + e / MN;
        let column = column0 + (owner % SN * TN + j) * MN + e % MN;
        if (m < p.K && column < P) {
          var value = patches[owner * PATCH + e];
          if (BIAS) {
            value += bias[m];
          }
          y[(column / area * p.K + m) * area + column % area] = Stored(activated(value));
        }
      }
      workgroupBarrier(); // and free again
    }
  }
}
