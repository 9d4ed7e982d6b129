// conv/weight_grad_4_tensor_cores — rung 3's GEMM over pixels in f16, multiplied by subgroups a whole matrix at a time.
//
//   x [N, C, H, W] · dy [N, K, OH, OW]  →  parts [PARTS, stride] in f32, parts[z, (k,c,r,s)]; sum_parts adds them in order
//   as dY [K, P] · im2col(x)ᵀ [P, C·R·S]; part z is positions z·chunk … (z + 1)·chunk - 1.
//
// since 3    products of f16 matrices with f32 sums, the next step's tiles on their way meanwhile. A thread brings one
//            position of every step: it is taken apart once a step, and a thread's columns once for all.
// gained     not yet timed on a GPU. Predicted: over rung 3 what matmul/7_tensor_cores is over matmul/4_vec4.
// cost       2·K·P·C·R·S flops; reads PARTS·chunk·(C·R·S/BN·K + K/BM·C·R·S) elements, writes PARTS·K·C·R·S.
// needs      subgroup matrices of f16 with f32 sums in these sizes, subgroups of LANES; workgroup memory for two tiles of f16
//            and a matrix of f32 a subgroup; any shape; THREADS % BK = 0.
// after      Chetlur et al. 2014, §3; matmul/7_tensor_cores.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Stored = f32;

const FOLDED = false;
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
const B_PITCH = BK + 8u;
const A_LOADS = BM * BK / THREADS;
const B_LOADS = BN * BK / THREADS;
const_assert A_LOADS * THREADS == BM * BK && B_LOADS * THREADS == BN * BK && THREADS % BK == 0u;
const PATCH = MM * MN;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sums = subgroup_matrix_result<f32, MN, MM>;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

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
  chunk: u32,
  stride: u32,
}
var<immediate> p: Params;

var<workgroup> as_: array<f16, BM * A_PITCH>; // [m][t]
var<workgroup> bs: array<f16, BN * B_PITCH>; // [column][t]
var<workgroup> patches: array<f32, SM * SN * PATCH>;

// What a thread brings of the next two tiles.
struct Share {
  a: array<f16, A_LOADS>,
  b: array<f16, B_LOADS>,
}

// This workgroup's tile: x of columns, y of rows, z the part. FOLDED: the workgroups come in one row with the tiles of
// rows outermost, so that those past the last one have rows past the end.
fn tile_of(group: vec3u, groups: vec3u, columns: u32, depth: u32) -> vec3u {
  if (!FOLDED) {
    return group;
  }
  let i = (group.z * groups.y + group.y) * groups.x + group.x;
  let across = (columns + BN - 1u) / BN;
  return vec3u(i % across, i / (across * depth), i / across % depth);
}

// A column of im2col: where tap (r, s) of channel c lies from the beginning of a window, and r and s.
fn column_of(column: u32) -> vec3u {
  let RS = p.R * p.S;
  let r = column % RS / p.S;
  let s = column % p.S;
  // A column past the last one has a row that no image has.
  let past = column >= p.C * RS;
  return vec3u((column / RS * p.H + r) * p.W + s, select(r, p.H + p.padH, past), s);
}

// A thread's share of the tiles of the positions from t0 on: all of one position.
fn fetch(t0: u32, end: u32, m0: u32, columns: array<vec3u, B_LOADS>, thread: u32) -> Share {
  let area = p.OH * p.OW;
  let t = t0 + thread % BK;
  let n = t / area;
  let h0 = t % area / p.OW * p.strideH;
  let v0 = t % p.OW * p.strideW;
  // These wrap above and left of the image; what is added brings them back, or they are not < H, < W.
  let start = ((n * p.C * p.H + h0) - p.padH) * p.W + v0 - p.padW;
  var share: Share;
  for (var i = 0u; i < A_LOADS; i++) {
    let m = m0 + (thread + i * THREADS) / BK;
    let inside = t < end && m < p.K;
    let at = select(0u, (n * p.K + m) * area + t % area, inside);
    share.a[i] = f16(select(Stored(), dy[at], inside));
  }
  for (var i = 0u; i < B_LOADS; i++) {
    let column = columns[i];
    let h = h0 + column.y - p.padH;
    let v = v0 + column.z - p.padW;
    let inside = t < end && h < p.H && v < p.W;
    let at = select(0u, start + column.x, inside);
    share.b[i] = f16(select(Stored(), x[at], inside));
  }
  return share;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let width = p.C * p.R * p.S;
  let P = p.N * p.OH * p.OW;
  let tile = tile_of(group, groups, width, max((P + p.chunk - 1u) / p.chunk, 1u));
  let m0 = tile.y * BM;
  let column0 = tile.x * BN;
  let first = tile.z * p.chunk;
  let end = min(first + p.chunk, P);
  var columns: array<vec3u, B_LOADS>;
  for (var i = 0u; i < B_LOADS; i++) {
    columns[i] = column_of(column0 + (thread + i * THREADS) / BK);
  }
  let m_first = subgroup / SN * TM * MM;
  let n_first = subgroup % SN * TN * MN;
  var sums: array<array<Sums, TN>, TM>;
  var share = fetch(first, end, m0, columns, thread);
  for (var t0 = first; t0 < end; t0 += BK) {
    for (var i = 0u; i < A_LOADS; i++) {
      let e = thread + i * THREADS;
      as_[e / BK * A_PITCH + e % BK] = share.a[i];
    }
    for (var i = 0u; i < B_LOADS; i++) {
      let e = thread + i * THREADS;
      bs[e / BK * B_PITCH + e % BK] = share.b[i];
    }
    workgroupBarrier(); // both tiles are whole
    share = fetch(t0 + BK, end, m0, columns, thread);
    for (var k = 0u; k < BK; k += MK) {
      var lefts: array<Left, TM>;
      for (var i = 0u; i < TM; i++) {
        lefts[i] = subgroupMatrixLoad<Left, row_major>(&as_, (m_first + i * MM) * A_PITCH + k, A_PITCH);
      }
      for (var j = 0u; j < TN; j++) {
        let r = subgroupMatrixLoad<Right, col_major>(&bs, (n_first + j * MN) * B_PITCH + k, B_PITCH);
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
        if (m < p.K && column < width) {
          parts[tile.z * p.stride + m * width + column] = patches[owner * PATCH + e];
        }
      }
      workgroupBarrier(); // and free again
    }
  }
}
